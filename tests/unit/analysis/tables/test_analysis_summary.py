"""The summary frame, the table and the command line."""

import json
import math
from io import StringIO
from pathlib import Path

import pytest
from fake_runs import training_like, write_attempt, write_run
from rich.console import Console

from analysis import load_runs, print_summary, summary_frame
from analysis.__main__ import main


def printed(path: Path, **console: object) -> str:
    out = StringIO()
    print_summary(load_runs(path), Console(file=out, **{"width": 80, **console}))  # pyright: ignore[reportArgumentType]
    return out.getvalue()


def test_length_over_the_run_and_over_the_last_fifth(tmp_path: Path) -> None:
    write_run(tmp_path, {"response_length": range(1, 11)}, planned=10)
    write_run(tmp_path, {"response_length": range(1, 10)}, planned=10, state="failed", seed=1)
    frame = summary_frame(load_runs(tmp_path))
    assert frame["length"].tolist() == [5.5, 5.0]
    assert frame["length_end"][0] == 9.5  # steps 9 and 10
    assert math.isnan(frame["length_end"][1])  # it did not reach the end of the window


def test_clip_fractions_are_pooled_from_sums_where_there_are_any(tmp_path: Path) -> None:
    means = {"clip_frac_token": [0.5, 0.1], "clip_frac_seq": [0.5, 0.3]}
    write_run(tmp_path, {**means, "clip_tokens": [5, 100], "clip_tokens_of": [10, 1000]})
    row = summary_frame(load_runs(tmp_path)).iloc[0]
    assert row["clip_token"] == pytest.approx(105 / 1010)
    assert row["clip_seq"] == pytest.approx(0.4)  # no sums: the mean over steps


def test_failed_runs_are_shown_with_their_error(tmp_path: Path) -> None:
    write_run(tmp_path, training_like(10, 0), seed=0)
    write_run(tmp_path, training_like(5, 1), seed=1, state="failed", planned=10, error="CUDA out of memory")
    plain = printed(tmp_path)
    assert "failed 5/10" in plain
    assert "failed: fake/gspo/seed=1: CUDA out of memory" in plain
    assert "\x1b" not in plain  # a log has no colours
    assert "\x1b[31m" in printed(tmp_path, force_terminal=True, color_system="standard")


def test_mean_row_is_over_finished_runs_and_says_how_many(tmp_path: Path) -> None:
    for seed, (length, state) in enumerate([(10.0, "done"), (20.0, "done"), (99.0, "failed")]):
        write_run(tmp_path, {"response_length": [length] * 5}, seed=seed, state=state)
    write_run(tmp_path, {"response_length": [7.0] * 5}, arm="luspo")
    (mean,) = [line for line in printed(tmp_path).splitlines() if " mean " in line]
    assert mean.split()[:5] == ["gspo", "mean", "2/3", "done", "15.0"]  # and none for an arm of one run


def test_fits_80_columns(tmp_path: Path) -> None:
    metrics = training_like(10, 0)
    metrics["response_length"] = metrics["response_length"] * 200
    for seed in (0, 1):
        write_run(
            tmp_path, metrics, arm="luspo_norm,clip=symmetric,lr=2e-06", seed=seed, planned=500, state="incomplete"
        )
    rows = [line for line in printed(tmp_path).splitlines() if not line.startswith("incomplete:")]
    assert max(map(len, rows)) <= 80
    assert not any("…" in line for line in rows)


def test_warnings_are_printed(tmp_path: Path) -> None:
    write_attempt(write_run(tmp_path), {1: {"response_length": 1.0}}, tail="{")
    assert "warning: " in printed(tmp_path)
    assert "torn" in printed(tmp_path)


def test_command_writes_figures_and_lists_missing_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arm in ("gspo", "luspo"):
        metrics = training_like(6, 0)
        del metrics["accuracy"]
        write_run(tmp_path / "runs", metrics, arm=arm)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--smooth", "3"]) == 0
    names = {file.name for file in (tmp_path / "out/figures").iterdir()}
    assert names == {
        "headline.png",
        *(
            f"{name}.{kind}"
            for name in ("response_length", "clip_fraction", "reward", "contrasts")
            for kind in ("png", "pdf")
        ),
    }
    absent = json.loads((tmp_path / "out/report.json").read_text())["missing_figures"]
    assert absent["fake"]["accuracy"] == "no run recorded accuracy"
    out = capsys.readouterr().out
    assert " 5 figures," in out
    assert f"{sum(map(len, absent.values()))} figures need other runs or records" in out


def test_command_keeps_experiments_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for experiment in ("one", "two"):
        write_run(tmp_path / "runs", training_like(4, 0), experiment=experiment, controlled={"task": experiment})
    assert main(["runs"]) == 0
    assert (tmp_path / "results/reports/one+two/figures/one/reward.pdf").exists()
    assert main(["runs", "--out", "out"]) == 0
    assert (tmp_path / "out/figures/two/reward.png").exists()


def test_command_refuses_bad_input_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no runs found")
    assert error.count("\n") == 1
    run = write_run(tmp_path, training_like(4, 0))
    assert main([str(run.path), "--out", str(tmp_path / "out"), "--smooth", "0"]) == 2


def test_unmatched_arms_are_contrasted_only_if_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", training_like(4, 0), arm="gspo", controlled={"actor.lr": 1e-6})
    write_run(tmp_path / "runs", training_like(4, 0), arm="luspo", controlled={"actor.lr": 2e-6})
    command = [str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "left out: fake/luspo/seed=0: not matched" in out
    assert "actor.lr (1e-06 | 2e-06)" in out
    assert "1 runs" in out
    assert main([*command, "--varies", "actor.lr"]) == 0
    out = capsys.readouterr().out
    assert "left out" not in out
    assert "2 runs" in out
