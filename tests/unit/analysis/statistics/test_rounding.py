"""Clip fractions that are the arithmetic's: said of the arm, in the claims about clipping, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_run

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.report.numbers import build_report
from analysis.report.sections import arms_table
from analysis.statistics.pairs import experiment_runs
from analysis.statistics.rounding import mostly_rounding

ACTOR = "actor_rollout_ref.actor"
SEQUENCE = {"loss_mode": "gspo", "loss_agg_mode": "seq-mean-token-mean", "level": "sequence_mean", "clips": True,
            "derivative_is_ratio": True, "length_exponent": 0}  # fmt: skip
TREATMENT = {f"{ACTOR}.clip_ratio_low": 2e-3, f"{ACTOR}.clip_ratio_high": 2.5e-3,
             f"{ACTOR}.policy_loss.loss_mode": "gspo"}  # fmt: skip


def written(root: Path, noise: float, clipped: float, level: str = "sequence_mean", **more: Any) -> None:
    metrics = {
        "response_length": [17.0] * 20, "onpolicy_log_ratio_rms": [noise] * 20, "accuracy": [0.5] * 20,
        "clip_seqs": [100 * clipped] * 20, "clip_seqs_of": [100.0] * 20, "clip_tokens": [1700 * clipped] * 20,
        "clip_tokens_of": [1700.0] * 20,
    }  # fmt: skip
    loss = SEQUENCE | {"level": level}
    write_run(root, metrics, experiment="tiny", manifest={"treatment": TREATMENT, "loss": loss}, **more)


@pytest.mark.parametrize(
    ("noise", "clipped", "level", "said"),
    [
        (2.5e-3, 0.3, "sequence_mean", "rounding alone would clip 19 % of the responses of gspo, 30 % were"),
        (2.5e-3, 0.6, "sequence_mean", ""),  # more than twice as many
        (0.0, 0.0, "sequence_mean", ""),
        (2.5e-3, 0.3, "token", ""),
    ],
)
def test_what_is_said_of_a_run(tmp_path: Path, noise: float, clipped: float, level: str, said: str) -> None:
    written(tmp_path, noise, clipped, level)
    runs = load_runs(tmp_path)
    (run,) = experiment_runs(runs, paper_claims().rules["tiny"])
    found = mostly_rounding(run)
    assert (said in found) if said else (found == "")
    if said:  # (3 x .0025 / .002)^2 x 17
        assert found.endswith("it stops mattering at about 239 tokens")
        assert found.startswith("clip fraction here is mostly arithmetic noise: ")


def test_it_stands_below_the_arms_and_in_claims_about_clipping(tmp_path: Path) -> None:
    for seed in range(3):
        written(tmp_path, 2.5e-3, 0.3, seed=seed)
    report = build_report(load_runs(tmp_path), paper_claims())
    assert any("mostly arithmetic noise" in note for note in arms_table(report, "tiny").notes)
    about = {r["id"] for r in report["claims"] if "mostly arithmetic noise" in r["reason"]}
    assert about <= {"C6", "C7", "C8"}


def test_a_cell_of_fewer_runs_than_its_row_says_so(tmp_path: Path) -> None:
    """Three finished runs, of which one has no accuracy at one step."""
    for seed in range(3):
        accuracy = [0.2 + 0.1 * seed] * 10
        write_run(tmp_path, {"response_length": [20.0 + seed] * 10, "accuracy": accuracy}, experiment="tiny", seed=seed)
    lines = (tmp_path / "tiny" / "gspo" / "seed=2").rglob("metrics.jsonl")
    (file,) = lines
    rows = file.read_text().splitlines()
    file.write_text("\n".join(row.replace('"accuracy": 0.4', '"other": 0.4') if at == 4 else row
                              for at, row in enumerate(rows)) + "\n")  # fmt: skip
    table = arms_table(build_report(load_runs(tmp_path), paper_claims()), "tiny")
    (row,) = table.rows
    cells = dict(zip(table.columns, row, strict=True))
    assert cells["n"] == "3"
    assert str(cells["accuracy over the run (%)"].text).endswith(" (2 of 3)")
    assert "of 3" not in cells["length at end (tokens)"].text
    assert any(note.startswith("(2 of 3): ") for note in table.notes)
