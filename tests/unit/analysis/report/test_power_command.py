"""``python -m analysis power``: what it prints and writes, its errors in one line, and the report's last sentences."""

import json
from pathlib import Path
from typing import Any

import pytest
from claim_runs import CLAIMS, write_arm, write_lengths

from analysis.__main__ import main
from analysis.report.numbers import build_report
from analysis.report.sections import claims_table
from analysis.runs.load import load_runs

SPREAD = [1.02, 1.3, 1.1, 0.9, 1.2]
TINY = Path(__file__).resolve().parents[4] / "results" / "reference" / "tiny"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_it_prints_the_plan_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "power.json"
    assert main(["power", str(TINY), "--claim", "c11", "--claim", "C1", "--json", str(file)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    content = json.loads(file.read_text())
    assert [row["id"] for row in content["rows"]] == ["C1", *["C11"] * 4]
    assert content["level"] == 0.95
    steps = content["rows"][1]
    assert f"{steps['sd']:.2f} [{steps['sd_low']:.3f}, {steps['sd_high']:.2f}]" in out
    assert f"{steps['detectable']['5']:.2f}" in out
    needed = steps["to_find_smallest"]
    assert f"{needed['n']} ({needed['low']} to {needed['high']})" in out
    assert "10 min a seed" in out
    assert content["rows"][2]["to_find_observed"]["high"] is None  # more than any number that is asked
    assert "to >1000)" in out


@pytest.mark.parametrize(
    ("claim", "said"),
    [("C99", "claims.yaml has no claim 'C99'; those that compare two arms are C1, "), ("C9", "compares no two arms")],
)
def test_a_claim_that_is_none(claim: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", str(TINY), "--claim", claim]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def failed(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["power", str(folder), *words]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    return found.err.strip()


def test_what_cannot_be_planned_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no runs found: no manifest.json" in failed(tmp_path, capsys)
    write_arm(tmp_path / "one", "gspo", response_length=[20.0] * 5)
    said = failed(tmp_path / "one", capsys)
    assert "tiny: only runs of gspo, and C1 compares luspo and gspo" in said
    assert said.endswith("make sweep EXPERIMENT=tiny ALGOS=luspo,gspo SEEDS=0,1,2")
    for seeds, there in ((1, "1,2"), (2, "2")):
        write_lengths(tmp_path / f"few{seeds}", SPREAD[:seeds])
        said = failed(tmp_path / f"few{seeds}", capsys, "--claim", "C1")
        assert f"a spread needs 3 seeds of each arm, found {seeds} (C1)" in said
        assert said.endswith(f"make sweep EXPERIMENT=tiny ALGOS=gspo,luspo SEEDS={there}")
    write_lengths(tmp_path / "mine", SPREAD, experiment="mine")
    said = failed(tmp_path / "mine", capsys)
    assert "mine: the paper's claims are not about it; write some of your own (docs/claims.md)" in said
    write_lengths(tmp_path / "there", SPREAD)
    assert "no benchmark evaluated" in failed(tmp_path / "there", capsys, "--claim", "C13")
    (tmp_path / "file").write_text("")
    file = str(tmp_path / "file" / "power.json")
    assert "cannot be written" in failed(tmp_path / "there", capsys, "--claim", "C1", "--json", file)


def test_rows_that_cannot_be_planned_are_named_below_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lengths(tmp_path, SPREAD)
    write_arm(
        tmp_path, "grpo", range(2), response_length=[20.0] * 2, clip_tokens=[1.0, 2.0], clip_tokens_of=[100.0] * 2
    )
    assert main(["power", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("not planned: tiny, gspo and grpo: ") and "(C6)" in line for line in lines)


def reason_of(folder: Path) -> tuple[dict[str, Any], str]:
    """C1 of the report of these runs, and the last entry of its row."""
    report = build_report(load_runs(folder), CLAIMS)
    (c1,) = [result for result in report["claims"] if result["id"] == "C1"]
    (row,) = [row for row in claims_table(report, "tiny").rows if row[1] == "C1"]
    assert c1["verdict"] == "undecided"
    assert all(r["to_decide"] is None for r in report["claims"] if r["verdict"] != "undecided")
    return c1["to_decide"], str(row[-1])


def test_an_undecided_claim_of_a_report_ends_with_the_seeds_that_decide_it(tmp_path: Path) -> None:
    write_lengths(tmp_path / "longer", [1.02, 1.5, 1.1, 1.0, 1.6])
    more, said = reason_of(tmp_path / "longer")
    assert said.startswith(f"{more['more']} more seeds ({more['more_low']} to ")
    assert "as supported" in said
    assert said.endswith(more["command"])
    assert more["command"].startswith("make sweep EXPERIMENT=tiny ALGOS=gspo,luspo SEEDS=")
    write_lengths(tmp_path / "alike", [1.1, 0.92, 1.05, 0.95, 1.0])
    assert "as negligible" in reason_of(tmp_path / "alike")[1]


def test_an_effect_at_the_border_of_two_verdicts_has_no_number_of_seeds(tmp_path: Path) -> None:
    write_lengths(tmp_path, SPREAD)  # 1.095 on average, and 1.1 is the smallest that matters
    more, said = reason_of(tmp_path)
    assert (more["more"], more["command"]) == (None, "")
    assert said == "even 1000 seeds would probably not decide it: the effect is close to where two verdicts meet"
