"""Seeds until it is decided, as a sweep is asked for it: words of the command line, and what they make of its grid.

    python -m sweeps run decided experiment=tiny algo=gspo,luspo seed=0 until=decided max_seeds=20 claim=luspo:gspo

``until=decided`` can be said of any named sweep of one experiment. ``seed`` are then the seeds to start from, and
``claim``, which may be repeated, the pairs of arms that are to be decided: without it those that a report compares.
``claims=FILE`` is a file of claims in their place, whose primary ones are to be decided (docs/claims.md); every run
keeps its hash.
``key=values`` replaces the values of a key of the grid, of any sweep.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.config import ConfigError
from sweeps.definition import Sweep
from sweeps.trials import SEED

UNTIL, MAX_SEEDS, CLAIM, CLAIMS = "until", "max_seeds", "claim", "claims"
WORDS = (UNTIL, MAX_SEEDS, CLAIM, CLAIMS)
DECIDED = "decided"  # the one thing that a sweep can wait for
EXPERIMENT = "experiment"
FIRST_LOOK = 3  # seeds; the rule's own, ``analysis.statistics.sequential`` (a test compares them)
DEFAULT_MAX = 20


def adjusted(sweep: Sweep, overrides: Sequence[str]) -> tuple[Sweep, list[str]]:
    """(the sweep that these words make of it, the other overrides, which are for all trials).

    A sweep with ``until`` is named after its experiment too, and has every seed that may come to be trained in its
    grid; ``until`` then has all of: start (the seeds that are trained in any case), max_seeds and claim. Raises
    ``ConfigError`` for words that do not fit.
    """
    split = [(word, *word.partition("=")[::2]) for word in overrides]
    grid = {key: _values(word, value) for word, key, value in split if key in sweep.grid and value}
    asked: dict[str, Any] = {key: value for _, key, value in split if key in (UNTIL, MAX_SEEDS, CLAIMS)}
    claims = [value for _, key, value in split if key == CLAIM]
    rest = [word for word, key, value in split if not value or key not in (*sweep.grid, *WORDS)]
    rest += [f"harness.claims={Path(value).resolve()}" for _, key, value in split if key == CLAIMS]
    sweep = _with_grid(sweep, grid)
    if UNTIL in asked and asked[UNTIL] != DECIDED:
        raise ConfigError(f"until={asked[UNTIL]}: a sweep can wait for one thing only, until={DECIDED}")
    if UNTIL not in asked and not sweep.until:
        given = [word for word, key, _ in split if key in WORDS]
        if given:
            raise ConfigError(f"{given[0]} says how to decide, so until={DECIDED} must be there too")
        return sweep, rest
    return _until(sweep, {**sweep.until, **asked} | ({CLAIM: claims} if claims else {})), rest


def _until(sweep: Sweep, asked: dict[str, Any]) -> Sweep:
    unknown = [key for key in asked if key not in WORDS]
    if unknown:
        raise ConfigError(
            f"sweep {sweep.name}: until.{unknown[0]}: no such key; there are {MAX_SEEDS}, {CLAIM}, {CLAIMS}"
        )
    experiments = sweep.grid.get(EXPERIMENT, [])
    if len(experiments) > 1:
        raise ConfigError(
            f"until={DECIDED} decides one experiment, and sweep {sweep.name} has {', '.join(map(str, experiments))}; "
            f"choose, such as {EXPERIMENT}={experiments[0]}"
        )
    start = sweep.grid.get(SEED, [0])
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in start):
        raise ConfigError(f"{SEED} must be whole numbers of at least 0, got {','.join(map(str, start))}")
    most = str(asked.get(MAX_SEEDS, DEFAULT_MAX))
    if not most.isdigit() or int(most) < FIRST_LOOK:
        raise ConfigError(
            f"max_seeds={most}: must be a whole number of at least {FIRST_LOOK}, the seeds of the first look"
        )
    if len(start) > int(most):
        raise ConfigError(f"max_seeds={most}: {SEED} already names {len(start)} seeds to start from")
    further = range(max(start) + 1, max(start) + 1 + int(most) - len(start))
    seeds = [*start, *further]
    claims = [claims] if isinstance(claims := asked.get(CLAIM, []), str) else claims
    if not isinstance(claims, list) or not all(isinstance(claim, str) for claim in claims):
        raise ConfigError(
            f"sweep {sweep.name}: until.{CLAIM} must be pairs of arms, such as [luspo:gspo], not {claims!r}"
        )
    file = asked.get(CLAIMS, "")
    if not isinstance(file, str) or (file and claims):
        raise ConfigError(f"sweep {sweep.name}: give one of {CLAIM}, pairs of arms, and {CLAIMS}, a file of claims")
    until = {"start": seeds[: max(len(start), FIRST_LOOK)], MAX_SEEDS: int(most), CLAIM: claims}
    until |= {CLAIMS: file} if file else {}
    name = "-".join([sweep.name, *map(str, experiments)])
    return replace(sweep, name=name, grid={**sweep.grid, SEED: seeds}, until=until)


def _values(word: str, text: str) -> list[Any]:
    if text[0] in "[{":  # Hydra's own list or mapping: one value
        return [text]
    try:
        return [yaml.safe_load(one) for one in text.split(",")]
    except yaml.YAMLError:
        raise ConfigError(f"{word}: expected values with commas between") from None


def _with_grid(sweep: Sweep, grid: dict[str, list[Any]]) -> Sweep:
    """The sweep with these values in its grid, without the rules that would never hold any more."""
    whole = {**sweep.grid, **grid}

    def holds(rule: dict[str, Any]) -> bool:
        return all(value in whole[key] for key, value in rule.items())

    return replace(
        sweep,
        grid=whole,
        exclude=[rule for rule in sweep.exclude if holds(rule)],
        priority=[rule for rule in sweep.priority if holds(rule["when"])],
    )
