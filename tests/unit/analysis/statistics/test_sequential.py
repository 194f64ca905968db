"""Repeated intervals against the formulas written out, and by simulation what they promise: see also
``tests/bench/sequential_bench.py``, whose tables are in ``results/bench/sequential.md``."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from claim_runs import STEPS, write_arm
from fake_runs import write_run
from scipy import optimize, stats
from sequential_trials import NOISE, ever, first, look, standard

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.report.answer import answer
from analysis.report.decision import Decision
from analysis.report.numbers import build_report
from analysis.report.page import Content, render_page
from analysis.report.sections import contrast_tables
from analysis.runs.load import AnalysisError
from analysis.statistics.claims import evaluate
from analysis.statistics.comparison import LESS, MARGINS, MORE, SAME, comparisons
from analysis.statistics.pairs import experiment_runs
from analysis.statistics.repeated import plans_of, repeated_interval
from analysis.statistics.sequential import FIRST_LOOK, Plan, looks, repeated, skewness
from harness.rundir import write_json

PAIR = (("luspo", "gspo"),)
THREE = (("luspo", "gspo"), ("gspo", "grpo"), ("luspo", "grpo"))
RULES = paper_claims().rules["tiny"]
TRIALS = 2000
# Shares of 5 % are of 2,000 trials; a rule with exactly 5 % leaves this bound in one of a thousand simulations.
MOST = float(stats.binom.isf(1e-3, TRIALS, 0.05)) / TRIALS


def by_hand(effects: np.ndarray, alpha: float) -> tuple[float, float]:
    """Student's interval and Hall's, whose bounds are found as roots; the lower of both and the higher of both."""
    n, mean, sd = effects.size, effects.mean(), effects.std(ddof=1)
    error, t = sd / math.sqrt(n), stats.t.isf(alpha / 2, n - 1)
    g = stats.skew(effects, bias=False)

    def transformed(theta: float) -> float:
        statistic = (mean - theta) / error
        return (
            statistic + g * statistic**2 / (3 * math.sqrt(n)) + g**2 * statistic**3 / (27 * n) + g / (6 * math.sqrt(n))
        )

    far = 1e4 * error
    roots = [optimize.brentq(lambda x, q=q: transformed(x) - q, mean - far, mean + far) for q in (t, -t)]
    return min(mean - t * error, roots[0]), max(mean + t * error, roots[1])


@pytest.mark.parametrize("n", [3, 5, 8, 20])
def test_one_look_is_students_interval_and_halls_by_hand(n: int) -> None:
    effects = np.random.default_rng(n).exponential(size=n)
    found = repeated(effects, 0.01, 0.95)
    assert (found.low, found.high) == pytest.approx(by_hand(effects, 0.01))
    assert (found.estimate, found.n, found.df, found.level) == (pytest.approx(effects.mean()), n, n - 1, 0.95)
    assert skewness(effects) == pytest.approx(stats.skew(effects, bias=False))


def test_without_skewness_it_is_students_interval() -> None:
    effects = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) + 7
    found = repeated(effects, 0.02, 0.95)
    expected = stats.ttest_1samp(effects, 0).confidence_interval(0.98)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_what_has_no_interval() -> None:
    for effects, alpha in (([], 0.01), ([1.0], 0.01), ([2.0, 2.0, 2.0], 0.01), ([1.0, 2.0], math.nan)):
        assert math.isnan(repeated(effects, alpha, 0.95).low)
    same = repeated([0.0, 0.0, 0.0], 0.01, 0.95)
    assert (same.low, same.high) == (0, 0)
    early = Plan(PAIR).interval([1.0, 1.1, 1.2])
    assert math.isnan(early.low)
    assert early.estimate == pytest.approx(1.1)


def test_what_is_spent_is_the_function_of_lan_and_demets() -> None:
    """One pair, two outcomes, at most 25 seeds, 2.5 % each; another maximum spends its share of 25."""
    plan = Plan(PAIR, 25)
    for n in (3, 10, 25):
        assert plan.spent(n) == pytest.approx(2 * stats.norm.sf(stats.norm.isf(0.0125) / math.sqrt(n / 25)))
    assert sum(plan.alpha(n) for n in range(FIRST_LOOK, 26)) == pytest.approx(0.025)
    assert Plan(PAIR, 50).spent(50) == pytest.approx(0.025)
    assert Plan(PAIR, 10).spent(10) == pytest.approx(0.01)
    assert Plan(THREE, 25).spent(25) == pytest.approx(0.05 / 6)
    assert (plan.spent(2), plan.alpha(30)) == (0, plan.alpha(25))


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = Plan(THREE, 12)
    assert Plan.read(plan.record()) == plan
    with pytest.raises(KeyError):
        Plan.read({"max_seeds": 3})


def test_the_simulation_looks_with_the_rules_own_intervals() -> None:
    plan = Plan(PAIR, 12)
    effects = standard("exponential", np.random.default_rng(5), (4, 12)) + 0.3
    found = look(effects, plan)
    for sweep in range(4):
        for at, n in enumerate(range(FIRST_LOOK, 13)):
            one = plan.interval(effects[sweep, :n])
            if math.isnan(one.low):
                assert math.isinf(found.low[sweep, at])
                continue
            assert (found.low[sweep, at], found.high[sweep, at]) == pytest.approx((one.low, one.high), rel=1e-6)


def simulated(noise: str, plan: Plan, effect: float) -> list[Any]:
    return [
        look(standard(noise, np.random.default_rng(seed), (TRIALS, plan.max_seeds)) + effect, plan)
        for seed in range(plan.hypotheses)
    ]


@pytest.mark.parametrize("noise", ["normal", "exponential", "log-normal, sigma 0.5", "Student's t, 3 df"])
@pytest.mark.parametrize("most", [6, 20])
def test_at_most_five_percent_are_wrong_at_any_look(noise: str, most: int) -> None:
    """Either outcome; without any effect, and with one as large as the margin, 1.5 sd, on either side."""
    plan = Plan(PAIR, most)
    wrong = [ever((one.low > 0) | (one.high < 0)) for one in simulated(noise, plan, 0.0)]
    assert np.any(wrong, axis=0).mean() <= MOST
    for margin in (1.5, -1.5):
        same = [ever((one.low > -1.5) & (one.high < 1.5)) for one in simulated(noise, plan, margin)]
        assert np.any(same, axis=0).mean() <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("noise", list(NOISE)[:-1])
def test_the_error_rates_with_many_trials(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TRIALS", 20000)
    for most in (4, 6, 10, 15, 20, 30):
        plan = Plan(PAIR, most)
        wrong = np.any([ever((one.low > 0) | (one.high < 0)) for one in simulated(noise, plan, 0.0)], axis=0)
        assert wrong.mean() <= stats.binom.isf(1e-3, 20000, 0.05) / 20000, most


def test_the_check_finds_what_is_no_rule() -> None:
    """Student's 95 % interval after every seed: four times the error that it names, and more."""
    (one, _) = simulated("normal", Plan(PAIR), 0.0)
    assert ever((one.plain_low > 0) | (one.plain_high < 0)).mean() > 0.15


