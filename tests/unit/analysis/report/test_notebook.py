"""The notebook runs from top to bottom on the reference runs and says what the report says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import load_runs
from analysis.statistics.claims import evaluate, load_claims

ROOT = Path(__file__).resolve().parents[4]
NOTEBOOK = ROOT / "analysis" / "report.ipynb"


def test_it_is_committed_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def test_it_runs_and_agrees_with_the_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT_RUNS", "results/reference/tiny")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    text = " ".join(output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    results = evaluate(load_runs(ROOT / "results/reference/tiny").select(experiment="tiny"), load_claims())
    (c1,) = [result for result in results if result.claim.id == "C1"]
    assert c1.text in text
