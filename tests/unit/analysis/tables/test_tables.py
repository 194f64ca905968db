"""Tables: renderings, tables 2 to 5, the small experiments, settings. Expected numbers are worked out by hand."""

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run

from analysis.paper.published import load_published
from analysis.paper.tables import benchmark_table, paper_table
from analysis.runs.load import AnalysisError, Runs, load_runs
from analysis.tables.render import save, to_csv, to_markdown
from analysis.tables.settings import settings_table
from analysis.tables.table import Entry, Table, to_html

PUBLISHED = load_published()
NASTY = r"50 % & a_b #1 {x} ~ ^ \ < > | $2 [-1.5, 3] *"
Right = Sequence[Sequence[int]]  # a row a question, its samples right (1) or wrong (0)


def table(*rows: tuple[str | Entry, ...], columns: tuple[str, ...] = ("arm", "a", "b"), **fields: Any) -> Table:
    return Table("name", fields.pop("title", "Title"), columns, rows, **fields)


def by_label(found: Table) -> dict[tuple[str, ...], dict[str, Entry]]:
    """The rows by their labels, each a mapping column -> entry."""
    rows = {}
    for row in found.entries:
        entries = dict(zip(found.columns, row, strict=True))
        rows[tuple(entry.text for entry in row[: found.labels])] = entries
    assert len(rows) == len(found.rows)
    return rows


def write_eval(root: Path, arm: str, seed: int, right: Mapping[str, Right], step: int = 1, **run: Any) -> None:
    """A finished run of one step with results on benchmarks, in the experiment text_dense."""
    written = write_run(
        root, {"response_length": [9.0]}, **{"experiment": "text_dense", "arm": arm, "seed": seed, **run}
    )
    for benchmark, questions in right.items():
        rows = [
            {
                "question": q,
                "sample": s,
                "correct": c,
                "tokens": 9,
                "truncated": False,
                "outcome": "right",
                "step": step,
            }
            for q, samples in enumerate(questions)
            for s, c in enumerate(samples)
        ]
        written.eval.mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(written.eval / f"{benchmark}.parquet")


def of_first(count: int, questions: int = 4) -> Right:
    """One sample a question, the first ``count`` right."""
    return [[int(q < count)] for q in range(questions)]


@pytest.fixture(scope="module")
def nothing() -> Runs:
    columns = ["run", "experiment", "arm", "algo", "seed", "fingerprint", "state", "last_step", "planned_steps", "path"]
    metrics = pd.DataFrame(columns=["run", "experiment", "arm", "algo", "seed", "step", "val_response_length"])
    return Runs(pd.DataFrame(columns=columns), metrics, {})


def test_html_is_well_formed_and_says_what_the_table_says() -> None:
    found = table((NASTY, "<b>", Entry('"&"', bold=True)), columns=("arm", "<i>", "b"), notes=("a < b",))
    root = ElementTree.fromstring(to_html(found))
    assert ["".join(cell.itertext()) for cell in root.iter("th")] == ["arm", "<i>", "b", NASTY]
    assert [cell.get("scope") for cell in root.iter("th")] == ["col", "col", "col", "row"]
    assert ["".join(cell.itertext()) for cell in root.iter("td")] == ["<b>", '"&"']
    assert [cell.text for cell in root.iter("strong")] == ['"&"']
    assert root.findtext("figcaption/p") == "a < b"


def test_markdown_keeps_its_columns() -> None:
    lines = to_markdown(table((NASTY, "a|b\nc", Entry("1", bold=True)), notes=("_n_ a_b.*",))).splitlines()
    assert lines[2].count("|") == lines[3].count("|") == 4
    assert lines[4].replace(r"\|", "").count("|") == 4
    assert lines[4].endswith(r"| a\|b c | **1** |")
    assert lines[-1] == r"\_n\_ a_b.\*"