def test_a_real_effect_saves_seeds() -> None:
    """An effect of 3 sd is found in all sweeps, with less than half of the 20 seeds of a fixed design."""
    (one, _) = simulated("normal", Plan(PAIR), 3.0)
    assert ever(one.low > 0).mean() > 0.99
    assert first(one.low > 0, 20).mean() < 10


def write(root: Path, ratios: list[float], points: list[float], **other: Any) -> None:
    """GSPO of 20 tokens and 50 %; LUSPO by ratio and points more, a value for each seed."""
    seeds = range(len(ratios))
    write_arm(root, "gspo", seeds=seeds, response_length=[20.0] * len(ratios), accuracy=[0.5] * len(ratios))
    length, accuracy = [20 * r for r in ratios], [0.5 + p / 100 for p in points]
    write_arm(root, "luspo", seeds=seeds, response_length=length, accuracy=accuracy, **other)


NOISY = [0.3, -0.2, 0.1, -0.3, 0.2, -0.1, 0.25, -0.25, 0.15, -0.15]


def test_looks_end_at_the_first_that_decides_all(tmp_path: Path) -> None:
    ratios = [1.5 * math.exp(x / 5) for x in NOISY]
    write(tmp_path, ratios, [x / 2 for x in NOISY])
    plan = Plan(PAIR, 20)
    found = looks(experiment_runs(load_runs(tmp_path), RULES), plan, list(range(10)))
    assert [one.n for one in found] == list(range(3, found[-1].n + 1))
    assert found[-1].n < 10
    assert found[-1].decided
    assert found[-1].verdicts == (MORE, SAME)
    assert not any(one.decided for one in found[:-1])
    low, high = by_hand(np.log(ratios[: found[-1].n]), plan.alpha(found[-1].n))
    length, _ = found[-1].effects
    assert (length.interval.low, length.interval.high) == pytest.approx((low, high), abs=1e-9)
    assert low > 0
    assert by_hand(np.array([x / 2 for x in NOISY[: found[-1].n]]), plan.alpha(found[-1].n))[1] < MARGINS["points"]


