"""A file of claims: what is read from it, and the one line about the first thing that is wrong."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from claim_runs import STEPS, write_arm
from scipy import stats

from analysis import AnalysisError, load_runs
from analysis.paper.claims import CLAIMS, claims_for, paper_claims
from analysis.statistics.claim_file import NO_CLAIMS, load_claims, require_arms
from analysis.statistics.claims import Result, evaluate

LONGER: dict[str, Any] = {
    "id": "longer", "claim": "mine is longer", "quantity": "length", "arms": ["mine", "gspo"], "window": "end",
    "direction": ">", "delta": 1.1,
}  # fmt: skip


def written(folder: Path, *claims: dict[str, Any], **top: Any) -> Path:
    file = folder / "my.yaml"
    file.write_text(yaml.safe_dump({**top, "claims": list(claims)}))
    return file


@pytest.mark.parametrize(
    ("claim", "top", "said"),
    [
        ({"quantity": "lenght"}, {}, ":longer: unknown quantity 'lenght'; did you mean length?"),
        ({"margin": 1}, {}, ":longer: unknown key 'margin'; did you mean delta?"),
        ({"direcion": ">"}, {}, ":longer: unknown key 'direcion'; did you mean direction?"),
        ({"direction": "up"}, {}, ':longer: direction must be ">", "<" or within, not \'up\''),
        ({"arms": ["a", "b", "c"]}, {}, ":longer: arms must be a list of one or two arms"),
        ({"arms": "mine"}, {}, ":longer: arms must be a list of one or two arms"),
        ({"window": "edn"}, {}, ":longer: unknown window 'edn'; did you mean end?"),
        ({"window": [30, 10]}, {}, ":longer: window must be the name of a window, or two steps"),
        ({"delta": 0.1}, {}, ":longer: delta is the smallest effect that matters, a ratio of at least 1"),
        ({"quantity": "accuracy", "delta": -1}, {}, ":longer: delta is the smallest effect that matters, 0 or more"),
        ({"direction": "within", "delta": {}}, {}, ":longer: delta must be a number"),
        ({"unit": "points"}, {}, ":longer: the unit of length is ratio, not points; leave unit out"),
        ({"quantity": "val_accuracy"}, {}, ":longer: val_accuracy is measured at the end, so its window is final"),
        ({"range": [0.9, 1.1]}, {}, ":longer: range goes with direction within, not with >"),
        ({"than": -1}, {}, ":longer: than and range are ratios here, above 0"),
        ({"primary": "yes"}, {}, ":longer: primary must be true or false, not 'yes'"),
        ({"n_min": 0}, {}, ":longer: n_min must be a whole number of at least 1, not 0"),
        ({"id": 5}, {}, ":5: id must be text, not 5"),
        ({}, {"levle": 0.9}, ": unknown key 'levle'; did you mean level?"),
        ({}, {"level": 95}, ": level must be a number between 0 and 1, such as 0.95, not 95"),
        ({}, {"windows": {"late": {"part": 0.1}}}, ": windows must be a mapping of names to two steps"),
        ({}, {"experiments": {"a": {"rules": "tinny"}}, "rules": {"tiny": {"end": [1, 2]}}}, "did you mean tiny?"),
        ({"experiments": ["mien"]}, {"experiments": ["mine"]}, "no experiment 'mien' is listed in this file; did you"),
        ({"quantity": "benchmark_accuracy", "arms": ["a"], "window": "final", "delta": 1}, {}, "compares two arms"),
        ({"against": "other"}, {}, ":longer: against compares one arm in two experiments"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(
    claim: dict[str, Any], top: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, LONGER | claim, **top)
    with pytest.raises(AnalysisError) as raised:
        load_claims(file)
    assert str(raised.value).startswith(str(file))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with `claims:`"),
        ("- a", "begins with `claims:`"),
        ("level: 0.9", "no key claims"),
        ("claims: []", "claims must be a list of mappings"),
        ("claims: [", "not YAML"),
    ],
)
def test_what_is_no_file_of_claims(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(AnalysisError, match=said):
        load_claims(file)
    with pytest.raises(AnalysisError, match="cannot be read"):
        load_claims(tmp_path / "none.yaml")


def test_keys_that_are_missing_and_ids_that_are_there_twice(tmp_path: Path) -> None:
    for key in LONGER.keys() - {"delta"}:
        left = {name: value for name, value in LONGER.items() if name != key}
        with pytest.raises(AnalysisError, match=f"no key {key}; a claim needs id, claim, quantity"):
            load_claims(written(tmp_path, left))
    with pytest.raises(AnalysisError, match=r"my.yaml:longer: this id is there twice"):
        load_claims(written(tmp_path, LONGER, LONGER))
    assert len(load_claims(written(tmp_path, LONGER, LONGER | {"row": "again"})).rows) == 2


def test_an_arm_that_is_none_is_named_and_one_that_is_not_trained_yet_is_not_tested(tmp_path: Path) -> None:
    claims = load_claims(written(tmp_path, LONGER | {"arms": ["mien", "gspo"]}))
    with pytest.raises(AnalysisError, match=r"my.yaml:longer: no run of an arm 'mien'; did you mean mine\?"):
        require_arms(claims, {"mine", "gspo"}, ["gspo", "luspo"])
    require_arms(load_claims(written(tmp_path, LONGER | {"arms": ["luspo,lr=1e-06", "gspo"]})), {"gspo"}, ["luspo"])
    write_arm(tmp_path / "runs", "gspo", response_length=[20.0] * 5)
    file = written(tmp_path, LONGER | {"arms": ["luspo", "gspo"]})
    claims = claims_for(["tiny"], file, {"gspo"}, ["response_length"])
    (result,) = evaluate(load_runs(tmp_path / "runs"), claims)
    assert (result.verdict, result.reason) == ("not tested", "no run of luspo")


def test_whose_claims_are_decided(tmp_path: Path) -> None:
    assert claims_for(["mine"]) is NO_CLAIMS
    assert claims_for(["mine", "tiny"]) is paper_claims()
    assert claims_for(["mine"], CLAIMS) is paper_claims()
    own = claims_for(["mine", "tiny"], written(tmp_path, LONGER))
    assert own.decides("mine")
    assert own.note_of("tiny") == paper_claims().note_of("tiny") != ""
    listed = load_claims(written(tmp_path, LONGER, experiments=["mine"]))
    assert (listed.decides("mine"), listed.decides("tiny")) == (True, False)


def results(tmp_path: Path, *claims: dict[str, Any], **top: Any) -> list[Result]:
    runs = load_runs(tmp_path / "runs")
    return evaluate(runs, load_claims(written(tmp_path, *claims, **top), list(runs.metrics.columns)))


def test_a_recorded_metric_is_its_mean_over_the_window_in_the_unit_that_is_asked_for(tmp_path: Path) -> None:
    ramp = np.arange(STEPS) / STEPS
    mine, other = [0.5, 0.7, 0.6, 0.9, 0.4], [0.3, 0.2, 0.35, 0.5, 0.25]
    write_arm(tmp_path / "runs", "mine", experiment="own", response_length=[9.0] * 5, score=lambda s: mine[s] + ramp)
    write_arm(tmp_path / "runs", "gspo", experiment="own", response_length=[9.0] * 5, score=lambda s: other[s] + ramp)
    base = LONGER | {"quantity": "score", "window": [6, 10], "delta": 0.01}
    plain, points, ratio = results(
        tmp_path, base, base | {"id": "p", "unit": "points"}, base | {"id": "r", "unit": "ratio", "delta": 1.01}
    )
    middle = ramp[5:10].mean()
    assert plain.sample.effects == pytest.approx(np.subtract(mine, other))
    assert points.sample.effects == pytest.approx(100 * np.subtract(mine, other))
    assert ratio.sample.effects == pytest.approx(np.log(np.add(mine, middle) / np.add(other, middle)))
    low, high = stats.t.interval(0.95, 4, np.mean(plain.sample.effects), stats.sem(plain.sample.effects))
    assert (plain.plain.low, plain.plain.high) == pytest.approx((low, high))
    assert plain.verdict == "supported"
    assert plain.text == f"+0.300 [+{low:.3f}, +{high:.3f}]"
    record = plain.record()
    assert (record["first_step"], record["last_step"], record["quantity"]) == (6, 10, "score")


def test_a_recorded_metric_at_equal_tokens(tmp_path: Path) -> None:
    ramp = np.arange(1, STEPS + 1, dtype=float)
    common = {"response_length": [9.0] * 5, "score": lambda seed: ramp + seed}
    write_arm(tmp_path / "runs", "mine", experiment="own", tokens=[200.0] * 5, **common)
    write_arm(tmp_path / "runs", "gspo", experiment="own", tokens=[100.0] * 5, **common)
    (result,) = results(tmp_path, LONGER | {"quantity": "score_at_equal_tokens", "window": "run", "delta": 0})
    # The thrifty arm spends 2000 tokens in 20 steps, the other one in its first 10.
    assert result.sample.effects == pytest.approx([ramp[:10].mean() - ramp.mean()] * 5)


def test_the_last_validation_that_both_have(tmp_path: Path) -> None:
    def at(steps: list[int], value: float) -> Any:
        return lambda seed: np.array([value + seed if n in steps else math.nan for n in range(1, STEPS + 1)])

    write_arm(tmp_path / "runs", "mine", experiment="own", response_length=[9.0] * 5, val_score=at([10, 18, 20], 3.0))
    write_arm(tmp_path / "runs", "gspo", experiment="own", response_length=[9.0] * 5, val_score=at([10, 18], 1.0))
    (result,) = results(tmp_path, LONGER | {"quantity": "val_score", "window": "final", "delta": 1})
    assert result.sample.effects == pytest.approx([2.0] * 5)
    assert result.sample.steps == (18,)


def test_windows_and_numbers_of_runs_of_the_file(tmp_path: Path) -> None:
    write_arm(tmp_path / "runs", "mine", range(3), experiment="own", response_length=[30.0, 33.0, 31.0])
    write_arm(tmp_path / "runs", "gspo", range(3), experiment="own", response_length=[20.0, 21.0, 20.0])
    late = LONGER | {"window": "late"}
    windows = {"late": [12, 15], "end": {"share": 0.1}}
    few, end = results(tmp_path, late, LONGER | {"id": "end"}, windows=windows)
    assert (few.verdict, few.reason) == ("not tested", "3 of 5 runs per arm")
    assert (few.sample.window, end.sample.window) == ((12, 15), (19, 20))
    enough, own = results(tmp_path, late, LONGER | {"id": "own", "n_min": 4}, windows=windows, n_min=3)
    assert (enough.verdict, own.verdict) == ("supported", "not tested")


def test_within_a_margin_is_a_range_around_no_effect(tmp_path: Path) -> None:
    write_arm(tmp_path / "runs", "mine", experiment="own", response_length=[20.1, 21.0, 19.9, 20.4, 20.0])
    write_arm(tmp_path / "runs", "gspo", experiment="own", response_length=[20.0, 20.9, 20.0, 20.3, 20.1])
    same, strict = results(
        tmp_path,
        LONGER | {"direction": "within", "delta": 1.05},
        LONGER | {"id": "strict", "direction": "within", "delta": 1.001},
    )
    assert same.rule.region == pytest.approx((-math.log(1.05), math.log(1.05)))
    assert (same.verdict, strict.verdict) == ("supported", "undecided")


def test_the_papers_file_passes_the_same_schema() -> None:
    again = load_claims(CLAIMS)
    assert [row.id for row in again.rows] == [row.id for row in paper_claims().rows]
    assert again.hash == paper_claims().hash
