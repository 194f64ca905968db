"""Tables in LaTeX: compiled where pdflatex is, read by a small parser everywhere."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis.paper.audit import audit
from analysis.paper.claims import paper_claims
from analysis.paper.published import load_published
from analysis.paper.tables import benchmark_table, paper_table
from analysis.report.numbers import build_report
from analysis.report.page import own_tables
from analysis.runs.load import load_runs
from analysis.tables.latex import PACKAGES, to_latex
from analysis.tables.settings import settings_table
from analysis.tables.table import Entry, Table

ROOT = Path(__file__).resolve().parents[4]
LATIN = "".join(map(chr, [*range(0x20, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]))
TEXT = "a sentence that is so long that no page has room for it and a second column beside it in one line"


def table(*rows: tuple[str | Entry, ...], columns: tuple[str, ...] = ("arm", "a", "b"), title: str = "T") -> Table:
    return Table("name", title, columns, rows)


def nasty() -> list[Table]:
    """Tables of what LaTeX would interpret, of what its fonts lack, and of what does not fit its lines and pages."""
    cells = (LATIN, "\N{SNOWMAN} \x1b[31m \u4e2d\u6587 \u200b", Entry("[-1.5, -3] -- ,, '' ?` *", bold=True))
    odd = Table(LATIN, LATIN, (*cells[:2], "c"), (cells, ("", "", ""), ("*", "[", "]")), (LATIN, "-"))
    key = "actor_rollout_ref.rollout.engine_kwargs.transformers.max_batch=" + 40 * "0"
    wide = Table(
        "wide", TEXT, tuple(f"Benchmark {n}" for n in range(12)), (tuple("10.0 [9.0, 11.0]" for _ in range(12)),)
    )
    high = Table("high", TEXT, ("key", "value"), tuple((f"{key}{n}", TEXT) for n in range(90)), (TEXT,))
    return [odd, wide, high, Table("empty", "Empty", ("a", "b"), ())]


@pytest.fixture(scope="module")
def written() -> list[Table]:
    """The tables that the report of the reference runs writes, those of the paper among them."""
    runs, published = load_runs(ROOT / "results/reference/tiny"), load_published()
    own = [found for chapter in own_tables(build_report(runs, paper_claims())).values() for found in chapter]
    of_paper = [paper_table(number, runs, published) for number in (2, 3, 4, 5)]
    return [*own, benchmark_table(runs), *of_paper, settings_table(runs), *audit(published)]


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row; asserts that braces, environments, formulas and commands are what they must be."""
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= {
        "addlinespace", "allowbreak", "arraybackslash", "begin", "begingroup", "bottomrule", "caption", "centering",
        "dimexpr", "end", "endfirsthead", "endgroup", "endhead", "footnotesize", "label", "linewidth", "medskip",
        "midrule", "par", "raggedleft", "raggedright", "relax", "setlength", "tabcolsep", "textasciicircum",
        "textasciigrave", "textasciitilde", "textbackslash", "textbar", "textbf", "textgreater", "textless",
        "textquotedbl", "toprule",
    }  # fmt: skip
    opened: list[str] = []
    for command, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert command == "begin" or opened.pop() == name
        opened += [name] if command == "begin" else []
    assert not opened
    tokens = re.findall(r"\\[a-zA-Z]+|\\.|[^\\]", re.sub(r"\\(begin|end)\{\w+\}(\[htbp\])?", "", text), re.DOTALL)
    depth, formula, rows = 0, False, [[""]]
    for token in tokens:
        depth += (token == "{") - (token == "}")
        assert depth >= 0
        formula ^= token == "$"
        assert token not in "%#^~"
        assert token != "_" or depth  # the label's
        if token == "\\\\":
            rows.append([""])
        elif token == "&":
            assert not depth
            assert not formula
            rows[-1].append("")
        else:
            rows[-1][-1] += token
    assert depth == 0
    assert not formula
    return rows[:-1]  # what follows the last row is no row


def require_rows(found: Table) -> None:
    text = to_latex(found)
    heads = 1 + text.count("endhead")
    rows = [row for row in rows_of(text) if not (len(row) == 1 and "caption" in row[0])]
    assert len(rows) == heads + len(found.rows)
    assert {len(row) for row in rows} == {len(found.columns)}
    assert all(text.count(rf"\{rule}") == (heads if rule != "bottomrule" else 1)
               for rule in ("toprule", "midrule", "bottomrule"))  # fmt: skip


def compiled(tables: Sequence[Table], folder: Path) -> str:
    """What pdflatex says of a document of the tables; it must take it without an error."""
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    body = "\\clearpage\n".join(map(to_latex, tables))
    document = rf"\documentclass{{article}}\usepackage[T1]{{fontenc}}{packages}\begin{{document}}{body}\end{{document}}"
    (folder / "all.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=300)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    return said


def test_every_table_of_the_report_parses(written: list[Table]) -> None:
    assert len(written) > 12
    for found in written:
        require_rows(found)


@pytest.mark.parametrize("found", nasty(), ids=["characters", "wide", "high", "empty"])
def test_what_latex_would_interpret_parses(found: Table) -> None:
    require_rows(found)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_every_table_compiles_and_fits_its_page(written: list[Table], tmp_path: Path) -> None:
    said = compiled([*written, *nasty()], tmp_path)
    assert "Float too large" not in said
    assert "Missing character" not in said
    # What is reckoned from the number of letters may be out by some points, a digit has four.
    beyond = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", said)]
    assert max(beyond, default=0) < 5
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def test_special_characters_are_escaped() -> None:
    text = to_latex(
        table((r"50 % & a_b #1 {x} ~ ^ \ < > | $2 [-1.5, 3] *", "x_1", Entry("5 %", bold=True)), title="A & B")
    )
    body = r"50 \% \& a\_b \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} \textgreater{}"
    assert rf"{body} \textbar{{}} \$2 [$-$1.5, 3] * & x\_1 & \textbf{{5 \%}} \\" in text
    assert r"\caption{A \& B}" in text


def test_hyphens_and_brackets_are_no_commands() -> None:
    text = to_latex(table(("[1]", "text-dense", "DAPO-MATH-17K 10-19 lr=2e-06"), ("*", "-", "-3")))
    assert "{}[1] & text-dense & DAPO-MATH-17K 10-19 lr=2e-06" in text  # after \\ a bracket would be an argument
    assert r"{}* & - & $-$3 \\" in text


def test_a_table_is_as_wide_and_as_long_as_its_page() -> None:
    assert r"\begin{tabular}{lrr}" in to_latex(table(("x", "1", "2")))
    text = to_latex(table(("x", TEXT, "2")))
    shares = [float(share) for share in re.findall(r"dimexpr([\d.]+)\\linewidth", text)]
    assert len(shares) == 1  # the others need no second line
    assert 0.7 < shares[0] < 1
    assert r"\raggedright\arraybackslash" in text  # prose, no number
    _, wide, high, _ = map(to_latex, nasty())
    assert (wide.count("landscape"), high.count("landscape")) == (2, 0)
    assert r"\begin{longtable}" in high