def test_csv_is_long_and_has_the_unrounded_numbers() -> None:
    found = table(("gspo", Entry("1.0 [0.1, 2.0] (3)", 1.04, 0.1, 2.0, 3, 0.5, bold=True), "not run, yet"))
    frame = pd.read_csv(StringIO(to_csv(found)))
    assert list(frame.columns) == ["row", "arm", "column", "text", "mean", "low", "high", "n", "se", "bold"]
    assert frame.iloc[0].to_list() == [1, "gspo", "a", "1.0 [0.1, 2.0] (3)", 1.04, 0.1, 2.0, 3.0, 0.5, True]
    assert frame.iloc[1][["row", "column", "text"]].to_list() == [1, "b", "not run, yet"]
    assert frame.iloc[1][["mean", "low", "high", "n", "se"]].isna().all()


def test_save_writes_every_rendering(tmp_path: Path) -> None:
    found = table(("x", "1", "2"))
    paths = save(found, tmp_path / "new")
    assert [path.name for path in paths] == ["name.md", "name.csv", "name.tex", "name.html"]
    assert paths[0].read_text() == to_markdown(found)


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(AnalysisError, match="table name, row 2: 2 entries for 3 columns"):
        table(("x", "1", "2"), ("y", "1"))


def test_without_runs_the_published_numbers_stay(nothing: Runs) -> None:
    for number, columns in [(2, 5), (3, 7), (5, 7)]:
        found = paper_table(number, nothing, PUBLISHED)
        rows = by_label(found)
        assert len(found.columns) == 3 + columns
        ours = [row for label, row in rows.items() if label[2] != "published"]
        assert len(ours) * 2 == len(rows)  # one of ours below each of theirs
        assert {entry.text for row in ours for name, entry in row.items() if name in found.columns[3:]} == {"not run"}
    rows = by_label(paper_table(2, nothing, PUBLISHED))
    assert rows["text-dense", "luspo", "published"]["MATH500"].text == "78.4"
    assert rows["text-dense", "luspo - gspo", "published"]["MATH500"].text == "+7.4"
    assert rows["text-moe", "luspo", "published"]["MATH500"].text == "-"
    rows = by_label(paper_table(3, nothing, PUBLISHED))
    assert rows["multimodal", "luspo - gspo", "published"]["DynaMath"].text == "-1.3"  # not the printed +0.7
    rows = by_label(paper_table(4, nothing, PUBLISHED))
    assert rows["text-moe", "text_moe", "luspo / gspo"]["published"].text == "1.63 x"
    assert rows["text-dense", "text_dense", "gspo"]["ours"].text == "not run"
    assert benchmark_table(nothing).rows == ()
    with pytest.raises(AnalysisError, match="no table 1; there are 2, 3, 4, 5"):
        paper_table(1, nothing, PUBLISHED)


def test_our_accuracy_beside_the_published_one(tmp_path: Path) -> None:
    for seed, right in enumerate((2, 2, 3)):
        write_eval(tmp_path, "gspo", seed, {"amc23": of_first(right)})  # another spelling of the paper's AMC23
        write_eval(tmp_path, "luspo", seed, {"amc23": of_first(right + 1)})
    rows = by_label(paper_table(2, load_runs(tmp_path), PUBLISHED))
    found = rows["text-dense", "gspo", "text_dense"]["AMC23"]
    # 50, 50, 75: mean 58.33, sd 14.43, t(.975, 2) = 4.303; questions 100, 100, 33.3, 0: sd 50.0 over sqrt 4.
    assert found.text == "58.3 [22.5, 94.2] (3), se 25.0"
    assert (found.mean, found.n) == (pytest.approx(175 / 3), 3)
    assert rows["text-dense", "gspo", "text_dense - published"]["AMC23"].text == "+3.0"  # 55.3
    assert rows["text-dense", "gspo", "text_dense - published"]["AIME24"].text == "-"
    assert rows["text-dense", "gspo", "text_dense"]["AIME24"].text == "not run"
    assert rows["text-dense", "gspo", "text_dense"]["Avg"].text == "not run"  # only of all four
    assert rows["text-dense", "luspo - gspo", "text_dense"]["AMC23"].mean == pytest.approx(25)
    assert rows["text-dense", "luspo - gspo", "text_dense - published"]["AMC23"].text == "+22.0"  # 58.3 - 55.3


