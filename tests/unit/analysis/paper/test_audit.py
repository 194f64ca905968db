"""The audit of the paper's numbers, against differences, means and ratios worked out by hand from published.csv."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.paper.audit import (
    SENTENCES,
    Sentence,
    audit,
    averages,
    check,
    differences,
    load_sentences,
    sentence_table,
)
from analysis.paper.claims import paper_claims
from analysis.paper.published import load_published, printed, shown_benchmarks
from analysis.runs.load import AnalysisError
from analysis.tables.table import Table

PUBLISHED = load_published()


def records(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, (entry.text for entry in row), strict=True)) for row in table.entries]


def small(**values: float) -> pd.DataFrame:
    """Table 9 of one setting; ``gspo_A=1.0`` is a cell, ``delta_A=1.0`` a printed luspo - gspo."""
    rows = []
    for name, value in values.items():
        algo, benchmark = name.split("_")
        source = "printed-delta" if algo == "delta" else "cell"
        rows.append((9, "here", "m", "d", algo.replace("delta", "luspo-gspo"), benchmark, value, source))
    return pd.DataFrame(rows, columns=list(PUBLISHED.columns))


def sentence(**changes: object) -> Sentence:
    fields = {"id": "S", "claim": "C", "sentence": "s", "where": "w", "reading": "", "tables": [9]}
    fields |= {"benchmarks": "each", "arms": ("luspo", "gspo"), "value": "difference", "above": 0.0, "below": None}
    return Sentence(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def test_four_printed_differences_contradict_the_cells() -> None:
    rows = [row for row in records(differences(PUBLISHED)) if row["verdict"] != "agrees"]
    found = [
        (row["table"], row["benchmark"], row["difference"], row["printed"], row["recomputed"], row["verdict"])
        for row in rows
    ]
    assert found == [
        ("3", "WeMath", "luspo - grpo", "+2.5", "+2.3", "contradicts"),  # 45.6 - 43.3
        ("3", "DynaMath", "luspo - gspo", "+0.7", "-1.3", "contradicts, wrong sign"),  # 24.6 - 25.9
        ("3", "WeMath", "luspo - gspo", "+5.1", "+4.9", "contradicts"),  # 45.6 - 40.7
        ("5", "DynaMath", "luspo - gspo", "+2.1", "+1.9", "contradicts"),  # 26.3 - 24.4
    ]
    implied = [row["first cell that the printed difference implies"] for row in rows]
    assert implied == ["45.8", "26.6", "45.8", "26.5"]  # both of WeMath's imply the same cell
    assert differences(PUBLISHED).notes[0].startswith("4 of 29 contradict")


def test_every_printed_average_agrees() -> None:
    rows = records(averages(PUBLISHED))
    assert len(rows) == 11  # text-moe prints none for the base model
    assert {row["verdict"] for row in rows} == {"agrees"}
    (grpo,) = [row for row in rows if row["algorithm"] == "grpo"]
    assert grpo["printed"] == "44.0"
    assert grpo["recomputed"] == "44.05"  # 264.3 / 6
    (moe,) = [row for row in rows if (row["setting"], row["algorithm"]) == ("text-moe", "luspo")]
    assert moe["recomputed"] == "79.95"  # of the two that are printed


@pytest.mark.parametrize(("average", "verdict"), [(2.1, "agrees"), (2.2, "contradicts"), (1.8, "contradicts")])
def test_an_average_may_be_off_by_rounding(average: float, verdict: str) -> None:
    published = small(gspo_A=1.0, gspo_B=3.0, gspo_Avg=average)
    assert records(averages(published))[0]["verdict"] == verdict


@pytest.mark.parametrize(
    ("delta", "verdict"),
    [(0.2, "agrees"), (0.4, "agrees"), (0.1, "contradicts"), (0.5, "contradicts"), (-0.3, "contradicts, wrong sign")],
)
def test_a_difference_may_be_off_by_rounding(delta: float, verdict: str) -> None:
    # Cells of 1.05 and 1.25 may be printed as 1.0 and 1.3: at most 0.15 of rounding.
    published = small(gspo_A=1.0, luspo_A=1.3, delta_A=delta)
    assert records(differences(published))[0]["verdict"] == verdict


def test_a_printed_difference_without_its_cells_is_refused() -> None:
    with pytest.raises(AnalysisError, match="luspo-gspo is printed without its cells"):
        differences(small(luspo_A=1.0, delta_A=1.0))


def test_sentences_of_the_paper() -> None:
    rows = {row["id"]: row for row in records(sentence_table(PUBLISHED, load_sentences()))}
    assert rows["S1"]["holds in"] == "17 of 18"  # 4 + 2 + 6 + 6 benchmarks
    assert rows["S1"]["contradicted by"] == "table 3 multimodal DynaMath (-1.3)"
    assert rows["S1"]["not printed"] == "table 2 text-moe AMC23, table 2 text-moe MATH500"
    assert rows["S2"]["holds in"] == "4 of 4"
    assert rows["S3"]["contradicted by"] == "table 4 text-moe mean-response-length (1.63)"  # 11014 / 6757
    assert rows["S3"]["holds in"] == "1 of 2"  # 3940 / 2611 = 1.509
    assert rows["S4"]["holds in"] == "2 of 2"
    assert rows["S5"]["holds in"] == "1 of 1"  # 43.6 - 44.0
    assert {row["within rounding"] for row in rows.values()} == {"none"}


def test_every_sentence_has_its_source_in_the_claims() -> None:
    claims = {claim.id: claim for claim in paper_claims().rows}
    for found in load_sentences():
        assert claims[found.claim].where == found.where
        assert claims[found.claim].arms == tuple(found.arms)
        named = {int(word.strip(",")) for word in found.where.split() if word.strip(",").isdigit()}
        assert set(found.tables) <= named


@pytest.mark.parametrize(
    ("luspo", "verdict"),
    # 1.0 stands for 0.95 to 1.05, so a printed difference of 0.1 can be one of 0.
    [
        (1.2, "holds"),
        (1.1, "within rounding"),
        (1.0, "within rounding"),
        (0.9, "within rounding"),
        (0.8, "contradicted"),
    ],
)
def test_what_rounding_can_explain_is_no_contradiction(luspo: float, verdict: str) -> None:
    (found,) = check(small(gspo_A=1.0, luspo_A=luspo), sentence())
    assert found.verdict == verdict


def test_a_sentence_is_not_checked_where_a_cell_is_missing() -> None:
    found = check(small(base_A=1.0, gspo_B=1.0, luspo_B=2.0, luspo_C=1.0), sentence())
    assert [(c.benchmark, c.verdict) for c in found] == [("A", "not printed"), ("B", "holds"), ("C", "not printed")]


def test_wrong_sentences_are_named(tmp_path: Path) -> None:
    entry = yaml.safe_load(SENTENCES.read_text())["sentences"][0]
    for change, message in [({"colour": 1}, "S1.*colour"), ({"value": "sum"}, "S1: needs two arms")]:
        file = tmp_path / "sentences.yaml"
        file.write_text(yaml.safe_dump({"sentences": [{**entry, **change}]}))
        with pytest.raises(AnalysisError, match=message):
            load_sentences(file)
    with pytest.raises(AnalysisError, match="S: table 9, here has no Avg"):
        check(small(gspo_A=1.0), sentence(benchmarks="average"))


def test_audit_is_the_three_tables() -> None:
    assert [table.name for table in audit(PUBLISHED)] == ["audit_averages", "audit_differences", "audit_sentences"]


def test_published_numbers(tmp_path: Path) -> None:
    assert printed(PUBLISHED, 4, "text-dense", "luspo", "mean-response-length") == 3940
    assert pd.isna(printed(PUBLISHED, 2, "text-moe", "luspo", "AMC23"))
    assert shown_benchmarks(PUBLISHED, 2, "text-moe") == ["AIME24", "AIME25"]
    file = tmp_path / "published.csv"
    pd.concat([PUBLISHED, PUBLISHED.iloc[:1]]).to_csv(file, index=False)
    with pytest.raises(AnalysisError, match="twice: 2 text-dense base AMC23"):
        load_published(file)
    PUBLISHED.drop(columns="source").to_csv(file, index=False)
    with pytest.raises(AnalysisError, match="no column source"):
        load_published(file)
    PUBLISHED.assign(source="guess").to_csv(file, index=False)
    with pytest.raises(AnalysisError, match="unknown source guess"):
        load_published(file)
