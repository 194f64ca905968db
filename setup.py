"""Settings, named sweeps and the paper's claims are read from the checkout, so that a wheel without them is refused."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class Refused(bdist_wheel):
    """``pip install .`` ends here; ``pip install -e .``, as `make setup` does it, works."""

    def run(self) -> None:
        raise SystemExit("error: this project runs from its checkout: type `make setup` there, or `pip install -e .`")


setup(cmdclass={"bdist_wheel": Refused})