def test_a_shorter_one_and_the_order_of_seeds(tmp_path: Path) -> None:
    write(tmp_path, [0.6 * math.exp(x / 5) for x in NOISY], NOISY)
    members = experiment_runs(load_runs(tmp_path), RULES)
    (found, again) = (looks(members, Plan(PAIR, 20), order)[-1] for order in (range(10), [*range(9, -1, -1)]))
    assert found.verdicts[0] == again.verdicts[0] == LESS
    assert set(again.effects[0].sample.values) == set(range(9, 9 - again.n, -1))


def test_a_lost_run_ends_it_for_a_reason(tmp_path: Path) -> None:
    write(tmp_path, [1.5 * math.exp(x / 5) for x in NOISY[:6]], NOISY[:6])
    write_arm(tmp_path, "gspo", seeds=[6], response_length=[20.0], accuracy=[0.5])
    found = looks(experiment_runs(load_runs(tmp_path), RULES), Plan(PAIR, 20), list(range(8)))
    assert (found[-1].n, found[-1].decided) == (7, False)
    assert found[-1].lost == "seed 6: only gspo"


def decision(root: Path, plan: Plan, seeds: int) -> None:
    """What a sweep writes beside its runs."""
    paths = [run.parent for run in root.rglob("manifest.json")]
    found = Decision(plan).judge(paths, list(range(seeds)))
    write_json(
        root / ".sweeps" / "mine" / "decision-a.json", {"rule": {**plan.record(), "experiment": "tiny"}, **found}
    )


def test_a_report_uses_and_names_the_interval_of_a_sweep_that_looked(tmp_path: Path) -> None:
    write(tmp_path, [1.5 * math.exp(x / 5) for x in NOISY], [x / 2 for x in NOISY])
    plain = build_report(load_runs(tmp_path / "tiny"), paper_claims())
    assert plain["experiments"]["tiny"]["repeated"] == []
    assert not any("repeated" in line for line in answer(plain, "tiny"))
    plan = Plan(PAIR, 20)
    decision(tmp_path, plan, 10)
    report = build_report(load_runs(tmp_path / "tiny"), paper_claims())
    first_line, *_, last = answer(report, "tiny")
    assert "95 % repeated interval" in first_line
    assert "repeated confidence intervals" in last
    length = next(one for one in report["experiments"]["tiny"]["comparisons"] if one["quantity"] == "response length")
    effects = np.log([1.5 * math.exp(x / 5) for x in NOISY])
    low, high = by_hand(effects, plan.alpha(10))
    assert (length["low"], length["high"]) == pytest.approx((math.exp(low), math.exp(high)))
    before = next(one for one in plain["experiments"]["tiny"]["comparisons"] if one["quantity"] == "response length")
    assert length["low"] < before["low"] < before["high"] < length["high"]


