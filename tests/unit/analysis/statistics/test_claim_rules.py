"""Every rule that can be decided reaches each of its verdicts, on runs made for it; equal arms seldom differ."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import NARROW, write_run, write_sequences
from scipy import stats

from analysis import Runs, load_runs
from analysis.paper.claims import paper_claims
from analysis.statistics.claim_file import Claim
from analysis.statistics.claims import evaluate
from analysis.statistics.pairs import Sample
from analysis.statistics.quantities import QUANTITIES
from harness.rundir import STANDARD_METRICS

CLAIMS = paper_claims()
STEPS = 20
ONES = np.ones(STEPS)

# Where the runs must lie, in the claim's unit, for a verdict. `wide` is the centre of runs that differ too much.
CENTRES: dict[tuple[str, str], list[tuple[str, float]]] = {
    ("C1", ""): [("supported", 1.5), ("contradicted", 0.7), ("negligible", 1.0), ("wide", 1.2)],
    ("C2", ""): [("supported", 1.5), ("contradicted", 1.0), ("contradicted", 2.0), ("wide", 1.5), ("undecided", 1.27)],
    ("C3", ""): [("supported", 1.3), ("contradicted", 0.8), ("negligible", 1.0), ("wide", 1.2)],
    ("C4", "GSPO"): [("supported", 0.7), ("contradicted", 1.0), ("wide", 0.8)],
    ("C4", "GRPO"): [("supported", 1.3), ("contradicted", 0.7), ("wide", 1.1)],
    ("C4", "LUSPO"): [("supported", 1.0), ("contradicted", 0.7), ("wide", 1.0)],
    **{
        ("C5", row): [("supported", 1.3), ("contradicted", 0.7), ("wide", 1.1)]
        for row in ("grows on the mix", "grows on the mix, in miniature")
    },
    **{
        ("C5", row): [("supported", 0.7), ("contradicted", 1.3), ("wide", 0.9)]
        for row in ("shrinks on ViRL39K", "shrinks on images alone, in miniature")
    },
    **{
        ("C6", row): [("supported", 30), ("contradicted", 0.5), ("negligible", 2.0), ("wide", 10)]
        for row in ("", "own ranges", "shared range")
    },
    ("C7", "GSPO"): [("supported", 2.0), ("contradicted", 0.5), ("negligible", 1.0), ("wide", 1.5)],
    ("C8", "GSPO"): [("supported", 10), ("contradicted", -10), ("negligible", 0), ("wide", 5)],
    ("C8", "negligible under GRPO"): [("supported", 0), ("contradicted", 10), ("contradicted", -10), ("wide", 0)],
    **{
        ("C11", row): [("supported", 5), ("contradicted", -5), ("negligible", 0), ("wide", 5)]
        for row in ("equal steps", "equal tokens", "equal steps, early", "equal tokens, early")
    },
    ("C12", ""): [("supported", 5), ("contradicted", -5), ("negligible", 0), ("wide", 5)],
}
CASES = [
    (name, verdict, centre)
    for name, cases in CENTRES.items()
    for verdict, centre in (*cases, ("not tested", cases[0][1]))
]
SPREAD = {"ratio": (0.005, 1.5), "points": (0.1, 30)}  # half the range of the runs: narrow, wide; ratios as logarithms


def in_memory(arms: Mapping[str, Mapping[str, np.ndarray]], experiment: str = "tiny") -> Runs:
    """Finished runs without files. A metric of an arm is an array seeds x steps, or one that broadcasts to it."""
    rows, metrics = [], []
    for arm, arrays in arms.items():
        seeds, steps = np.broadcast_shapes(*(of.shape for of in arrays.values()))
        values = pd.DataFrame({name: np.broadcast_to(of, (seeds, steps)).ravel() for name, of in arrays.items()})
        seed, step = np.indices((seeds, steps)).reshape(2, -1)
        keys = pd.DataFrame({"experiment": experiment, "arm": arm, "algo": arm.split(",")[0], "seed": range(seeds)})
        keys.insert(0, "run", [f"{experiment}/{arm}/seed={seed}" for seed in range(seeds)])
        metrics.append(pd.concat([keys.loc[seed].reset_index(drop=True).assign(step=step + 1), values], axis=1))
        rows.append(keys.assign(fingerprint="f", state="done", cause="", last_step=steps, planned_steps=steps))
    runs = pd.concat(rows, ignore_index=True)
    frame = pd.concat(metrics, ignore_index=True)
    missing = {name: math.nan for name in STANDARD_METRICS if name not in frame}
    return Runs(runs, frame.assign(**missing), {run: {} for run in runs["run"]})


# The metrics of an arm, from a column of effects: one a seed, against an arm without effect if the claim has two.
METRICS: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "length": lambda at: {"response_length": 20 * at * ONES},
    "length_change": lambda at: {"response_length": np.where(np.arange(STEPS) < 10, 20, 20 * at)},
    "growth": lambda at: {"response_length": 20 * at ** (np.arange(STEPS) / STEPS)},
    "validation_length": lambda at: {"response_length": 9 * ONES, "val_response_length": 20 * at * ONES},
    "clipped_tokens": lambda at: {"response_length": 9 * ONES, "clip_tokens": at * ONES, "clip_tokens_of": 1e4 * ONES},
    "accuracy": lambda at: {"response_length": 9 * ONES, "accuracy": 0.4 + at / 100 * ONES},
    "accuracy_at_equal_tokens": lambda at: {**METRICS["accuracy"](at), "tokens": 150 * ONES},
    "validation_accuracy": lambda at: {"response_length": 9 * ONES, "val_accuracy": 0.4 + at / 100 * ONES},
}


def runs_with(claim: Claim, effects: np.ndarray, root: Path) -> Runs:
    """Runs of the claim's arms with these effects, one a seed in the claim's unit."""
    assert claim.quantity
    if claim.quantity not in METRICS:
        return responses_with(claim, effects, root)
    names = [arm.split("|")[0] for arm in claim.arms]
    neutral = np.full_like(effects, 1 if claim.unit == "ratio" else 0)
    arrays = [METRICS[claim.quantity](of[:, None]) for of in (effects, neutral)]
    return in_memory(dict(zip(names, arrays, strict=False)), claim.experiments[0])


def responses_with(claim: Claim, effects: np.ndarray, root: Path) -> Runs:
    """The same for quantities of single responses, which are read from files: 400 of either sign of advantage."""
    advantage = np.repeat([-1.0, 1.0], 400)
    for seed, effect in enumerate(effects):
        if claim.unit == "points":  # keep all positive and that share of the negative, or the other way round
            share = 0.5 + effect / 100
            kept = (1 - share) / share
            clipped = [round(400 * (1 - min(1, kept))), round(400 * (1 - min(1, 1 / kept)))]
        else:
            clipped = [round(100 * effect**0.5), round(100 / effect**0.5)]
        flags = np.concatenate([np.arange(400) < count for count in clipped])
        run = write_run(
            root, {"response_length": [9.0]}, arm=claim.arms[0], seed=seed, experiment="tiny", manifest=NARROW
        )
        columns = {"tokens": 10, "update": 2, "advantage": advantage, "clipped": 10 * flags}
        write_sequences(run.attempts()[-1], 1, **columns)  # pyright: ignore[reportArgumentType]
    return load_runs(root)


def family(*rows: Claim):
    """The claims file with these rows beside the primary ones, which make up Holm's family."""
    return replace(CLAIMS, rows=tuple(claim for claim in CLAIMS.rows if claim.primary or claim in rows))


