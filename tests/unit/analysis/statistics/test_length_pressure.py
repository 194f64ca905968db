"""Length pressure against policies that can be enumerated, in float64, and against rules on constructed runs.

The policy of ``TREE`` is autoregressive, over "a", "b" and the end, with conditional probabilities in sixths, so that
each response is there 216 times its probability and a batch of 216 rows *is* the policy. Derivatives are by complex
step, x + 1e-30 i, exact to rounding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run, write_sequences
from scipy import stats

from analysis import AnalysisError, load_runs
from analysis.paper.claims import paper_claims
from analysis.statistics.claims import evaluate
from analysis.statistics.length_pressure import (
    COLUMNS,
    LOSSES,
    STAGES,
    Batches,
    Clip,
    arm_intervals,
    batch_pressure,
    loss_bias,
    loss_of,
    pressure_frame,
    prompt_pressure,
    run_means,
    stages,
    undefined,
)
from harness.rundir.known_losses import AGGREGATION, MODE
from harness.rundir.schema import upgraded

END = 2
SIXTHS = {
    "": (2, 1, 3),
    "a": (1, 4, 1),
    "b": (3, 1, 2),
    "aa": (1, 1, 4),
    "ab": (2, 2, 2),
    "ba": (1, 3, 2),
    "bb": (4, 1, 1),
}
LOGITS = np.log(np.array([SIXTHS[prefix] for prefix in SIXTHS], dtype=float))  # 7 prefixes x 3 tokens
SHARES = {2: 5, 5: 3, 11: 2}  # tenths of the responses that are 2, 5 and 11 tokens long


def responses(prefix: str = "") -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Every response as text and as its choices (row of the logits, token); three letters end it without a choice."""
    if len(prefix) == 3:
        yield prefix, []
        return
    row = list(SIXTHS).index(prefix)
    yield prefix, [(row, END)]
    for token, letter in enumerate("ab"):
        for text, rest in responses(prefix + letter):
            yield text, [(row, token), *rest]


TREE = list(responses())
LENGTH = np.array([len(choices) for _, choices in TREE], dtype=float)
RIGHT = np.array([text.startswith("ba") or text in ("a", "abb", "aab") for text, _ in TREE], dtype=float)


def probabilities(logits: np.ndarray) -> Any:
    """Of the 15 responses; complex logits are fine."""
    steps = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([math.prod((steps[at] for at in choices), start=1.0 + 0j) for _, choices in TREE])


PI = probabilities(LOGITS).real
COUNT = np.rint(216 * PI).astype(int)
ADVANTAGE = (RIGHT - PI @ RIGHT) / np.sqrt(PI @ RIGHT * (1 - PI @ RIGHT))


