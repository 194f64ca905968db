"""``analysis query``: the same numbers as pandas finds in the files, whatever their form; and nothing is written."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run, write_sequences

from analysis import load_runs
from analysis.__main__ import main
from analysis.report.query import ask
from analysis.runs.views import VIEWS, with_views

ROOT = Path(__file__).resolve().parents[4]
REFERENCE = ROOT / "results" / "reference" / "tiny"
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "query.md").read_text(), re.DOTALL)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two runs: the responses of one in a file for each step, those of the other merged."""
    rng = np.random.default_rng(4)
    for seed in (0, 1):
        run = write_run(tmp_path / "runs", {"accuracy": [0.1, 0.2, 0.3], "response_length": [5.0, 6.0, 7.0]}, seed=seed)
        for step in (1, 2, 3):
            write_sequences(run.attempts()[-1], step, tokens=rng.integers(1, 50, 8).tolist())
        if seed:
            frames = [pd.read_parquet(file) for file in run.step_files().values()]
            pd.concat(frames).to_parquet(run.path / "sequences.parquet")
            for file in run.step_files().values():
                file.unlink()
    return tmp_path / "runs"


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["query", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["query", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_both_forms_of_responses_are_read_as_the_frames_have_them(root: Path) -> None:
    runs = load_runs(root)
    frame = runs.sequences(["step", "tokens"])
    rows = ask(with_views(runs), "SELECT run, step, sum(tokens), count(*) FROM sequences GROUP BY ALL").fetchall()
    wanted = frame.groupby(["run", "step"])["tokens"].agg(["sum", "count"])
    assert len(rows) == 6
    assert {(run, step): (total, n) for run, step, total, n in rows} == {
        key: (row["sum"], row["count"]) for key, row in wanted.iterrows()
    }


def test_what_a_later_attempt_made_again_counts_once(root: Path) -> None:
    run = load_runs(root).runs.set_index("seed").loc[1, "path"]
    again = Path(str(run)) / "attempts" / "02" / "sequences"
    again.mkdir(parents=True)
    write_sequences(again.parent, 3, tokens=[1000])
    sql = "SELECT step, max(tokens), count(*) FROM sequences WHERE seed = 1 GROUP BY ALL ORDER BY step"
    assert ask(with_views(load_runs(root)), sql).fetchall()[-1] == (3, 1000, 1)


def test_steps_are_wide(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = asked(capsys, "SELECT step, avg(accuracy) AS a FROM steps GROUP BY ALL ORDER BY step", str(root), "--csv")
    assert [float(row["a"]) for row in csv.DictReader(io.StringIO(text))] == pytest.approx([0.1, 0.2, 0.3])


def test_forms_of_output(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT seed, state, NULL AS nothing, 'nan'::DOUBLE AS odd FROM runs ORDER BY seed"
    found = json.loads(asked(capsys, sql, str(root), "--json"))
    assert found == [{"seed": seed, "state": "done", "nothing": None, "odd": None} for seed in (0, 1)]
    lines = asked(capsys, sql, str(root)).splitlines()
    assert lines[0].split() == ["seed", "state", "nothing", "odd"]
    assert lines[1].split() == ["0", "done", "-", "nan"]
    file = tmp_path / "rows.parquet"
    assert "2 rows" in asked(capsys, sql, str(root), "--parquet", str(file))
    assert pd.read_parquet(file)["seed"].tolist() == [0, 1]
    before = file.read_bytes()
    assert "is there already" in refused(capsys, sql, str(root), "--parquet", str(file))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "COPY runs TO 'OUT'",
        "EXPLAIN ANALYZE COPY runs TO 'OUT'",
        "INSTALL httpfs",
        "ATTACH 'OUT' AS other",
        "EXPORT DATABASE 'OUT'",
        "CREATE TABLE mine AS SELECT 1",
        "SET threads = 1",
    ],
)
def test_nothing_is_written(sql: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "is refused" in refused(capsys, sql.replace("OUT", str(tmp_path / "out")), str(root))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_is_wrong_is_said_in_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert '"accuracy"' in refused(capsys, "SELECT acuracy FROM steps", str(root))  # what it might be
    assert "syntax error" in refused(capsys, "SELEC 1", str(root))
    assert "Did you mean" in refused(capsys, "SELECT * FROM runz", str(root))
    assert "one statement" in refused(capsys, "SELECT 1; SELECT 2", str(root))
    assert "no query" in refused(capsys)
    assert "no runs found" in refused(capsys, "SELECT 1", str(tmp_path / "nowhere"))
    broken = next(root.rglob("sequences.parquet"))
    broken.write_bytes(broken.read_bytes()[:100])
    assert "sequences: not readable" in refused(capsys, "SELECT * FROM sequences", str(root))


def test_schema_names_every_column_that_is_always_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = asked(capsys, "--schema")
    connection = with_views(load_runs(root))
    for view, (what, columns) in VIEWS.items():
        assert f"{view}: {what}" in text
        there = set(ask(connection, f"SELECT * FROM {view}").columns)
        if view != "sequences":  # the responses of these runs have fewer columns than a real run's
            assert set(columns) <= there
        assert all(re.search(rf"^  {name} +{re.escape(meaning)}$", text, re.M) for name, meaning in columns.items())
    assert set(VIEWS["sequences"][1]) <= set(ask(with_views(load_runs(REFERENCE)), "FROM sequences").columns)


@pytest.mark.parametrize("sql", QUERIES)
def test_the_worked_queries_run_on_the_reference_runs(sql: str) -> None:
    assert len(ask(with_views(load_runs(REFERENCE)), sql).fetchall()) >= 5


def test_the_worked_contrast_is_the_reports() -> None:
    (sql,) = (sql for sql in QUERIES if "ends" in sql)
    rows = ask(with_views(load_runs(REFERENCE)), sql).fetchall()
    report = np.exp(np.mean(np.log([row[3] for row in rows])))
    assert f"{report:.2f}" == "1.52"  # of the README
