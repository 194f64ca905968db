"""What the losses write: recorded responses to one prompt at one step and seed, an arm beside the other."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.runs.load import Runs
from analysis.statistics.arms import rank
from harness.rundir import RunDir, RunDirError, read_texts

EMBEDDED = 1_500_000  # characters of responses in the page, of one experiment, at most
STEPS = 40  # of a kind of prompts at most: a slider has no more places
LONGEST, BEGINNING, END = 2400, 1600, 700  # characters of one text, and what is shown of a longer one
KINDS = {"validation": "validation prompts", "training": "training prompts of the step"}
CONTROL_PICTURES = 0x2400  # Unicode's signs for the control characters
KEPT = "\n\t"

Unit = tuple[str, int, int, int]  # kind, step, place of the prompt, seed


def responses(runs: Runs) -> dict[str, Any]:
    """What can be shown side by side of the runs of one experiment.

    Returns plain lists and texts: ``arms``, ``seeds``, ``kinds`` (id, label, number of prompts, steps), ``units``: one
    for each prompt, step and seed, with its prompt and by arm its response (text, facts in words, and its
    own prompt if that is another), ``shown`` and ``recorded``, numbers of responses, ``unread``, a sentence for
    each run whose texts cannot be read. Without recorded texts there are no units.
    """
    arms = sorted(map(str, runs.runs["arm"].unique()), key=lambda arm: (_rank(runs, arm), arm))
    found: dict[Unit, dict[int, Mapping[str, Any]]] = {}
    unread = []
    for run in runs.runs.to_dict("records"):
        try:
            texts = read_texts(RunDir(Path(run["path"])))
        except (RunDirError, OSError) as error:
            unread.append(f"{run['run']}: {error}.")
            continue
        for unit, row in _placed(texts, int(run["seed"])):
            found.setdefault(unit, {})[arms.index(run["arm"])] = row
    chosen = _chosen(found)
    units = [_unit(unit, found[unit]) for unit in chosen]
    return {
        "arms": arms,
        "seeds": sorted({unit[3] for unit in chosen}),
        "kinds": [
            {
                "id": kind,
                "label": label,
                "prompts": 1 + max(unit[2] for unit in chosen if unit[0] == kind),
                "steps": sorted({unit[1] for unit in chosen if unit[0] == kind}),
            }
            for kind, label in KINDS.items()
            if any(unit[0] == kind for unit in chosen)
        ],
        "units": units,
        "shown": sum(len(found[unit]) for unit in chosen),
        "recorded": sum(map(len, found.values())),
        "unread": unread,
    }


def facts(row: Mapping[str, Any]) -> str:
    """Right or wrong, length, and what was clipped of a response (``rundir.TEXT_COLUMNS``); what is not known is left
    out."""
    accuracy, tokens, clipped = row.get("accuracy"), row.get("tokens"), row.get("clipped")
    graded = {1.0: "\u2713 right", 0.0: "\u2717 wrong"}
    said = [] if accuracy is None else [graded.get(accuracy, f"accuracy {accuracy:.2g}")]
    said += [] if tokens is None else [f"{tokens:,} token{'s' * (tokens != 1)}"]
    said += [] if clipped is None else [f"{clipped:,} clipped"]
    said += ["cut off at the limit"] if row.get("truncated") else []
    return ", ".join(said)


def visible(text: str) -> str:
    """The text as a page can show it: control and other invisible signs by a picture or by number, long ones cut.

    Newlines and tabs stay. What would turn the direction of the text around, and halves of pairs that no file can
    hold, are shown as ``<U+202E>``.
    """
    if len(text) > LONGEST:
        left_out = len(text) - BEGINNING - END
        text = f"{text[:BEGINNING]}\n[{left_out:,} characters are left out here]\n{text[-END:]}"
    return "".join(map(_visible, text))


def _visible(sign: str) -> str:
    if sign in KEPT:
        return sign
    kind = unicodedata.category(sign)
    if kind == "Cc":
        return (
            chr(CONTROL_PICTURES + ord(sign))
            if ord(sign) < 0x20
            else "\u2421"
            if sign == "\x7f"
            else f"<U+{ord(sign):04X}>"
        )
    return f"<U+{ord(sign):04X}>" if kind in ("Cf", "Cs", "Zl", "Zp") and sign != "\u200d" else sign


def _placed(texts: Sequence[Mapping[str, Any]], seed: int) -> Iterable[tuple[Unit, Mapping[str, Any]]]:
    """Each text with its unit; a training prompt's place is that among the prompts of its step."""
    places: dict[tuple[str, int], list[Any]] = {}
    for row in texts:
        kind, step = row.get("of"), row["step"]
        if kind not in KINDS:
            continue
        ids = places.setdefault((kind, step), [])
        if row.get("prompt_id") not in ids:
            ids.append(row.get("prompt_id"))
        yield (kind, step, ids.index(row.get("prompt_id")), seed), row


def _chosen(found: Mapping[Unit, Mapping[int, Mapping[str, Any]]]) -> list[Unit]:
    """The units that fit into the page: at most ``STEPS`` steps of a kind, then by seed and kind until it is full."""
    steps = {kind: _evenly(sorted({unit[1] for unit in found if unit[0] == kind})) for kind in KINDS}
    order = list(KINDS)
    chosen, room = [], EMBEDDED
    for unit in sorted(found, key=lambda unit: (unit[3], order.index(unit[0]), unit[2], unit[1])):
        size = sum(min(LONGEST, len(row["response"])) for row in found[unit].values())
        if unit[1] in steps[unit[0]] and size <= room:
            chosen.append(unit)
            room -= size
    return chosen


def _evenly(steps: Sequence[int]) -> set[int]:
    if len(steps) <= STEPS:
        return set(steps)
    return {steps[round(at * (len(steps) - 1) / (STEPS - 1))] for at in range(STEPS)}


def _unit(unit: Unit, rows: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    kind, step, place, seed = unit
    prompt = str(next(iter(rows.values())).get("prompt", ""))
    return {
        "kind": kind,
        "step": step,
        "place": place,
        "seed": seed,
        "prompt": visible(prompt),
        "by": {
            str(arm): {
                "text": visible(row["response"]),
                "facts": facts(row),
                **({"prompt": visible(str(row.get("prompt", "")))} if row.get("prompt", "") != prompt else {}),
            }
            for arm, row in sorted(rows.items())
        },
    }


def _rank(runs: Runs, arm: str) -> int:
    algos = runs.runs.loc[runs.runs["arm"] == arm, "algo"]
    return min(rank(str(algo)) for algo in algos)
