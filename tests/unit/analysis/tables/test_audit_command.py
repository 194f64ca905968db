"""`python -m analysis audit`: a printed table against its own cells, on the paper's tables and on made-up ones."""

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis.paper.published import load_published
from analysis.report.audit import main
from analysis.runs.load import AnalysisError
from analysis.statistics.printed import Printed, parse, possible, smallest_samples, standard_error
from analysis.tables.printout import read


def printable(answers: int) -> set[str]:
    """Every share of right answers with one decimal, a half rounded either way."""
    shares = [100 * count / answers for count in range(answers + 1)]
    return {f"{share + nudge:.1f}" for share in shares for nudge in (-1e-9, 1e-9)}


@pytest.mark.parametrize("questions", [7, 30, 40])
@pytest.mark.parametrize("samples", [1, 3, 16])
def test_possible_cells_are_those_that_counting_finds(questions: int, samples: int) -> None:
    wanted = printable(questions * samples)
    for tenths in range(1001):
        text = f"{tenths / 10:.1f}"
        assert possible(Printed(float(text), 1), questions, samples) == (text in wanted), text


@pytest.mark.parametrize("text", ["11.8", "14.7", "83.6"])
def test_cells_of_the_paper_that_need_thirty_two_answers_to_thirty_questions(text: str) -> None:
    cell = parse(text)
    assert cell
    assert [k for k in (1, 2, 4, 8, 16, 32) if possible(cell, 30, k)] == [32]
    assert smallest_samples([cell], 30, (1, 2, 4, 8, 16, 32)) == 32


@pytest.mark.parametrize(
    ("text", "value", "decimals"),
    [("**41.7**", 41.7, 1), ("41.70%", 41.7, 2), ("+2.1", 2.1, 1), ("\u22120.4", -0.4, 1), ("\u21913", 3, 0),
     ("12.5 \u00b1 0.3", 12.5, 1), ("(3.2)", 3.2, 1)],
)  # fmt: skip
def test_numbers_as_people_print_them(text: str, value: float, decimals: int) -> None:
    assert parse(text) == Printed(value, decimals)


@pytest.mark.parametrize("text", ["", "-", "n/a", "GRPO"])
def test_what_is_no_number(text: str) -> None:
    assert parse(text) is None


def test_the_standard_error_is_that_of_a_share() -> None:
    answers = [1] * 12 + [0] * 18
    assert standard_error(40.0, 30) == pytest.approx(100 * pd.Series(answers).std(ddof=0) / 30**0.5)


def paper_table(folder: Path) -> Path:
    """Table 2 of the paper as its authors printed it: a row an algorithm, a column a benchmark."""
    published = load_published()
    rows = published[(published["table"] == 2) & (published["algo"] != "base")]
    wide = rows.pivot_table(index=["setting", "algo"], columns="benchmark", values="value", sort=False)
    file = folder / "table.csv"
    wide.reset_index().to_csv(file, index=False)
    return file


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(words, Console(width=200, force_terminal=False))
    return status, capsys.readouterr().out


def test_the_papers_own_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output = said([str(paper_table(tmp_path)), "--samples", "1"], capsys)
    assert status == 1
    assert "impossible" in output
    part = output.split("How many answers")[1].split("Least k:")[0]
    columns = {line.split()[0]: line.split() for line in part.splitlines() if line.strip()}
    assert columns["MATH500"][3] == "1"  # every cell of MATH500 fits one answer a question
    assert columns["AIME24"][4] == "32"


TABLE = """\
| data | method | AIME24 | GSM8K | Mine | Avg | length |
|---|---|---|---|---|---|---|
| A | GRPO | 10.0 | 50.0 | 30.0 | 30.0 | 1200 |
| | GSPO | 13.3 | 60.0 | 33.0 | **36.0** | 1100 |
| | GSPO - GRPO | +3.3 | +9.0 | +3.0 | +6.0 | -100 |
| B | GRPO | 11.8 | 55.0 | 40.0 | 35.6 | 900 |
| | \u0394 | 1.0 | 1.0 | 1.0 | 1.0 | 1 |
"""


def test_averages_differences_and_what_was_not_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.md"
    file.write_text(TABLE)
    status, output = said([str(file)], capsys)
    assert status == 1
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "A GRPO 30.0 30.00 0.10 agrees" in lines
    assert "A GSPO 36.0 35.43 0.10 contradicts" in lines
    assert "A GSPO - GRPO GSM8K 9.0 10.00 0.15 contradicts" in lines
    assert "A GSPO - GRPO length -100 -100.0 1.5 agrees" in lines
    assert any(line.startswith("not checked: row '\u0394' is left out: name it after") for line in lines)
    assert "not checked: column 'Mine': how many questions has it? --questions Mine=N" in lines
    assert any("column 'length'" in line for line in lines)
    assert "3 cannot be right" not in output  # the two above; 11.8 is possible with 17 answers
    assert "2 cannot be right" in output
    words = ["--samples", "16", "--questions", "mine=100", "--out", str(tmp_path / "o")]
    _, with_samples = said([str(file), *words], capsys)
    assert "impossible" in with_samples
    assert "Mine" not in with_samples.split("not checked")[-1]
    assert (tmp_path / "o" / "audit_cells.csv").exists()


def test_a_table_that_can_be_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "table.csv"
    file.write_text("method;AMC23\nGRPO;52.5\nGSPO;50.0\n")
    status, output = said([str(file)], capsys)
    assert status == 0
    assert "within 1" in output


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("", [], "no table: a head and at least one row"),
        ("method,AIME24\n", [], "no table: a head and at least one row"),
        ("method,AIME24\na,1.0,2.0\n", [], "row 2: 3 cells under 2 columns"),
        ("method,what\na,b\n", [], "no column of numbers"),
        ("m,x,x\na,1,2\n", [], "the column 'x' is there twice"),
        ("m,x\na,1\n", ["--questions", "x"], "NAME=N is expected"),
        ("m,x\na,1\n", ["--questions", "x=0"], "NAME=N is expected"),
        ("m,x\na,1\n", ["--samples", "0"], "at least 1"),
    ],
)
def test_bad_input_in_one_line(tmp_path: Path, content: str, words: list[str], message: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(content)
    with pytest.raises(AnalysisError, match=message) as error:
        main([str(file), *words])
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("none.csv", "binary.csv"):
        with pytest.raises(AnalysisError, match=name):
            read(tmp_path / name)
