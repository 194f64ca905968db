"""The sentences at the top of a report, from runs whose lengths and accuracies are known."""

from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run

from analysis.__main__ import main
from analysis.paper.claims import BASELINES, PAIRS, paper_claims
from analysis.report.answer import answer, conditions
from analysis.report.numbers import Report, build_report
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.comparison import LESS, MORE, OPEN, SAME, UNTESTED, chosen_pairs

STEPS = 20


def write(root: Path, arm: str, factor: float, gain: float = 0.0, seeds: int = 5, noise: float = 0.01) -> None:
    """Runs of an arm that end ``factor`` times as long as 20 tokens and are ``gain`` points more accurate than 50 %."""
    for seed in range(seeds):
        draw = np.random.default_rng([seed, *arm.encode()])
        metrics = {
            "response_length": np.linspace(20, 20 * factor, STEPS) * np.exp(draw.normal(0, noise)),
            "accuracy": np.full(STEPS, 0.5 + gain / 100 + draw.normal(0, noise / 10)),
            "tokens": np.full(STEPS, 100.0),
            "ppo_kl": np.full(STEPS, 0.1),
        }
        write_run(root, metrics, experiment="own", arm=arm, seed=seed, manifest={"step1_responses": str(seed)})


def report(root: Path, *contrasts: str) -> Report:
    return build_report(load_runs(root), paper_claims(), contrasts=contrasts)


def said(root: Path, *contrasts: str) -> list[str]:
    return answer(report(root, *contrasts), "own")


def test_a_longer_and_better_loss(tmp_path: Path) -> None:
    """Also of an experiment that no file of claims knows."""
    write(tmp_path, "gspo", 1.0)
    write(tmp_path, "luspo", 2.0, gain=8)
    length, accuracy = said(tmp_path)
    assert length.startswith("LUSPO's responses are longer than GSPO's: at the end of training they are 1.9")
    assert "(95 % interval 1." in length
    assert length.endswith("5 seeds).")
    assert accuracy.startswith(
        "LUSPO is more accurate. LUSPO's training accuracy minus GSPO's, in percentage points: +8.0"
    )


def test_equal_losses_are_said_to_be_equal_and_not_just_undecided(tmp_path: Path) -> None:
    write(tmp_path, "gspo", 1.0)
    write(tmp_path, "luspo", 1.0)
    length, accuracy = said(tmp_path)
    assert length.startswith("LUSPO's and GSPO's responses are equally long, within 10 %: at the end")
    assert accuracy.startswith("Accuracy does not differ by more than 1 point.")


def test_noise_decides_nothing(tmp_path: Path) -> None:
    write(tmp_path, "gspo", 1.0, noise=0.8)
    write(tmp_path, "luspo", 1.2, noise=0.8)
    length, accuracy = said(tmp_path)
    assert length.startswith("Whether LUSPO's responses are longer than GSPO's is undecided: ")
    assert accuracy.startswith("These runs do not decide which is more accurate.")


@pytest.mark.parametrize(
    ("verdicts", "head"),
    [
        ((MORE, MORE, MORE), "LUSPO is more accurate."),
        ((LESS, LESS, UNTESTED), "LUSPO is less accurate."),
        ((MORE, SAME, OPEN), "LUSPO is more accurate, but not on every basis of comparison."),
        ((MORE, OPEN, LESS), "Which is more accurate depends on what is held equal."),
        ((SAME, SAME, OPEN), "These runs do not decide which is more accurate."),
    ],
)
def test_the_bases_of_comparison_may_disagree(tmp_path: Path, verdicts: tuple[str, ...], head: str) -> None:
    write(tmp_path, "gspo", 1.0)
    write(tmp_path, "luspo", 1.0)
    made = report(tmp_path)
    records = [one for one in made["experiments"]["own"]["comparisons"] if one["quantity"] == "accuracy"]
    for record, verdict in zip(records, verdicts, strict=True):
        record["verdict"] = verdict
    assert answer(made, "own")[1].startswith(f"{head} LUSPO's training accuracy minus GSPO's")


