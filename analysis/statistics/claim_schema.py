"""What a file of claims may say: its keys, what each must be, and one line about the first thing that is wrong.

``claim_file`` reads a file that has passed.
"""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.runs.load import AnalysisError
from analysis.statistics.quantities import BENCHMARKS, UNITS
from analysis.statistics.recorded import is_known, names, over_validations
from analysis.statistics.windows import N_MIN, USUAL

DIRECTIONS = (">", "<", "within")
ALWAYS = ("final", "run")  # windows that need no definition
MEANT = {  # what others call it -> its key here
    "outcome": "quantity", "metric_name": "quantity", "margin": "delta", "threshold": "than", "name": "id",
    "statement": "claim", "min_runs": N_MIN, "seeds": N_MIN, "alpha": "level", "window_steps": "windows",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a value must be: in words, and a test."""

    words: str
    fits: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _steps(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count, value)) and value[0] <= value[1]


def _window(value: Any) -> bool:
    if isinstance(value, Mapping):
        share, known = value.get("share", 0), set(value) <= {"share", "at_least"}
        return known and _number(share) and 0 < share <= 1 and _count(value.get("at_least", 1))
    return _steps(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


TEXT = Kind("text", lambda value: isinstance(value, str) and bool(value))
NUMBER = Kind("a number", _number)
COUNT = Kind("a whole number of at least 1", _count)
LEVEL = Kind("a number between 0 and 1, such as 0.95", lambda value: _number(value) and 0 < value < 1)
MAPPING = Kind("a mapping", lambda value: isinstance(value, Mapping) and bool(value))
ENTRIES = Kind(
    "a list of mappings", lambda v: isinstance(v, list) and bool(v) and all(isinstance(o, Mapping) for o in v)
)
WINDOW = Kind("two steps, [10, 30], or the last part of training, {share: 0.2}", _window)
WINDOWS = Kind(
    f"a mapping of names to {WINDOW.words}", lambda v: isinstance(v, Mapping) and all(map(_window, v.values()))
)
EARLIER = Kind(
    "a mapping of hashes to lists of experiments", lambda v: isinstance(v, Mapping) and all(map(_texts, v.values()))
)
LISTED = Kind("a list of names, or a mapping of them", lambda value: _texts(value) or isinstance(value, Mapping))

FILE = {
    "level": LEVEL, N_MIN: COUNT, "windows": WINDOWS, "baseline": TEXT, "rules": MAPPING, "experiments": LISTED,
    "earlier": EARLIER, "claims": ENTRIES,
}  # fmt: skip
EXPERIMENT = {"rules": TEXT, "delta": TEXT, "column": TEXT, "note": TEXT}
CLAIM = {
    "id": TEXT,
    "claim": TEXT,
    "where": TEXT,
    "row": TEXT,
    "metric": TEXT,
    "quantity": TEXT,
    "arms": Kind("a list of one or two arms, [mine, gspo]", lambda value: _texts(value) and len(value) <= 2),
    "window": Kind(
        "the name of a window, or two steps, [10, 30]", lambda v: _steps(v) or (isinstance(v, str) and v != "")
    ),
    "direction": Kind('">", "<" or within', lambda value: value in DIRECTIONS),
    "unit": TEXT,
    "delta": Kind(
        "a number", lambda v: _number(v) or (isinstance(v, Mapping) and bool(v) and all(map(_number, v.values())))
    ),
    "than": NUMBER,
    "range": Kind(
        "two numbers, the smaller one first",
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number, v)) and v[0] < v[1],
    ),
    "primary": Kind("true or false", lambda value: isinstance(value, bool)),
    N_MIN: COUNT,
    "experiments": Kind("a list of names", _texts),
    "against": TEXT,
    "rows": ENTRIES,
}
REQUIRED = ("id", "claim", "quantity", "arms", "window", "direction")


def require_valid(content: Any, file: str, recorded: Collection[str] = ()) -> None:
    """Raise ``AnalysisError`` with one line, what is wrong, in which entry, and what would be right.

    content: the file as YAML has it. recorded: metrics of the runs that it is to be decided on, () before there are
    any.
    """
    if not isinstance(content, Mapping):
        raise AnalysisError(f"{file}: a file of claims begins with `claims:` and a list of them (docs/claims.md)")
    _typed(content, FILE, file)
    if "claims" not in content:
        raise AnalysisError(f"{file}: no key claims, the list of them (docs/claims.md)")
    for name, rules in content.get("rules", {}).items():
        if not isinstance(rules, Mapping):
            raise AnalysisError(f"{file}:rules.{name}: must be a mapping, not {rules!r}")
        for key, value in rules.items():
            _fits(value, COUNT if key == N_MIN else WINDOW, f"{file}:rules.{name}", key)
    experiments = content.get("experiments", {})
    if isinstance(experiments, Mapping):
        for name, entry in experiments.items():
            if not isinstance(entry, Mapping):
                raise AnalysisError(f"{file}:experiments.{name}: must be a mapping, not {entry!r}")
            _typed(entry, EXPERIMENT, f"{file}:experiments.{name}")
            if "rules" in entry:
                known = content.get("rules", {})
                _one_of(entry["rules"], known, f"{file}:experiments.{name}", "no entry {} of rules")
    windows = {*USUAL, *ALWAYS, *content.get("windows", {})} - {N_MIN}
    windows |= {key for rules in content.get("rules", {}).values() for key in rules if key != N_MIN}
    seen: set[tuple[str, str]] = set()
    for where, row in rows_of(content, file):
        _require_claim(row, where, experiments, windows, recorded)
        if (row["id"], row.get("row", "")) in seen:
            raise AnalysisError(f"{where}: this id is there twice; give each claim, and each of its rows, its own")
        seen.add((row["id"], row.get("row", "")))


def rows_of(content: Mapping[str, Any], file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, its fields) of every row: those of its claim, and what the row has beside or instead."""
    for number, entry in enumerate(content["claims"], 1):
        where = f"{file}:{entry.get('id') or f'claims[{number}]'}"
        _typed(entry, CLAIM, where)
        shared = {key: value for key, value in entry.items() if key != "rows"}
        for row in entry.get("rows", [{}]):
            at = f"{where} ({row['row']})" if row.get("row") else where
            _typed(row, {key: kind for key, kind in CLAIM.items() if key != "rows"}, at)
            yield at, {**shared, **row}


def nearest(name: str, known: Collection[str], most: int = 12) -> str:
    """``; did you mean X?`` for a name that is close to a known one, else the known ones, ``most`` of them."""
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean {near[0]}?"
    some = list(known)[:most]
    return f"; there are {', '.join(some)}{', ...' if len(known) > most else ''}" if some else ""


def _require_claim(
    row: Mapping[str, Any],
    where: str,
    experiments: Collection[str],
    windows: Collection[str],
    recorded: Collection[str],
) -> None:
    for key in REQUIRED:
        if key not in row:
            raise AnalysisError(f"{where}: no key {key}; a claim needs {', '.join(REQUIRED)}")
    quantity, unit = row["quantity"], row.get("unit")
    if not is_known(quantity, recorded):
        raise AnalysisError(f"{where}: unknown quantity {quantity!r}{nearest(quantity, names(recorded))}")
    if unit and UNITS.get(quantity, unit) != unit:
        raise AnalysisError(f"{where}: the unit of {quantity} is {UNITS[quantity]}, not {unit}; leave unit out")
    unit = unit or UNITS.get(quantity, "")
    if isinstance(row["window"], str):
        _one_of(row["window"], windows, where, "unknown window {}")
    if over_validations(quantity) and row["window"] != "final":
        raise AnalysisError(f"{where}: {quantity} is measured at the end, so its window is final, not {row['window']}")
    if quantity == BENCHMARKS and len(row["arms"]) < 2:
        raise AnalysisError(f"{where}: {quantity} compares two arms; name both")
    if "against" in row and len(row["arms"]) > 1:
        raise AnalysisError(f"{where}: against compares one arm in two experiments; name one arm")
    for name in (*row.get("experiments", ()), *([row["against"]] if "against" in row else [])):
        if experiments:
            _one_of(name, experiments, where, "no experiment {} is listed in this file")
    _require_sizes(row, unit, where)


def _require_sizes(row: Mapping[str, Any], unit: str, where: str) -> None:
    """That delta, than and range are of the unit, and there where the direction needs them."""
    given = row.get("delta")
    deltas = list(given.values()) if isinstance(given, Mapping) else [] if given is None else [given]
    least = 1 if unit == "ratio" else 0
    if deltas and min(deltas) < least:
        what = "a ratio of at least 1 (1.10 is 10 %)" if least else "0 or more"
        raise AnalysisError(f"{where}: delta is the smallest effect that matters, {what}, not {min(deltas)}")
    if unit == "ratio" and min((*row.get("range", ()), row.get("than", 1))) <= 0:
        raise AnalysisError(f"{where}: than and range are ratios here, above 0")
    if row["direction"] == "within" and "range" not in row and not deltas:
        raise AnalysisError(f"{where}: direction within needs range, or delta for a range around no effect")
    if row["direction"] != "within" and "range" in row:
        raise AnalysisError(f"{where}: range goes with direction within, not with {row['direction']}")


def _typed(entry: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> None:
    for key, value in entry.items():
        if key not in kinds:
            meant = MEANT.get(str(key), "")
            said = f"; did you mean {meant}?" if meant in kinds else nearest(str(key), kinds, most=20)
            raise AnalysisError(f"{where}: unknown key {key!r}{said}")
        _fits(value, kinds[key], where, key)


def _fits(value: Any, kind: Kind, where: str, key: str) -> None:
    if not kind.fits(value):
        raise AnalysisError(f"{where}: {key} must be {kind.words}, not {value!r}")


def _one_of(name: str, known: Collection[str], where: str, what: str) -> None:
    if name not in known:
        raise AnalysisError(f"{where}: {what.format(repr(name))}{nearest(name, sorted(known))}")
