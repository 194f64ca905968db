"""The README's blocks: made from data alone, the same bytes each time, the rest untouched; and what a reader finds."""

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from fake_runs import training_like, write_run
from scipy import stats

from analysis import AnalysisError
from analysis.figures.headline import said_of
from analysis.paper.claims import paper_claims
from analysis.report.numbers import build_report
from analysis.report.readme import MARKERS, blocks, main, replace_block, results_page
from analysis.runs.load import load_runs

ROOT = Path(__file__).resolve().parents[4]
BEFORE, AFTER = "# Title\n\n1.23 x is typed here.\n\n", "\n\nThe rest.\n"
NAMES = ("figure", "findings", "claims")
BEGIN, END = (marker.format("findings") for marker in MARKERS)
EMPTY = "\n\n".join(f"{MARKERS[0].format(name)}\nfrom before\n{MARKERS[1].format(name)}" for name in NAMES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(BEFORE + EMPTY + AFTER)
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
    assert first.startswith(BEFORE + MARKERS[0].format("figure"))
    assert first.endswith(MARKERS[1].format("claims") + AFTER)
    assert "from before" not in first
    outputs = ("README.md", "docs/results.md", "results/reports/readme/report.json", "results/reference/figure.png")
    written = [(folder / name).read_bytes() for name in outputs]
    assert main(["runs/tiny/luspo", "runs/tiny", "runs/smollm2"]) == 0  # in another order
    assert [(folder / name).read_bytes() for name in outputs] == written


def test_the_caption_counts_runs() -> None:
    assert said_of({"gspo": 1, "luspo": 1}) == "Line: one run of each loss, smoothed over 5 steps."
    assert said_of({"gspo": 2, "luspo": 1}).startswith("Line: mean of 2 runs of gspo and 1 run of luspo, each smoothed")


def test_what_the_blocks_say(folder: Path) -> None:
    main(["runs"])
    text = (folder / "README.md").read_text()
    report = json.loads((folder / "results/reports/readme/report.json").read_text())
    claims = {(r["id"], r["row"], r["experiment"]): r for r in report["claims"]}
    c1 = claims["C1", "", "tiny"]
    numbers = c1["stated"].replace(" x", " times", 1)
    assert "| what the paper claims | `tiny` |" in text  # no column for smollm2: a single run has no verdict
    assert f"| LUSPO's responses are longer than GSPO's (C1) | *{c1['verdict']}*: {numbers} |" in text
    assert "](results/reference/figure.png)" in text
    flowing = " ".join(text.split())
    assert "Line: mean of 5 runs of each loss, each smoothed over 5 steps; band: 95 % interval" in flowing
    assert "20 steps on 2 cores (x86_64), 1.00 minutes a run." in flowing
    assert "secret" not in text


def test_the_findings_are_the_t_intervals_of_the_runs(folder: Path) -> None:
    main(["runs"])
    flowing = " ".join((folder / "README.md").read_text().split())
    runs = load_runs("runs").select(experiment="tiny").metrics
    last = runs[runs["step"] > 16].groupby(["arm", "seed"])["response_length"].mean()  # the last fifth
    logs = np.log(last["luspo"]) - np.log(last["gspo"])
    half = stats.t.ppf(0.975, 4) * logs.std(ddof=1) / 5**0.5
    shown = [f"{math.exp(at):.3g}" for at in (logs.mean(), logs.mean() - half, logs.mean() + half)]
    assert f"LUSPO's responses end {shown[0]} [{shown[1]}, {shown[2]}] times as long as GSPO's" in flowing
    accuracy = 100 * runs.groupby(["arm", "seed"])["accuracy"].mean()
    points = accuracy["luspo"] - accuracy["gspo"]
    half = stats.t.ppf(0.975, 4) * points.std(ddof=1) / 5**0.5
    said = f"{points.mean():+.1f} [{points.mean() - half:+.1f}, {points.mean() + half:+.1f}]"
    assert f"{said} after equal numbers of steps" in flowing


def test_the_page_of_results_has_every_claim_and_arm(folder: Path) -> None:
    main(["runs"])
    text = (folder / "docs/results.md").read_text()
    report = json.loads((folder / "results/reports/readme/report.json").read_text())
    (c1,) = [r for r in report["claims"] if r["id"] == "C1" and r["experiment"] == "tiny"]
    (row,) = [line for line in text.splitlines() if line.startswith("| **C1**")]
    single = f"{c1['values']['0']:.2f} x (1), not tested"
    not_run = ["not run"] * 4  # mini_dense, mini_moe, mini_images, mini_images_text
    assert row.split(" | ")[1:] == [f"{c1['stated']} (5), {c1['verdict']}", *not_run, single, "not run |"]
    gspo = next(arm for arm in report["experiments"]["tiny"]["arms"] if arm["arm"] == "gspo")
    length = gspo["length at end (tokens)"]
    assert length["low"] < length["mean"] < length["high"]
    assert f"| gspo | 5 | {length['mean']:.1f} [{length['low']:.1f}, {length['high']:.1f}] | - |" in text


def test_without_the_figures_experiment(folder: Path) -> None:
    assert main(["runs/smollm2"]) == 0
    text = (folder / "README.md").read_text()
    assert "*No figure: no run of the experiment tiny was read.*" in text
    assert "the runs of the experiment `tiny` are not among those that were read" in text
    assert not (folder / "results/reference").exists()


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_markers_must_be_there_once_and_in_order(text: str) -> None:
    with pytest.raises(AnalysisError, match="findings:begin"):
        replace_block(text, "findings", "new")


def test_errors_are_one_line_and_write_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--readme", "absent.md"]) == 2
    (folder / "README.md").write_text("no markers")
    assert main(["runs"]) == 2
    assert main(["nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert not (folder / "results").exists()


def test_the_readme_says_what_the_reference_runs_say() -> None:
    claims, text = paper_claims(), (ROOT / "README.md").read_text()
    report = build_report(load_runs(ROOT / "results" / "reference"), claims)
    for name, block in blocks(report).items():
        assert replace_block(text, name, block) == text, f"run `make readme`: the block {name} is not what it writes"
    assert (ROOT / "docs" / "results.md").read_text() == results_page(report, claims), "run `make readme`"


def test_a_stranger_finds_the_command_and_the_page_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert next(at for at, line in enumerate(lines, 1) if line.startswith("make sweep")) <= 40
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_every_command_and_link_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        assert importlib.util.find_spec(module), module
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (ROOT / link).exists(), link
