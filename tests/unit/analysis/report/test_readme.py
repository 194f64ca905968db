"""The README's block: made from data alone, the same bytes each time, the rest of the text untouched."""

import json
from pathlib import Path

import pytest
from fake_runs import training_like, write_run

from analysis import AnalysisError
from analysis.report.readme import BEGIN, END, main, replace_block

BEFORE, AFTER = "# Title\n\n1.23 x is typed here.\n\n", "\n\nThe rest.\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"{BEFORE}{BEGIN}\nfrom before\n{END}{AFTER}")
    hardware = {"hardware": {"host": "secret", "cores": 2, "machine": "x86_64"}}
    for arm, growth in (("grpo", 0.5), ("gspo", 0.1), ("luspo", 0.9)):
        for seed in range(5):
            metrics = training_like(20, seed, growth)
            metrics |= {"tokens": 16 * metrics["response_length"], "val_accuracy": metrics["accuracy"]}
            experiments = ("tiny", "smollm2") if seed == 0 else ("tiny",)
            for experiment in experiments:
                write_run(tmp_path / "runs", metrics, arm=arm, seed=seed, experiment=experiment, manifest=hardware)
    return tmp_path


def test_block_is_idempotent_and_the_rest_untouched(folder: Path) -> None:
    assert main(["runs"]) == 0
    first = (folder / "README.md").read_text()
    assert first.startswith(BEFORE + BEGIN)
    assert first.endswith(END + AFTER)
    assert "from before" not in first
    outputs = ("README.md", "results/reports/readme/report.json", "results/reference/figure.png")
    written = [(folder / name).read_bytes() for name in outputs]
    assert main(["runs/tiny/luspo", "runs/tiny", "runs/smollm2"]) == 0  # in another order
    assert [(folder / name).read_bytes() for name in outputs] == written


def test_what_the_block_says(folder: Path) -> None:
    main(["runs"])
    text = (folder / "README.md").read_text()
    report = json.loads((folder / "results/reports/readme/report.json").read_text())
    (c1,) = [r for r in report["claims"] if r["id"] == "C1" and r["experiment"] == "tiny"]
    (row,) = [line for line in text.splitlines() if line.startswith("| **C1**")]
    single = f"{c1['values']['0']:.2f} x (1), not tested"
    assert row.split(" | ")[1:] == [f"{c1['text']} (5), {c1['verdict']}", single, "not run |"]
    assert "](results/reference/figure.png)" in text
    assert "finished runs n = 5 of grpo, 5 of gspo, 5 of luspo" in text
    assert "20 steps on 2 cores (x86_64), 1.00 minutes a run." in text
    assert "secret" not in text
    gspo = next(arm for arm in report["experiments"]["tiny"]["arms"] if arm["arm"] == "gspo")
    length = gspo["length at end (tokens)"]
    assert length["low"] < length["mean"] < length["high"]
    assert f"| gspo | 5 | {length['mean']:.1f} [{length['low']:.1f}, {length['high']:.1f}] | - |" in text


def test_without_the_figures_experiment(folder: Path) -> None:
    assert main(["runs/smollm2"]) == 0
    assert "*Figure: experiment tiny not run.*" in (folder / "README.md").read_text()
    assert not (folder / "results/reference").exists()


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_markers_must_be_there_once_and_in_order(text: str) -> None:
    with pytest.raises(AnalysisError, match="results:begin"):
        replace_block(text, "new")


def test_errors_are_one_line_and_write_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--readme", "absent.md"]) == 2
    (folder / "README.md").write_text("no markers")
    assert main(["runs"]) == 2
    assert main(["nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert not (folder / "results").exists()
