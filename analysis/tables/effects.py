"""An effect of a report, a record with estimate, low, high, n and unit, as an entry of a table."""

from typing import Any

from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.claim_file import three_digits
from analysis.tables.table import Entry

UNITS = {"ratio": " x", "points": " points", "tokens": " tokens"}


def effect_entry(record: dict[str, Any], text: str, **kwargs: Any) -> Entry:
    """The entry with this text and the record's numbers; NaN for what it does not have."""
    numbers = {"mean": record["estimate"], "low": record["low"], "high": record["high"], "n": record["n"]}
    return Entry(text, **{name: float("nan") if value is None else value for name, value in numbers.items()}, **kwargs)


def effect_text(record: dict[str, Any], n: bool = False) -> str:
    """Estimate and interval in the record's unit; without an interval the estimate alone; ``n``: and how many."""
    if record["estimate"] is None or not record["n"]:
        return "not tested"
    signed = record["unit"] != "ratio"
    estimate, low, high = (
        "" if value is None else f"{value:+.2f}" if signed else three_digits(value)
        for value in (record["estimate"], record["low"], record["high"])
    )
    interval = f" [{low}, {high}]" if record["n"] >= MIN_T_RUNS else ""
    return estimate + UNITS[record["unit"]] + interval + f" ({record['n']})" * n
