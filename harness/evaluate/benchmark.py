"""A benchmark: which questions, how many answers to each, sampled how. Files of conf/benchmark."""

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf

from harness.config import ConfigError
from harness.paths import CONF

BENCHMARKS = CONF / "benchmark"
KINDS = {int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Benchmark:
    """One file of conf/benchmark. file: parquet in verl's schema; k: answers to each question."""

    name: str
    file: str
    k: int
    temperature: float
    top_p: float
    top_k: int
    max_prompt_length: int
    max_response_length: int


def load_benchmark(name: str, /, **given: Any) -> Benchmark:
    """The benchmark of that name with the given values in place of its own; raises ``ConfigError``."""
    path = BENCHMARKS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in BENCHMARKS.glob("*.yaml")))
        raise ConfigError(f"benchmark={name}: no {path.relative_to(CONF.parent)}; there are {known}")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    kinds = {field.name: field.type for field in fields(Benchmark) if field.name != "name"}
    unknown = given.keys() - kinds.keys()
    if unknown:
        raise ConfigError(f"unknown key {', '.join(sorted(unknown))}; there are {', '.join(kinds)}")
    benchmark = Benchmark(name, **{key: as_kind(key, value, kinds[key]) for key, value in {**content, **given}.items()})
    if benchmark.k < 1:
        raise ConfigError(f"k={benchmark.k}: must be at least 1 (answers to each question)")
    return benchmark


def as_kind(key: str, value: Any, kind: Any) -> Any:
    """The value as ``kind``, so that 1 and 1.0 are the same setting; raises ``ConfigError`` where it is none."""
    try:
        if (found := kind(value)) == value:
            return found
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{key}={value}: expected {KINDS[kind]}")
