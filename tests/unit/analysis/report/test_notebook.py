"""The notebook runs from top to bottom on the reference runs and says what the report says."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.statistics.claims import evaluate

ROOT = Path(__file__).resolve().parents[4]
NOTEBOOK = ROOT / "analysis" / "report.ipynb"


def test_it_is_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def executed(monkeypatch: pytest.MonkeyPatch, *experiments: str) -> tuple[int, str]:
    """The number of its pictures, and all text that it says."""
    monkeypatch.setenv("REPORT_RUNS", ":".join(f"results/reference/{name}" for name in experiments))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = " ".join(output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs), text


def test_it_runs_and_agrees_with_the_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, text = executed(monkeypatch, "tiny")
    assert pictures >= 4
    results = evaluate(load_runs(ROOT / "results/reference/tiny").select(experiment="tiny"), paper_claims())
    (c1,) = [result for result in results if result.claim.id == "C1"]
    assert c1.text in text
    assert re.search(rf"by hand, [\d.]+ %: {re.escape(c1.text)}", text)  # the same interval, not one of another level


@pytest.mark.parametrize("experiments", [("tiny_onpolicy", "tiny_fork_gspo_20"), ("tiny_fork_gspo_20",), ("smollm2",)])
def test_it_runs_on_whatever_experiment(monkeypatch: pytest.MonkeyPatch, experiments: tuple[str, ...]) -> None:
    pictures, text = executed(monkeypatch, *experiments)
    assert pictures >= 2
    assert f"of {', '.join(sorted(experiments, reverse=True))} this notebook shows " in text


def test_its_page_loads_nothing_from_the_network() -> None:
    exporter = HTMLExporter(extra_template_basedirs=[str(ROOT / "analysis" / "report")], template_name="offline")
    page, _ = exporter.from_filename(str(NOTEBOOK))
    assert "Does the loss make responses longer?" in page
    assert re.findall(r"<script[^>]*src|<link[^>]*href|import\s[^;]*https?:", page) == []