def gradient(of: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Of a function of the logits, (21,)."""
    result = []
    for at in np.ndindex(LOGITS.shape):
        moved = LOGITS.astype(complex)
        moved[at] += 1e-30j
        result.append(np.imag(of(moved)) / 1e-30)
    return np.array(result)


SCORES = np.array([gradient(lambda logits, i=i: np.log(probabilities(logits)[i])) for i in range(len(TREE))])  # 15 x 21


def make_rows(length: np.ndarray, advantage: np.ndarray, **columns: np.ndarray | float) -> pd.DataFrame:
    """Rows of one prompt in one batch; unclipped at ratio 1 unless ``columns`` say otherwise."""
    plain = {"step": 1, "update": 1, "prompt_id": 0, "log_ratio": 0.0, "clipped": 0, "effective_ratio": 1.0}
    return pd.DataFrame({"tokens": length, "advantage": advantage}).assign(**{**plain, **columns})


def raw_pressure(rows: pd.DataFrame, loss: str) -> float:
    """P of rows that are one batch, before it is normalised."""
    (value,) = Batches.of(rows).pressure(stages(rows, loss)["s"])
    return value


def clipped_tree() -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The policy with ratios and clipping that depend on the response, a row each; each loss's c by hand."""
    rng = np.random.default_rng(3)
    log_ratio, lost = rng.normal(0, 0.1, 15), rng.random(15) < 0.3
    part = rng.random(15)  # of its tokens' ratios that a token-level loss keeps
    rows = make_rows(LENGTH, ADVANTAGE, log_ratio=log_ratio, clipped=lost * LENGTH, effective_ratio=part)
    by_hand = {name: [] for name in LOSSES}
    for a, n, x, gone, m in zip(ADVANTAGE, LENGTH, log_ratio, lost, part, strict=True):
        by_hand["gspo"].append(0.0 if gone else a * math.exp(x) / n)
        by_hand["luspo"].append(0.0 if gone else a * math.exp(x))
        by_hand["grpo"].append(a * m / n)
        by_hand["grpo_sum"].append(a * m)
    return rows, {name: np.array(c) for name, c in by_hand.items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_pressure_is_the_derivative_of_length_along_pi_exp_eta_c(loss: str) -> None:
    rows, by_hand = clipped_tree()
    c = by_hand[loss]

    def moved(eta: float) -> np.ndarray:
        weights = PI * np.exp(eta * c)
        return weights / weights.sum()

    found = raw_pressure(rows.loc[rows.index.repeat(COUNT)], loss)
    eta = 1e-4
    assert found == pytest.approx((moved(eta) - moved(-eta)) @ LENGTH / (2 * eta), abs=1e-6)
    # The natural gradient in the logits of the tree: the Fisher matrix is the scores' second moment.
    fisher, g = SCORES.T @ (PI[:, None] * SCORES), SCORES.T @ (PI * c)
    step = np.linalg.pinv(fisher) @ g
    assert found == pytest.approx(gradient(lambda logits: probabilities(logits) @ LENGTH) @ step, abs=1e-9)
    # Normalised: tokens per sqrt(2 KL) of that step.
    kl = moved(eta) @ np.log(moved(eta) / PI)
    total = batch_pressure(rows.loc[rows.index.repeat(COUNT)], loss).set_index("term").loc["total", "value"]
    assert total == pytest.approx((moved(eta) - PI) @ LENGTH / math.sqrt(2 * kl), rel=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_plain_gradient_is_another_number(loss: str) -> None:
    rows, by_hand = clipped_tree()
    c = by_hand[loss]
    # One logit per response: the step in a response's logit is pi (c - mean c), so length changes by the sum of
    # pi^2 (c - mean c) (L - mean L).
    step, eta = PI * (c - PI @ c), 1e-4
    up, down = (PI * np.exp(sign * eta * step) for sign in (1, -1))
    plain = (up / up.sum() - down / down.sum()) @ LENGTH / (2 * eta)
    assert plain == pytest.approx(float(np.sum(PI**2 * (c - PI @ c) * (LENGTH - PI @ LENGTH))), abs=1e-9)
    # The logits of the tree: once more another one.
    in_tree = gradient(lambda logits: probabilities(logits) @ LENGTH) @ SCORES.T @ (PI * c)
    natural = raw_pressure(rows.loc[rows.index.repeat(COUNT)], loss)
    assert min(abs(natural - plain), abs(natural - in_tree), abs(plain - in_tree)) > 0.02 * abs(natural)


def test_unclipped_luspo_climbs_the_expected_reward_and_gspo_does_not() -> None:
    wanted = gradient(lambda logits: probabilities(logits) @ RIGHT)
    angle = {}
    for loss in ("luspo", "gspo"):
        g = SCORES.T @ (PI * stages(make_rows(LENGTH, ADVANTAGE), loss)["s"])
        angle[loss] = np.abs(g / np.linalg.norm(g) - wanted / np.linalg.norm(wanted)).max()
    assert angle["luspo"] < 1e-12
    assert angle["gspo"] > 0.05


@pytest.mark.parametrize("right", range(1, 10))
def test_unclipped_gspo_has_no_pressure_where_length_is_independent_of_correctness(right: int) -> None:
    p = right / 10
    a = {1: math.sqrt((1 - p) / p), 0: -math.sqrt(p / (1 - p))}
    cells = [(n, a[ok], share * (right if ok else 10 - right)) for (n, share), ok in product(SHARES.items(), (1, 0))]
    length, advantage, count = np.array(cells).T
    rows = make_rows(length, advantage)
    rows = rows.loc[rows.index.repeat(count.astype(int))]
    assert raw_pressure(rows, "gspo") == pytest.approx(0, abs=1e-14)
    assert batch_pressure(rows, "gspo")["value"].to_numpy() == pytest.approx(0, abs=1e-13)


def groups_of_eight() -> list[tuple[float, int]]:
    """Advantage and how often: groups of 8 at accuracy 1/2, verl's (0 or 1 minus mean) over the sample's sd."""
    found = []
    for right in range(1, 8):
        sd = math.sqrt(right * (8 - right) / 8 / 7)
        for ok, members in ((1, right), (0, 8 - right)):
            found.append(((ok - right / 8) / sd, members * math.comb(8, right)))
    return [*found, (0.0, 16)]  # all right or all wrong


@pytest.mark.parametrize(("plus", "minus"), [(10, 5), (3, 9), (7, 7)])
def test_keep_rates_that_depend_on_the_sign_alone(plus: int, minus: int) -> None:
    """Kept: plus and minus tenths. P of GSPO = (k+ - k-) E[max(A, 0)] (1 - E[L] E[1/L]), of LUSPO 0."""
    cells = []
    for (a, times), (n, share) in product(groups_of_eight(), SHARES.items()):
        kept = plus if a > 0 else minus
        cells += [(n, a, 0, times * share * kept), (n, a, n, times * share * (10 - kept))]
    length, advantage, lost, count = np.array(cells).T
    rows = make_rows(length, advantage, clipped=lost)
    rows = rows.loc[rows.index.repeat(count.astype(int))]  # one group, so that its mean length is the expected one
    assert rows["tokens"].mean() == pytest.approx(4.7)

    upper = sum(a * times for a, times in groups_of_eight() if a > 0) / (8 * 256)
    expected = (plus - minus) / 10 * upper * (1 - 4.7 * (0.5 / 2 + 0.3 / 5 + 0.2 / 11))
    assert raw_pressure(rows, "gspo") == pytest.approx(expected, abs=1e-12)
    assert raw_pressure(rows, "luspo") == pytest.approx(0, abs=1e-12)
    if (plus, minus) == (10, 5):
        assert expected == pytest.approx(-0.118, abs=5e-4)


def test_the_groups_own_mean_shrinks_it_by_one_over_its_size() -> None:
    """All groups of two responses, lengths as before, the wrong one kept half of the time."""
    one = [(n, ok, kept) for n, share in SHARES.items() for ok in (0, 1) for kept in (1, ok) for _ in range(share)]
    sd = math.sqrt(0.5)
    cells = []
    for group, (a, b) in enumerate(product(one, one)):
        for (n, ok, kept), other in ((a, b), (b, a)):
            cells.append((group, n, (ok - (ok + other[1]) / 2) / sd, 0 if kept else n))
    group, length, advantage, lost = np.array(cells).T
    rows = make_rows(length, advantage, prompt_id=group, clipped=lost)
    under_the_true_mean = 0.5 * (0.25 * 0.5 / sd) * (1 - 4.7 * (0.5 / 2 + 0.3 / 5 + 0.2 / 11))
    assert raw_pressure(rows, "gspo") == pytest.approx(under_the_true_mean / 2, abs=1e-12)


def simulated(rng: np.random.Generator, batches: int, accuracy: float | None) -> pd.DataFrame:
    """4 prompts x 8 responses a batch; length is independent of correctness. accuracy None: uniform, a prompt each."""
    shape = (batches, 4, 8)
    p = rng.random((batches, 4, 1)) if accuracy is None else accuracy
    right = (rng.random(shape) < p).astype(float)
    sd = right.std(axis=2, ddof=1, keepdims=True)
    advantage = (right - right.mean(axis=2, keepdims=True)) / np.where(sd > 0, sd, 1)
    step, prompt = np.broadcast_arrays(np.arange(batches)[:, None, None], np.arange(4)[:, None], right)[:2]
    length = rng.choice([4, 12, 28, 52], shape)
    columns = {"step": step.ravel(), "prompt_id": prompt.ravel(), "accuracy": right.ravel()}
    return make_rows(length.ravel(), advantage.ravel(), **columns)


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9])
def test_small_batches_make_no_bias(accuracy: float) -> None:
    frame = batch_pressure(simulated(np.random.default_rng(1), 20_000, accuracy), "gspo")
    values = frame.loc[frame["term"] == "total", "value"] / np.sqrt((frame["length_sd"] ** 2).mean())
    assert abs(values.mean()) < 4 * values.sem() < 0.006


def test_small_groups_make_no_slope_on_accuracy() -> None:
    slopes = []
    for seed in range(20):
        prompts = prompt_pressure(simulated(np.random.default_rng(seed), 500, None), "gspo")
        assert prompts["accuracy"].between(0, 1, inclusive="neither").all()
        slopes.append(np.polyfit(prompts["accuracy"], prompts["value"], 1)[0])
    assert abs(np.mean(slopes)) < 4 * np.std(slopes, ddof=1) / math.sqrt(20) < 0.05


def test_clipping_again_by_hand() -> None:
    log_ratio = np.log([0.9974, 0.9976, 1.0024, 1.0026, 0.9974, 1.0026, 0.9])
    advantage = np.array([-1.0, -1, 1, 1, 1, -1, 0])
    rows = make_rows(np.full(7, 10.0), advantage, log_ratio=log_ratio, clipped=10)
    kept = np.array([0, 1, 1, 0, 1, 1, 1]) * advantage
    at_range = stages(rows, "gspo", (2.5e-3, 2.5e-3))
    assert at_range["clipping"] == pytest.approx(kept / 10)
    assert at_range["s"] == pytest.approx(kept * np.exp(log_ratio) / 10, rel=1e-14)
    assert not np.any(stages(rows, "gspo")["s"])  # as recorded: all clipped
    narrower = stages(rows, "luspo", (2.3e-3, 2.3e-3))
    assert narrower["clipping"].tolist() == [0, 0, 0, 0, 1, -1, 0]


def test_a_group_may_be_split_over_updates() -> None:
    rng = np.random.default_rng(5)
    length = rng.integers(1, 60, 8).astype(float)
    advantage = np.array([0.9, 0.9, -0.9, 0.9, -0.9, -0.9, 0.9, -0.9])
    whole = make_rows(length, advantage, clipped=np.where(np.arange(8) == 2, length, 0))
    split = whole.assign(update=[1, 1, 1, 2, 2, 2, 2, 1]).sample(frac=1, random_state=0)
    parts = Batches.of(split)
    c = stages(split, "gspo")["s"]
    assert parts.keys.to_numpy().tolist() == [[1, 1], [1, 2]]
    centred = length - length.mean()  # of all eight
    by_hand = np.where(np.arange(8) == 2, 0, advantage) / length * centred
    assert parts.pressure(c) == pytest.approx([by_hand[[0, 1, 2, 7]].mean(), by_hand[3:7].mean()])
    assert parts.spread(c) == pytest.approx(Batches.of(whole).spread(stages(whole, "gspo")["s"]))
    # The same prompt at another step is another group.
    again = pd.concat([whole, whole.assign(step=2, tokens=length + 100, clipped=0)])
    assert Batches.of(again).length == pytest.approx(np.tile(centred, 2))


def test_terms_add_up_and_do_not_depend_on_scale_or_order() -> None:
    rng = np.random.default_rng(2)
    rows = simulated(rng, 50, 0.6)
    rows = rows.assign(log_ratio=rng.normal(0, 3e-3, len(rows)))
    for loss in ("gspo", "luspo"):
        frame = batch_pressure(rows, loss, (3e-3, 4e-3))
        table = frame.pivot(index="step", columns="term", values="value")
        assert table[list(STAGES)].sum(axis=1).to_numpy() == pytest.approx(table["total"].to_numpy())
        assert (table["total"] - table["reference"]).to_numpy() == pytest.approx(table["bias"].to_numpy())
        assert (table["1/L"].abs().max() > 0) == (loss == "gspo")
        scaled = batch_pressure(rows.assign(advantage=3 * rows["advantage"]), loss, (3e-3, 4e-3))
        assert scaled["value"].to_numpy() == pytest.approx(frame["value"].to_numpy())
        shuffled = batch_pressure(rows.sample(frac=1, random_state=1), loss, (3e-3, 4e-3))
        assert shuffled["value"].to_numpy() == pytest.approx(frame["value"].to_numpy())


def test_without_a_direction_there_is_no_value() -> None:
    rows = make_rows(np.array([3.0, 9]), np.array([1.0, -1]), clipped=np.array([3, 9]))
    terms = batch_pressure(rows, "luspo").set_index("term")["value"]
    assert terms["reference"] == pytest.approx(-3)  # lengths -3 and +3 from their mean, spread 1
    assert np.isnan(terms["total"])
    assert math.isnan(loss_bias(rows, "luspo"))


@pytest.mark.parametrize(
    ("mode", "aggregation", "expected"),
    [
        ("vanilla", "seq-mean-token-mean", "grpo"),
        ("vanilla", "seq-mean-token-sum", "grpo_sum"),
        ("vanilla", "token-mean", "grpo_sum"),
        ("gspo", "seq-mean-token-mean", "gspo"),
        ("gspo", "token-mean", "luspo"),
        ("luspo", "seq-mean-token-sum", "luspo"),
        ("luspo", "seq-mean-token-sum-norm", "luspo"),
    ],
)
def test_of_an_old_manifest_the_treatment_says_which_loss(mode: str, aggregation: str, expected: str) -> None:
    assert loss_of(upgraded({"algo": "any", "treatment": {MODE: mode, AGGREGATION: aggregation}})) == expected


def test_without_a_treatment_the_name_says_it() -> None:
    assert [loss_of(upgraded({"algo": name})) for name in ("grpo", "luspo_norm")] == ["grpo", "luspo"]
    with pytest.raises(AnalysisError, match="not defined for sapo; it is for grpo, grpo_sum, gspo, luspo"):
        loss_of(upgraded({"algo": "sapo"}))
    with pytest.raises(AnalysisError, match="sapo with token-mean"):
        loss_of(upgraded({"algo": "gspo", "treatment": {MODE: "sapo", AGGREGATION: "token-mean"}}))


@pytest.mark.parametrize(
    ("level", "power", "expected"),
    [("token", 0, "grpo"), ("token", 1, "grpo_sum"), ("sequence_mean", 0, "gspo"), ("sequence_mean", 1, "luspo")],
)
def test_a_loss_that_no_list_names_is_known_by_its_description(level: str, power: int, expected: str) -> None:
    loss = {"loss_mode": "mine", "loss_agg_mode": "x", "level": level, "length_exponent": power}
    assert loss_of({"algo": "mine", "loss": {**loss, "derivative_is_ratio": True}}) == expected
    with pytest.raises(AnalysisError, match="not defined for mine with x"):
        loss_of({"algo": "mine", "loss": {**loss, "derivative_is_ratio": False}})


def test_an_arm_that_is_not_defined_costs_that_arm_alone(tmp_path: Path) -> None:
    for at, arm in enumerate(("gspo", "gmpo", "luspo")):
        rows = simulated(np.random.default_rng(at), 2, 0.5).assign(step=lambda r: r["step"] + 1)
        treatment = {MODE: "geo_mean" if arm == "gmpo" else arm, AGGREGATION: "seq-mean-token-mean"}
        write_rows(tmp_path, arm, 0, rows, manifest={"treatment": treatment})
    runs = load_runs(tmp_path)
    assert set(pressure_frame(runs)["arm"]) == {"gspo", "luspo"}
    assert list(undefined(runs)) == ["gmpo"]
    with pytest.raises(AnalysisError, match="not defined for geo_mean"):
        pressure_frame(runs.select(arm="gmpo"))


def write_rows(
    root: Path, arm: str, seed: int, rows: pd.DataFrame, experiment: str = "tiny_neutral", **more: Any
) -> None:
    """A run with these rows, a file a step."""
    steps = rows["step"].nunique()
    run = write_run(root, {"response_length": [9.0] * steps}, arm=arm, seed=seed, experiment=experiment, **more)
    for step, part in rows.groupby("step"):
        columns = {str(name): part[name].to_numpy() for name in (*COLUMNS, "accuracy") if name != "step"}
        write_sequences(run.attempts()[-1], int(str(step)), **columns)


def test_frames_of_runs(tmp_path: Path) -> None:
    rows = {
        seed: simulated(np.random.default_rng(seed), 2, 0.5).assign(step=lambda r: r["step"] + 1) for seed in range(3)
    }
    for arm in ("gspo", "grpo"):
        for seed, part in rows.items():
            write_rows(tmp_path, arm, seed, part)
    write_run(tmp_path, arm="gspo", seed=9, experiment="tiny_neutral", state="failed")  # recorded nothing
    runs = load_runs(tmp_path)
    frame = pressure_frame(runs)
    assert set(frame["run"]) == {f"tiny_neutral/{arm}/seed={seed}" for arm in ("gspo", "grpo") for seed in range(3)}
    assert (frame["loss"] == frame["algo"]).all()
    means = run_means(frame)
    own = means.set_index(["arm", "seed", "term"])
    assert own.loc[("gspo", 1, "bias"), "in_sd"] == pytest.approx(loss_bias(rows[1], "gspo"))
    assert own.at[("grpo", 1, "bias"), "in_sd"] == pytest.approx(loss_bias(rows[1], "gspo"))  # nothing is clipped
    intervals = arm_intervals(means, "in_sd").set_index(["arm", "term"])
    values = means.query("arm == 'gspo' and term == 'bias'")["in_sd"]
    half = 4.302653 * values.std(ddof=1) / math.sqrt(3)  # 97.5 % point of t, two degrees of freedom
    assert intervals.loc[("gspo", "bias"), "high"] == pytest.approx(values.mean() + half)

    what_if = run_means(pressure_frame(runs.select(arm="gspo"), ["gspo", "luspo"])).set_index(["loss", "seed", "term"])
    assert what_if.loc[("luspo", 0, "bias"), "value"] == pytest.approx(0, abs=1e-12)
    # No log-ratio differs from 0: every range is as good as none.
    clipped = run_means(pressure_frame(runs, ["gspo"], (1e-2, 1e-2))).set_index(["arm", "seed", "term"])
    assert clipped.loc[("gspo", 1, "bias"), "in_sd"] == pytest.approx(own.loc[("gspo", 1, "bias"), "in_sd"])


def test_what_was_not_recorded_is_refused(tmp_path: Path) -> None:
    rows = simulated(np.random.default_rng(0), 2, 0.5).assign(step=lambda r: r["step"] + 1)
    for arm in ("gspo", "grpo"):
        write_rows(tmp_path, arm, 0, rows)
    runs = load_runs(tmp_path)
    with pytest.raises(AnalysisError, match="gspo/seed=0: grpo clips tokens"):
        pressure_frame(runs.select(arm="gspo"), ["grpo"])
    with pytest.raises(AnalysisError, match=r"grpo/seed=0: luspo clips sequences .* give a clip range"):
        pressure_frame(runs.select(arm="grpo"), ["luspo"])
    assert len(pressure_frame(runs.select(arm="grpo"), ["luspo"], clip=(3e-3, 4e-3)))
    with pytest.raises(AnalysisError, match="a clip range is for sequences"):
        pressure_frame(runs.select(arm="grpo"), clip=(3e-3, 4e-3))
    with pytest.raises(AnalysisError, match="not defined for sapo"):
        pressure_frame(runs, ["sapo"])
    write_run(tmp_path / "bare", {"response_length": [9.0]})
    with pytest.raises(AnalysisError, match="no responses recorded in fake/gspo/seed=0"):
        pressure_frame(load_runs(tmp_path / "bare"))


def decide(root: Path, claim: str, row: str = ""):
    results = evaluate(load_runs(root), paper_claims())
    (result,) = [r for r in results if (r.claim.id, r.claim.row, r.experiment) == (claim, row, "tiny_neutral")]
    return result


def test_c9_is_a_difference_of_two_correlations_over_all_updates(tmp_path: Path) -> None:
    for arm in ("gspo", "luspo"):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            rows = simulated(rng, 6, 0.6)
            rows["update"] = rows["step"] % 2 + 1  # two updates a step, of prompts of their own
            rows["step"], rows["prompt_id"] = rows["step"] // 2 + 1, rows["prompt_id"] + 10 * rows["update"]
            # In update 2 of a step the short wrong ones are clipped.
            lost = (rows["update"] == 2) & (rows["advantage"] < 0) & (rows["tokens"] < 20)
            rows["clipped"] = np.where(lost, rows["tokens"], 0)
            write_rows(tmp_path, arm, seed, rows)
    values = {}
    for arm, row in (("gspo", "GSPO"), ("luspo", "LUSPO unbiased")):
        files = sorted((tmp_path / "tiny_neutral" / arm / "seed=2").rglob("*.parquet"))
        rows = pd.concat(pd.read_parquet(file) for file in files)
        rows["c"] = rows["advantage"] * (rows["clipped"] == 0) / (rows["tokens"] if arm == "gspo" else 1)
        names = ["c", "advantage", "tokens"]
        within = (rows[names] - rows.groupby(["step", "prompt_id"])[names].transform("mean")).to_numpy()
        of_c, of_advantage, _ = np.corrcoef(within.T)[2]
        result = decide(tmp_path, "C9", row)
        values[arm] = result.record()["values"][2]
        assert values[arm] == pytest.approx(of_c - of_advantage)
        assert (result.interval.n, result.record()["unit"]) == (5, "sd of length")
    assert values["luspo"] < -0.05  # short wrong responses survive where nothing pushes them down


def test_c10_by_hand(tmp_path: Path) -> None:
    # Two prompts of four: at accuracy 1/4 the right one is short, at 3/4 the wrong one; a third has no advantage.
    a, b = 1.5, 0.5
    advantage = np.array([a, -b, -b, -b, b, b, b, -a, 0, 0, 0, 0])
    right = np.array([1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])
    length = np.array([2.0, 4, 4, 4, 4, 4, 4, 2, 50, 60, 70, 80])
    rows = make_rows(length, advantage, prompt_id=np.repeat([1, 2, 3], 4), accuracy=right)
    for seed in range(5):
        write_rows(tmp_path, "gspo", seed, rows)
    c = advantage / length
    groups = [slice(0, 4), slice(4, 8), slice(8, 12)]
    low, high = (np.mean(c[g] * (length[g] - 3.5)) for g in groups[:2])
    spread = math.sqrt(np.mean([np.var(c[g]) for g in groups]))
    sd = math.sqrt(np.mean([np.var(length[g]) for g in groups]))
    result = decide(tmp_path, "C10")
    assert result.interval.estimate == pytest.approx((high - low) / 0.5 / spread / sd)
    assert result.interval.estimate > 0
    assert result.reason.startswith("the effects are all equal")  # five copies of one run are no evidence


def test_c9_and_c10_without_a_direction_say_so(tmp_path: Path) -> None:
    for seed in range(5):
        rows = make_rows(np.array([3.0, 5]), np.zeros(2), accuracy=1.0)
        write_rows(tmp_path, "gspo", seed, rows)
    c9, c10 = decide(tmp_path, "C9", "GSPO"), decide(tmp_path, "C10")
    assert (c9.verdict, c10.verdict) == ("not tested", "not tested")
    assert "no advantage is kept" in c9.reason
    assert "all of one accuracy" in c10.reason


def length_decides_who_is_clipped(
    noises: Sequence[float] | np.ndarray,
    clips: Sequence[Clip] = ((2e-3, 2.5e-3), (2.25e-3, 2.25e-3)),
    lengths: tuple[int, int] = (20, 200),
    drift: float = 0.5,
    points: int = 4001,
) -> pd.DataFrame:
    """Pressure of GSPO and LUSPO where length has nothing to do with correctness but with clipping.

    One prompt, half of the responses right, half of each length. A token's log-ratio has standard deviation ``noise``,
    so a sequence's mean log-ratio has noise / sqrt(L), normal, and is moved by ``drift`` of those to the side of its
    advantage. ``points`` quantiles stand for that distribution. Columns: noise, loss, low, high, value (tokens per
    sqrt(2 KL); c = A has none).
    """
    quantiles = stats.norm.ppf((np.arange(points) + 0.5) / points)
    length, advantage, quantile = (v.ravel() for v in np.meshgrid(lengths, (1.0, -1.0), quantiles, indexing="ij"))
    fixed = {"step": 1, "update": 2, "prompt_id": 0, "tokens": length, "advantage": advantage}
    records = []
    for noise in noises:
        log_ratio = (quantile + drift * advantage) * noise / np.sqrt(length)
        rows = pd.DataFrame({**fixed, "log_ratio": log_ratio, "clipped": 0, "effective_ratio": 1.0})
        for loss in ("gspo", "luspo"):
            for low, high in clips:
                found = batch_pressure(rows, loss, (low, high)).set_index("term")["value"]
                records.append({"noise": noise, "loss": loss, "low": low, "high": high, "value": found["total"]})
    return pd.DataFrame.from_records(records)


def by_integrals(loss: str, noise: float, low: float, high: float) -> float:
    """The example in closed form: E[s^k; kept] of a log-normal ratio, from the normal distribution function."""
    cells = []  # probability, length, E c, E c^2
    for length in (20, 200):
        for sign in (1, -1):
            sd = noise / math.sqrt(length)
            mean = 0.5 * sd * sign
            low_end, high_end = (-np.inf, math.log1p(high)) if sign > 0 else (math.log1p(-low), np.inf)
            moments = [
                math.exp(k * mean + (k * sd) ** 2 / 2)
                * np.diff(stats.norm.cdf((np.array([low_end, high_end]) - mean) / sd - k * sd))[0]
                for k in (1, 2)
            ]
            weight = sign / length if loss == "gspo" else sign
            cells.append((0.25, length, weight * moments[0], weight**2 * moments[1]))
    share, length, first, second = np.array(cells).T
    return float(share @ (first * (length - 110)) / math.sqrt(share @ second - (share @ first) ** 2))


@pytest.mark.parametrize("clip", [(2e-3, 2.5e-3), (2.25e-3, 2.25e-3)])
def test_clipping_that_depends_on_length(clip: tuple[float, float]) -> None:
    frame = length_decides_who_is_clipped([0.007, 0.02, 0.05], [clip])
    for row in frame.itertuples():
        assert row.value == pytest.approx(by_integrals(str(row.loss), float(str(row.noise)), *clip), abs=0.02)
    found = frame[frame["noise"] == 0.02].set_index("loss")["value"]
    expected = {"gspo": -1.57, "luspo": 0.95} if clip[0] < clip[1] else {"gspo": 0.0, "luspo": 0.0}
    for loss, value in expected.items():
        assert found[loss] == pytest.approx(value, abs=0.02 if clip[0] < clip[1] else 0.1)