@pytest.mark.parametrize(("name", "expected", "centre"), CASES)
def test_every_rule_reaches_its_verdicts(tmp_path: Path, name: tuple[str, str], expected: str, centre: float) -> None:
    (claim,) = [row for row in CLAIMS.rows if (row.id, row.row) == name]
    n_min = CLAIMS.rules[CLAIMS.experiments[claim.experiments[0]]["rules"]]["n_min"]
    n = n_min - (expected == "not tested")
    deviations = SPREAD[claim.unit][expected == "wide"] * np.linspace(-1, 1, n)
    effects = centre * np.exp(deviations) if claim.unit == "ratio" else centre + deviations
    results = evaluate(runs_with(claim, effects, tmp_path), family(claim))
    (result,) = [r for r in results if (r.claim.id, r.claim.row) == name]
    assert result.verdict == ("undecided" if expected == "wide" else expected)
    values = list(result.record()["values"].values())
    assert values == pytest.approx(list(effects), rel=0.05, abs=0.5 if claim.unit == "points" else 0)


def test_every_rule_that_is_decidable_has_its_cases() -> None:
    # Length pressure (C9, C10), a contrast of experiments and the lost runs (C15) have tests of their own.
    decidable = [c for c in CLAIMS.rows if c.quantity in QUANTITIES and c.id not in ("C9", "C10", "C15")]
    decidable = [c for c in decidable if not c.against]
    assert {(claim.id, claim.row) for claim in decidable} == set(CENTRES)
    for claim in decidable:
        # Inside plus/minus delta needs a delta, and a range has none.
        negligible = {"negligible"} if claim.delta else set()
        assert {v for v, _ in CENTRES[claim.id, claim.row]} - {"undecided"} == {
            "supported",
            "contradicted",
            "wide",
        } | negligible