def test_one_seed_is_no_answer(tmp_path: Path) -> None:
    write(tmp_path, "gspo", 1.0, seeds=1)
    write(tmp_path, "luspo", 2.0, seeds=1)
    (only,) = said(tmp_path)
    assert only.startswith("One run of each loss says nothing about the loss: runs of one loss differ, too.")


def test_a_lost_run_keeps_the_answer_open(tmp_path: Path) -> None:
    write(tmp_path, "gspo", 1.0)
    write(tmp_path, "luspo", 2.0)
    write_run(tmp_path, {"response_length": np.full(3, 20.0)}, experiment="own", arm="luspo", seed=7, state="failed",
              planned=STEPS, error="ValueError: of its own", manifest={"step1_responses": "7"})  # fmt: skip
    write_run(tmp_path, {"response_length": np.full(STEPS, 20.0), "accuracy": np.full(STEPS, 0.5)}, experiment="own",
              arm="gspo", seed=7, manifest={"step1_responses": "7"})  # fmt: skip
    assert said(tmp_path)[0].startswith("Whether LUSPO's responses are longer than GSPO's is undecided: ")


def test_a_loss_of_ones_own_is_compared_with_gspo_and_any_two_on_request(tmp_path: Path) -> None:
    for arm, factor in (("gspo", 1.0), ("mine", 1.5), ("other", 1.2)):
        write(tmp_path, arm, factor)
    assert said(tmp_path)[0].startswith("mine's responses are longer than GSPO's")
    assert said(tmp_path)[-1].startswith("Length at the end of the others: other 1.")
    (first, _) = said(tmp_path, "other:mine")
    assert first.startswith("other's responses are shorter than mine's")


def test_what_was_compared_is_said(tmp_path: Path) -> None:
    write(tmp_path, "gspo", 1.0)
    write(tmp_path, "luspo", 2.0, seeds=4)
    text = conditions(report(tmp_path), "own")
    assert text.startswith("GSPO (5) and LUSPO (4), finished runs in brackets; 20 steps, ")
    assert "Matched: nothing but the loss differs and the first responses are the same in 4 of 4 pairs of runs." in text


@pytest.mark.parametrize(
    ("arms", "asked", "pairs"),
    [
        ({"luspo", "gspo", "grpo"}, (), [("luspo", "gspo"), ("gspo", "grpo"), ("luspo", "grpo")]),
        ({"luspo", "gspo", "mine"}, (), [("luspo", "gspo"), ("mine", "gspo")]),
        ({"grpo", "mine"}, (), [("mine", "grpo")]),
        ({"mine", "cispo,lr=1e-06", "cispo"}, (), [("cispo,lr=1e-06", "cispo"), ("mine", "cispo")]),
        ({"b", "a", "c"}, (), [("b", "a"), ("c", "a")]),
        ({"mine"}, (), []),
        ({"luspo", "gspo"}, ("gspo:luspo",), [("gspo", "luspo")]),
    ],
)
def test_which_pairs_are_compared(arms: set[str], asked: tuple[str, ...], pairs: list[tuple[str, str]]) -> None:
    assert chosen_pairs(arms, asked, PAIRS, BASELINES) == pairs


def test_without_claims_every_arm_is_compared_with_one_baseline() -> None:
    arms = {"luspo", "gspo", "grpo", "mine"}
    assert chosen_pairs(arms) == [("gspo", "grpo"), ("luspo", "grpo"), ("mine", "grpo")]
    assert chosen_pairs(arms, baselines=("mine",)) == [("grpo", "mine"), ("gspo", "mine"), ("luspo", "mine")]


@pytest.mark.parametrize("text", ["luspo", "luspo:luspo", "luspo:gsop", ":gspo"])
def test_a_pair_that_is_none_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AnalysisError, match=f"contrast {text}: "):
        chosen_pairs({"luspo", "gspo"}, (text,))
    write(tmp_path / "runs", "gspo", 1.0, seeds=1)
    write(tmp_path / "runs", "luspo", 1.0, seeds=1)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--contrast", text]) == 2
    assert capsys.readouterr().err.startswith(f"error: contrast {text}: ")