def test_claims_of_such_a_sweep_show_the_interval_that_allows_for_looking(tmp_path: Path) -> None:
    ratios = [1.5 * math.exp(x / 5) for x in NOISY]
    write(tmp_path, ratios, [x / 2 for x in NOISY])
    (before,) = [one for one in evaluate(load_runs(tmp_path / "tiny"), paper_claims()) if one.claim.id == "C1"]
    assert (before.looked, before.repeated) == (False, None)
    assert "repeated" not in before.stated
    plan = Plan(PAIR, 20)
    decision(tmp_path, plan, 10)
    results = evaluate(load_runs(tmp_path / "tiny"), paper_claims())
    (found,) = [one for one in results if one.claim.id == "C1"]
    low, high = by_hand(np.log(ratios), plan.alpha(10))
    record = found.record()
    assert (record["low_repeated"], record["high_repeated"]) == pytest.approx((math.exp(low), math.exp(high)))
    assert (record["low"], record["low_plain"]) == (before.record()["low"], before.record()["low_plain"])
    shown = found.stated
    assert shown.startswith(f"{found.text} Holm; [")
    assert shown.endswith(f"at 95 %; [{math.exp(low):.2f}, {math.exp(high):.2f}] repeated")
    report = build_report(load_runs(tmp_path / "tiny"), paper_claims())
    page = render_page("tiny", report, Content())
    assert "bands of curves and intervals of single losses are not adjusted for that" in page
    assert "The interval that allows for looking after every seed is called repeated" in page
    assert "Student&#39;s t over seeds" not in page
    notes = " ".join(note for table in contrast_tables(report, "tiny") for note in table.notes)
    assert "In brackets: 95 % repeated interval, which allows for looking after every seed" in notes


def test_a_verdict_must_hold_with_the_repeated_interval(tmp_path: Path) -> None:
    effects = np.array([0.2, 0.9, 0.3, 0.8, 0.45])
    write(tmp_path, list(np.exp(effects)), [0.0] * 5)
    claims = replace(paper_claims(), rows=tuple(row for row in paper_claims().rows if row.id in ("C1", "C15")))
    (alone, _) = evaluate(load_runs(tmp_path / "tiny"), claims)
    assert alone.verdict == "supported"
    plan = Plan(PAIR, 20)
    decision(tmp_path, plan, 5)
    (found, _) = evaluate(load_runs(tmp_path / "tiny"), claims)
    assert found.interval == alone.interval
    assert by_hand(effects, plan.alpha(5))[0] < 0 < alone.interval.low
    assert found.verdict == "undecided"
    assert found.reason.startswith("by the file's rule alone supported, but seeds were added until")


CLAIM = {"id": "longer", "claim": "longer", "quantity": "length", "arms": ["luspo", "gspo"], "window": "end",
         "direction": ">", "delta": 1.1, "primary": True}  # fmt: skip


def test_the_claims_of_a_file_are_the_family_in_place_of_length_and_accuracy(tmp_path: Path) -> None:
    ratios = [1.5 * math.exp(x / 5) for x in NOISY]
    write(tmp_path, ratios, [10 * x for x in NOISY])  # accuracy alone would never be decided
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"n_min": 6, "claims": [CLAIM, CLAIM | {"id": "other", "primary": False}]}))
    found = Decision.of(["gspo", "luspo"], (), 20, "tiny", str(file))
    assert (found.plan.hypotheses, found.pairs) == (1, PAIR)
    assert Plan.read(json.loads(json.dumps(found.record))) == found.plan
    assert found.words.startswith(f"until decided: longer, claims of {file} (luspo:gspo); a look after each seed")
    paths = [run.parent for run in (tmp_path / "tiny").rglob("manifest.json")]
    judged = found.judge(paths, list(range(10)))
    last = judged["looks"][-1]
    assert (judged["stop"], last["seeds"]) == ("decided", 6)  # not before n_min
    (one,) = last["comparisons"]
    low, _ = by_hand(np.log(ratios[:6]), found.plan.alpha(6))
    assert (one["quantity"], one["verdict"], one["low"]) == ("longer", "supported", pytest.approx(math.exp(low)))
    assert "longer supported, 1.5" in judged["text"]
    assert Plan(PAIR, 20).record().keys() == found.record.keys() - {"claims"}


@pytest.mark.parametrize(
    ("arms", "claim", "said"),
    [
        (["gspo", "mine"], {}, "my.yaml:longer: no arm 'luspo' in this sweep; there are gspo, mine"),
        (
            ["gspo", "gspo,lr=1e-06"],
            {"arms": ["gspo,lr=2", "gspo"]},
            "no arm 'gspo,lr=2' in this sweep; there are gspo",
        ),
        (["gspo", "luspo"], {"arms": ["gspo"]}, "my.yaml: no claim compares two arms seed by seed in tiny"),
        (["gspo", "luspo"], {"quantity": "lenght"}, "unknown quantity 'lenght'; did you mean length?"),
    ],
)
def test_a_file_that_a_sweep_cannot_decide(arms: list[str], claim: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"claims": [CLAIM | claim]}))
    with pytest.raises(AnalysisError, match=re.escape(said)):
        Decision.of(arms, (), 20, "tiny", str(file))