def test_below_three_runs_single_values(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_eval(tmp_path, "gspo", seed, {"AMC23": of_first(seed)})
        write_eval(tmp_path, "luspo", seed, {"AMC23": of_first(4)})
    rows = by_label(paper_table(2, load_runs(tmp_path), PUBLISHED))
    assert rows["text-dense", "gspo", "text_dense"]["AMC23"].text.startswith("0.0, 25.0 (2), se ")
    difference = rows["text-dense", "luspo - gspo", "text_dense"]["AMC23"]
    assert (difference.text, difference.bold) == ("+87.5 (2)", False)


def test_bold_follows_the_interval_on_new_questions(tmp_path: Path) -> None:
    # AMC23: better on every one of 20 questions. AIME24: on these two questions better in every run by exactly 50
    # points, but on one of them alone, which says nothing of a third question.
    # AIME25: worse on every question.
    none, every = of_first(0, 20), of_first(20, 20)
    for seed in range(3):
        write_eval(tmp_path, "gspo", seed, {"AMC23": none, "AIME24": of_first(0, 2), "AIME25": every})
        write_eval(tmp_path, "luspo", seed, {"AMC23": every, "AIME24": of_first(1, 2), "AIME25": none})
    found = paper_table(2, load_runs(tmp_path), PUBLISHED)
    rows = by_label(found)
    for label, bold in [("luspo", True), ("gspo", False), ("luspo - gspo", True)]:
        assert rows["text-dense", label, "text_dense"]["AMC23"].bold is bold
        assert rows["text-dense", label, "text_dense"]["AIME24"].bold is False
        assert rows["text-dense", label, "text_dense"]["AIME25"].bold is (label != "luspo")
    difference = rows["text-dense", "luspo - gspo", "text_dense"]["AIME24"]
    assert difference.low < 0 < difference.mean < difference.high
    (note,) = [note for note in found.notes if note.startswith("text_dense, luspo - gspo")]
    assert "AIME24: on these questions [+50.0, +50.0]" in note
    assert note.count("sign-flip p = 0.25 (least possible with 3 runs: 0.25)") == 3  # of 8 patterns two are as far


def test_average_is_over_what_the_paper_averages(tmp_path: Path) -> None:
    moe: dict[str, Any] = {"experiment": "text_moe"}
    for seed in range(3):
        both = {"AMC23": of_first(4), "AIME24": of_first(seed), "AIME25": of_first(1)}
        write_eval(tmp_path, "gspo", seed, both, **moe)
        write_eval(tmp_path, "luspo", seed, {**both, "AIME25": of_first(3)}, **moe)
    found = paper_table(2, load_runs(tmp_path), PUBLISHED)
    rows = by_label(found)
    # (0 + 25) / 2, (25 + 25) / 2, (50 + 25) / 2, without AMC23's 100: mean 25, sd 12.5.
    half = 4.302653 * 12.5 / math.sqrt(3)
    average = rows["text-moe", "gspo", "text_moe"]["Avg"]
    assert (average.mean, average.low, average.high) == pytest.approx((25, 25 - half, 25 + half), rel=1e-5)
    # Question means: 66.7, 33.3, 0, 0 and 100, 0, 0, 0.
    errors = [np.std(means, ddof=1) / 2 for means in ([200 / 3, 100 / 3, 0, 0], [100, 0, 0, 0])]
    assert average.se == pytest.approx(math.sqrt(errors[0] ** 2 + errors[1] ** 2) / 2)
    assert rows["text-moe", "luspo - gspo", "text_moe"]["Avg"].mean == pytest.approx(25)  # (0 + 50) / 2
    assert rows["text-moe", "gspo", "text_moe"]["AMC23"].mean == 100  # shown all the same
    assert "text-moe: the average is over AIME24, AIME25, which is what the paper prints." in found.notes


def test_only_finished_runs_at_their_end_count(tmp_path: Path) -> None:
    write_eval(tmp_path, "gspo", 0, {"AMC23": of_first(1)})
    write_eval(tmp_path, "gspo", 1, {"AMC23": of_first(4)}, state="failed")
    write_eval(tmp_path, "gspo", 2, {"AMC23": of_first(2)}, step=0)  # the initial model
    found = paper_table(2, load_runs(tmp_path), PUBLISHED)
    rows = by_label(found)
    assert rows["text-dense", "gspo", "text_dense"]["AMC23"].text.startswith("25.0 (1)")
    assert rows["text-dense", "base", "text_dense"]["AMC23"].text.startswith("50.0 (1)")
    assert any("not finished and in no number: text_dense/gspo/seed=1 (failed)" in note for note in found.notes)
    assert any("without results of benchmarks: text_dense/gspo/seed=2" in note for note in found.notes)


def test_arms_are_never_mixed_and_others_follow(tmp_path: Path) -> None:
    write_eval(tmp_path, "gspo", 0, {"AMC23": of_first(1)})
    write_eval(tmp_path, "gspo,lr=2e-06", 0, {"AMC23": of_first(3)})
    write_eval(tmp_path, "luspo", 0, {"AMC23": of_first(4)}, experiment="text_dense_1gpu")
    rows = by_label(paper_table(2, load_runs(tmp_path), PUBLISHED))
    assert rows["text-dense", "gspo", "text_dense"]["AMC23"].mean == 25
    assert rows["text-dense", "gspo,lr=2e-06", "text_dense"]["AMC23"].mean == 75
    assert rows["text-dense", "gspo,lr=2e-06", "published"]["AMC23"].text == "-"
    # One experiment is not paired with another.
    assert rows["text-dense", "luspo", "text_dense_1gpu"]["AMC23"].mean == 100
    assert rows["text-dense", "luspo - gspo", "text_dense"]["AMC23"].text == "not run"


def test_arms_that_are_not_matched_are_not_compared(tmp_path: Path) -> None:
    write_eval(tmp_path, "gspo", 0, {"AMC23": of_first(1)})
    write_eval(tmp_path, "luspo", 0, {"AMC23": of_first(1)}, controlled={"data.train_batch_size": 32})
    with pytest.raises(AnalysisError, match=r"not matched: .*data\.train_batch_size"):
        paper_table(2, load_runs(tmp_path), PUBLISHED)


def write_lengths(root: Path, arm: str, lengths: Sequence[float], experiment: str, **run: Any) -> None:
    """Runs of 2 steps whose validation length halves at the second; accuracy 0.5 at both."""
    for seed, length in enumerate(lengths):
        metrics = {"val_response_length": [2 * length, length], "val_accuracy": [0.5, 0.5], "response_length": [9, 9]}
        write_run(root, metrics, experiment=experiment, arm=arm, seed=seed, **run)


def test_lengths_of_the_last_validation(tmp_path: Path) -> None:
    write_lengths(tmp_path, "gspo", [2000, 3000, 4000], "text_dense")
    write_lengths(tmp_path, "luspo", [2000, 6000, 16000], "text_dense")
    rows = by_label(paper_table(4, load_runs(tmp_path), PUBLISHED))
    gspo = rows["text-dense", "text_dense", "gspo"]
    assert gspo["ours"].text == "3000 [516, 5484] (3)"  # 3000 -+ 4.303 * 1000 / sqrt 3
    assert gspo["ours - published"].text == "+389"  # 2611
    ratio = rows["text-dense", "text_dense", "luspo / gspo"]
    # Ratios 1, 2, 4: geometric mean 2; on the log scale ln 2 -+ 4.303 ln 2 / sqrt 3.
    assert ratio["ours"].text == "2.00 x [0.36, 11.19] (3)"
    assert ratio["ours - published"].text == "+0.49"  # 3940 / 2611 = 1.509


def test_small_experiments_show_the_validation_or_benchmarks(tmp_path: Path) -> None:
    write_lengths(tmp_path, "gspo", [20, 20], "tiny")
    write_lengths(tmp_path, "luspo", [30, 30], "tiny")
    write_lengths(tmp_path, "gspo", [20], "text_dense")
    rows = by_label(benchmark_table(load_runs(tmp_path)))
    assert list(rows) == [("tiny", "gspo"), ("tiny", "luspo"), ("tiny", "luspo against gspo")]
    assert rows["tiny", "gspo"]["validation accuracy (%)"].text == "50.0 (2)"
    assert rows["tiny", "luspo against gspo"]["validation accuracy (%)"].text == "+0.0 (2)"
    assert rows["tiny", "luspo against gspo"]["validation length (tokens)"].text == "1.50 x (2)"
    write_eval(tmp_path, "gspo", 0, {"sums": of_first(1)}, experiment="smollm2")
    found = benchmark_table(load_runs(tmp_path))
    rows = by_label(found)
    assert found.columns[2:] == ("sums", "Avg", "validation accuracy (%)", "validation length (tokens)")
    assert rows["smollm2", "gspo"]["sums"].mean == rows["smollm2", "gspo"]["Avg"].mean == 25
    assert rows["smollm2", "gspo"]["validation accuracy (%)"].text == rows["tiny", "gspo"]["sums"].text == "-"
    assert rows["smollm2", "luspo - gspo"]["sums"].text == "not run"


def settings(arm: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    manifest = {
        "treatment": {"actor_rollout_ref.actor.policy_loss.loss_mode": arm, "algorithm.adv_estimator": "grpo"},
        "controlled": {"actor_rollout_ref.actor.optim.lr": 1e-4, "data.shuffle": True, "data.train_batch_size": 16},
        "execution": {"trainer.save_freq": 20, "trainer.project_name": "length"},
        "versions": {"verl": "0.9.1"},
        "hardware": {"cores": 2},
        "commit": "abc",
    }
    return {"arm": arm, "seed": seed, "experiment": "tiny", "manifest": {**manifest, **changes}}


def test_settings_show_treatment_what_is_held_equal_and_count_the_rest(tmp_path: Path) -> None:
    for arm in ("gspo", "luspo"):
        write_run(tmp_path, {"response_length": [1.0]}, **settings(arm))
    found = settings_table(load_runs(tmp_path))
    rows = by_label(found)
    assert found.columns == ("kind", "setting", "gspo", "luspo")
    loss = rows["treatment", "actor_rollout_ref.actor.policy_loss.loss_mode"]
    assert (loss["gspo"].text, loss["luspo"].text, loss["gspo"].bold) == ("gspo", "luspo", True)
    assert ("treatment", "algorithm.adv_estimator") not in rows
    assert rows["controlled", "actor_rollout_ref.actor.optim.lr"]["luspo"].text == "0.0001"
    assert ("controlled", "data.shuffle") not in rows
    assert rows["execution", "trainer.save_freq"]["gspo"].text == "20"
    assert rows["versions", "verl"]["gspo"] == Entry("0.9.1")
    assert found.notes[0].startswith(
        "Not shown: 1 treatment keys and 1 controlled keys, equal in all runs; 1 execution"
    )
    assert found.notes[1].startswith("Matched: one fingerprint.")


def test_settings_hide_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path, {"response_length": [1.0]}, **settings("gspo"))
    write_run(tmp_path, {"response_length": [1.0]}, **settings("gspo", 1, versions={"verl": "0.9.2"}))
    changed = {"data.shuffle": False, "actor_rollout_ref.actor.optim.lr": 1e-4, "data.train_batch_size": 16}
    changed["trainer.save_freq"] = 30
    luspo = settings("luspo", execution={}, controlled=changed, hardware={"device": "H100"})
    write_run(tmp_path, {"response_length": [1.0]}, **luspo)
    found = settings_table(load_runs(tmp_path))
    rows = by_label(found)
    assert rows["runs", "seeds"]["gspo"].text == "0, 1"
    assert rows["versions", "verl"]["gspo"].text == "0.9.1 (1), 0.9.2 (1)"
    assert rows["controlled", "data.shuffle"]["luspo"] == Entry("false", bold=True)  # in no list, but it differs
    # Execution in one run and controlled in another, as planned steps may be: the stricter kind.
    assert rows["controlled", "trainer.save_freq"]["luspo"] == Entry("30", bold=True)
    assert rows["hardware", "device"]["gspo"] == Entry("absent", bold=True)
    assert found.notes[1].startswith("NOT matched: 2 fingerprints.")


def test_settings_of_one_arm_show_the_whole_treatment_and_of_two_experiments_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, {"response_length": [1.0]}, **settings("gspo"))
    assert ("treatment", "algorithm.adv_estimator") in by_label(settings_table(load_runs(tmp_path)))
    write_run(tmp_path, {"response_length": [1.0]}, experiment="other")
    with pytest.raises(AnalysisError, match="of one experiment; the runs are of other, tiny"):
        settings_table(load_runs(tmp_path))
