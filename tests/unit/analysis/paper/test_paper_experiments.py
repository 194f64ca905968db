"""Which experiments stand beside the paper's settings, and the rows that those in miniature have in its tables."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fake_runs import write_run

from analysis.paper.experiments import FILE, beside_settings, in_miniature, repeating
from analysis.paper.published import AVERAGE, load_published, names, printed
from analysis.paper.tables import benchmark_table, paper_table
from analysis.runs.load import AnalysisError, load_runs
from analysis.tables.table import Entry, Table
from harness.evaluate.benchmark import BENCHMARKS
from harness.paths import CONF

PUBLISHED = load_published()
DENSE = ("mini_moved_0", "mini_moved_1", "mini_moved_2", "mini_moved_3")


def rows_of(found: Table) -> dict[tuple[str, ...], dict[str, Entry]]:
    rows = {
        tuple(entry.text for entry in row[: found.labels]): dict(zip(found.columns, row, strict=True))
        for row in found.entries
    }
    assert len(rows) == len(found.rows)
    return rows


def evaluated(root: Path, arm: str, seed: int, right: Mapping[str, int], step: int = 1, **run: object) -> None:
    """A finished run of ``mini_dense``, of whose answers to four questions of each benchmark so many are right."""
    fields = {"experiment": "mini_dense", "arm": arm, "seed": seed, **run}
    written = write_run(root, {"response_length": [9.0], "val_response_length": [float(10 + seed)]}, **fields)
    written.eval.mkdir(exist_ok=True)
    for benchmark, count in right.items():
        rows = [
            {"question": q, "sample": 0, "correct": int(q < count), "tokens": 9, "truncated": False, "outcome": "right"}
            for q in range(4)
        ]
        pd.DataFrame(rows).assign(step=step).to_parquet(written.eval / f"{benchmark}.parquet")


def test_every_setting_of_the_tables_has_its_experiments() -> None:
    assert set(beside_settings()) == set(names(PUBLISHED, "setting"))
    for setting, beside in beside_settings().items():
        assert all((CONF / "experiment" / f"{name}.yaml").exists() for name in beside.experiments), setting
        assert all((BENCHMARKS / f"{name}.yaml").exists() for name in beside.benchmarks.values()), setting


@pytest.mark.parametrize("setting", [name for name, beside in beside_settings().items() if beside.benchmarks])
def test_columns_are_paired_from_easy_to_hard(setting: str) -> None:
    """The paper's as its base model finds them; ours as their names count the digits that are out of order.

    Of the mixture the paper prints no base model; it is that of images alone.
    """
    paired = beside_settings()[setting].benchmarks
    of_base = {"multimodal-mix": "multimodal"}.get(setting, setting)
    (table,) = names(PUBLISHED, "table", setting=of_base, algo="base")
    base = {name: printed(PUBLISHED, int(table), of_base, "base", name) for name in paired}
    assert set(paired) == set(names(PUBLISHED, "benchmark", table=int(table), setting=of_base)) - {AVERAGE}
    assert sorted(paired, key=base.__getitem__, reverse=True) == list(paired)
    assert list(paired.values()) == sorted(paired.values())


def test_the_miniature_has_rows_of_its_own_below_the_published_ones(tmp_path: Path) -> None:
    for seed in range(3):
        evaluated(tmp_path, "gspo", seed, dict(zip(DENSE, (3, 2, 1, seed), strict=True)))
        evaluated(tmp_path, "luspo", seed, dict(zip(DENSE, (4, 4, 1, seed), strict=True)))
    evaluated(tmp_path, "grpo", 0, dict(zip(DENSE, (4, 0, 0, 0), strict=True)))
    evaluated(tmp_path, "base", 0, dict(zip(DENSE, (1, 1, 0, 0), strict=True)), step=0)
    found = paper_table(2, load_runs(tmp_path), PUBLISHED)
    rows, name = rows_of(found), "mini_dense (miniature)"
    columns = ("AMC23", "AIME24", "AIME25", "MATH500", AVERAGE)
    stand_in = rows["text-dense", "benchmark", name]
    assert [stand_in[c].text for c in columns] == [DENSE[1], DENSE[3], DENSE[2], DENSE[0], "of these"]
    gspo = rows["text-dense", "gspo", name]
    assert [gspo[c].mean for c in columns] == pytest.approx([50, 25, 25, 75, (50 + 25 + 25 + 75) / 4])
    assert gspo["AIME24"].text.startswith("25.0 [-37.1, 87.1] (3)")  # 0, 25, 50: 25 -+ 4.303 * 25 / sqrt 3
    difference = rows["text-dense", "luspo - gspo", name]
    assert [difference[c].mean for c in columns] == pytest.approx([50, 0, 0, 25, 75 / 4])
    assert rows["text-dense", "base", name]["MATH500"].mean == 25
    assert rows["text-dense", "grpo", name]["MATH500"].mean == 100  # an arm that the paper's table does not have
    assert rows["text-dense", "grpo", "published"]["MATH500"].text == "-"
    # Nothing is subtracted, the published numbers stay, and the setting itself was not run.
    assert not any("- published" in label[2] for label in rows)
    assert rows["text-dense", "gspo", "published"]["MATH500"].text == "71.0"
    assert rows["text-dense", "gspo", "text_dense"]["MATH500"].text == "not run"
    assert not any(label[0] == "text-moe" and "miniature" in label[2] for label in rows)
    assert sum(note.startswith(f"{name}: the setting at the size of a laptop") for note in found.notes) == 1
    assert any(note.startswith("mini_dense, luspo - gspo. mini_moved_0: ") for note in found.notes)
    assert not any("without results" in note for note in found.notes)  # the base model's are at step 0
    # As an experiment of this project it stays in the table of those, too.
    assert ("mini_dense", "luspo - gspo") in rows_of(benchmark_table(load_runs(tmp_path)))


def test_without_results_of_benchmarks_the_miniature_says_so(tmp_path: Path) -> None:
    evaluated(tmp_path, "gspo", 0, {}, experiment="mini_moe")
    found = paper_table(2, load_runs(tmp_path), PUBLISHED)
    row = rows_of(found)["text-moe", "gspo", "mini_moe (miniature)"]
    assert {row[column].text for column in found.columns[3:]} == {"not run"}
    assert "mini_moe, finished without results of benchmarks: mini_moe/gspo/seed=0." in found.notes


def test_lengths_stand_beside_the_published_ones(tmp_path: Path) -> None:
    for seed in range(3):
        evaluated(tmp_path, "gspo", seed, {})
        evaluated(tmp_path, "luspo", seed, {})
    rows = rows_of(paper_table(4, load_runs(tmp_path), PUBLISHED))
    gspo = rows["text-dense", "mini_dense (miniature)", "gspo"]
    assert (gspo["published"].text, gspo["ours"].mean, gspo["ours - published"].text) == ("2611", 11, "-")
    ratio = rows["text-dense", "mini_dense (miniature)", "luspo / gspo"]
    assert (ratio["published"].text, ratio["ours"].text) == ("1.51 x", "1.00 x [1.00, 1.00] (3)")
    assert rows["text-dense", "text_dense", "gspo"]["ours"].text == "not run"


def test_variants_and_miniatures_appear_once_they_were_run() -> None:
    assert repeating("text-dense", ()) == ["text_dense"]
    assert repeating("text-dense", {"text_dense_1gpu", "tiny"}) == ["text_dense", "text_dense_1gpu"]
    assert in_miniature("text-dense", {"text_dense"}) == {}
    assert list(in_miniature("text-dense", {"mini_dense"})) == ["mini_dense"]
    assert repeating("a-setting-of-another-paper", ()) == ["a_setting_of_another_paper"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"experiment": "x"}, "not a table of settings"),
        ({"experiments": None}, "not a table of settings"),
        ({"benchmarks": {"AMC23": "x", "AIME24": "x"}}, "text-dense: one benchmark stands in two columns"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(tmp_path: Path, change: dict[str, object], said: str) -> None:
    content = yaml.safe_load(FILE.read_text())
    content["text-dense"].update(change)
    file = tmp_path / "experiments.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(AnalysisError, match=said) as refused:
        beside_settings(file)
    assert "\n" not in str(refused.value)
    with pytest.raises(AnalysisError, match="cannot be read"):
        beside_settings(tmp_path / "none.yaml")