def test_a_pair_that_was_not_planned_gets_the_largest_family(tmp_path: Path) -> None:
    plans = [Plan(PAIR, 20), Plan(THREE, 20)]
    runs = load_runs([write_and_load(tmp_path)])
    interval = repeated_interval(plans, 0.95)
    assert interval is not None
    swapped = next(one for one in comparisons(runs, RULES, [("gspo", "luspo")], interval=interval))
    effects = [math.log(1 / 1.5) - x / 5 for x in NOISY]
    assert swapped["low"] == pytest.approx(math.exp(by_hand(np.array(effects), plans[0].alpha(10))[0]))
    assert repeated_interval([], 0.95) is None


def write_and_load(root: Path) -> Path:
    write(root, [1.5 * math.exp(x / 5) for x in NOISY], NOISY)
    return root / "tiny"


@pytest.mark.parametrize("content", [{}, {"rule": {}}, {"rule": {"experiment": "tiny"}, "looks": [1]}])
def test_a_file_that_is_no_decision_changes_nothing(tmp_path: Path, content: dict[str, Any]) -> None:
    runs = load_runs(write_and_load(tmp_path))
    write_json(tmp_path / ".sweeps" / "mine" / "decision-x.json", content)
    (tmp_path / ".sweeps" / "mine" / "decision-y.json").write_text("{")
    assert plans_of(runs) == []


def test_what_is_said_of_each_end(tmp_path: Path) -> None:
    write(tmp_path, [1.5 * math.exp(x / 5) for x in NOISY], [x / 2 for x in NOISY])
    paths = [run.parent for run in tmp_path.rglob("manifest.json")]
    rule = Decision.of(["gspo", "luspo"], [], 20)
    assert rule.judge(paths, [0, 1]) == {
        "looks": [], "stop": "", "text": "2 of 20 seeds have ended; the first look is at 3."
    }  # fmt: skip
    open_still = rule.judge(paths, [0, 1, 2])
    assert open_still["text"].startswith(
        "Undecided after 3 of 20 seeds: 0 of 2 comparisons are decided. Open: length of"
    )
    done = rule.judge(paths, list(range(10)))
    n = done["looks"][-1]["seeds"]
    assert done["stop"] == "decided"
    assert done["text"].startswith(f"Decided after {n} of 20 seeds: LUSPO's responses are longer than GSPO's, 1.5")
    assert "no difference in accuracy between LUSPO and GSPO larger than 1 point" in done["text"]
    assert (
        Decision.of(["gspo", "luspo"], [], 4)
        .judge(paths, [0, 1, 2, 3])["text"]
        .startswith("Not decided by all 4 seeds")
    )
    lost = rule.judge(paths, [0, 1, 2, 77])
    assert lost["stop"] == "lost"
    assert "seed 77: no run of it is there" in lost["text"]


def test_arms_that_do_not_match_are_no_reason_to_train_on(tmp_path: Path) -> None:
    write(tmp_path, [1.5, 1.5], NOISY[:2])
    for arm, batch in (("gspo", 16), ("luspo", 8)):
        metrics = {"response_length": [20.0] * STEPS, "accuracy": [0.5] * STEPS}
        controlled = {"data.train_batch_size": batch}
        write_run(tmp_path, metrics, experiment="tiny", arm=arm, seed=2, controlled=controlled)
    paths = [run.parent for run in tmp_path.rglob("manifest.json")]
    found = Decision.of(["gspo", "luspo"], [], 20).judge(paths, [0, 1, 2])
    assert found["stop"] == "lost"
    assert found["text"].startswith("No further seeds: the runs cannot be compared: ")


@pytest.mark.parametrize(
    ("arms", "asked", "said"),
    [
        (["gspo"], [], "a decision is between two arms, and this sweep has only gspo"),
        (["gspo", "luspo"], ["luspo:gpso"], "claim=luspo:gpso: no arm 'gpso' in this sweep; there are gspo, luspo"),
        (["gspo", "luspo"], ["luspo"], "two different arms with a colon between"),
    ],
)
def test_what_cannot_be_decided(arms: list[str], asked: list[str], said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        Decision.of(arms, asked, 20)