def noisy(rng: np.random.Generator, seeds: int) -> dict[str, np.ndarray]:
    """Runs of one arm that differ so much that no delta protects from chance: the worst case for a rule."""
    length = 20 * np.exp(rng.normal(0, 0.5, (seeds, 1)) + rng.normal(0, 0.03, (seeds, 1)) * np.arange(STEPS))
    return {
        "response_length": length * np.exp(rng.normal(0, 0.1, (seeds, STEPS))),
        "tokens": 128 * length,
        "accuracy": 0.5 + rng.normal(0, 0.2, (seeds, 1)) + rng.normal(0, 0.05, (seeds, STEPS)),
        "clip_tokens": 1e30 * np.exp(rng.normal(0, 10, (seeds, 1))) * ONES,
        "clip_tokens_of": 1e40 * ONES,
    }


def test_equal_arms_are_told_apart_as_seldom_as_the_level_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, pairs, experiments = np.random.default_rng(0), 60, 1000
    rows = family(*(claim for claim in CLAIMS.rows if claim.id == "C3"))
    pool = evaluate(in_memory({arm: noisy(rng, pairs) for arm in ("luspo", "gspo", "grpo")}), rows)
    samples = {(result.claim.id, result.claim.row): result.sample for result in pool}
    tested = [name for name, sample in samples.items() if not sample.missing]
    assert {name for name, _ in tested} == {"C1", "C3", "C6", "C11"}
    assert all(len(samples[name].values) == pairs for name in tested)

    # An experiment is five pairs of the pool, and a coin decides which run of a pair has which arm's name.
    named = in_memory({"gspo": {"response_length": np.ones((1, STEPS))}})
    drawn: dict[tuple[str, str], Sample] = {}
    monkeypatch.setattr("analysis.statistics.claims.members_of", lambda *_: [])
    monkeypatch.setattr("analysis.statistics.claims.sample_of", lambda members, claim, *_: drawn[claim.id, claim.row])
    verdicts = []
    for _ in range(experiments):
        chosen = rng.choice(pairs, 5, replace=False)
        coins: dict[tuple[str, ...], np.ndarray] = {
            arms: rng.choice([-1, 1], 5) for arms in (("luspo", "gspo"), ("gspo", "grpo"))
        }
        drawn = dict(samples)
        for name in tested:
            values, coin = samples[name].values, coins[samples[name].arms]
            pairs_drawn = {s: values[s][::c] for s, c in zip(chosen, coin, strict=True)}
            drawn[name] = replace(samples[name], values=pairs_drawn, mixed="")  # that a run collapsed would cap it
        verdicts.append([result.verdict for result in evaluate(named, rows)])

    frame = pd.DataFrame(verdicts, columns=list(samples))[tested]
    for verdict in ("supported", "contradicted"):
        said = frame == verdict
        single, any_primary = said.sum(), said.drop(columns=[("C3", "")]).any(axis=1).sum()
        # One side of a level of 95 % for each; for the primary claims together both sides are one level.
        assert single.max() <= stats.binom.isf(1e-4, experiments, 0.025), single
        assert any_primary <= stats.binom.isf(1e-4, experiments, 0.05)
        assert single[("C3", "")] >= stats.binom.ppf(1e-4, experiments, 0.015)  # not because nothing is ever found
