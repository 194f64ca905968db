"""pass@n and maj@k against counting them out."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run
from scipy import stats

from analysis.runs.load import load_runs
from analysis.statistics.majority import majority_by_run, over_runs, pass_by_run, powers
from analysis.tables.pass_at_k import pass_table
from analysis.tables.render import to_markdown


def answers(run: str, said: list[list[str]], truth: list[str]) -> pd.DataFrame:
    """One row per question and sample; an answer is right if it is the truth."""
    rows = [
        {"run": run, "benchmark": "b", "question": q, "sample": s, "answer": one, "correct": int(one == truth[q])}
        for q, of in enumerate(said)
        for s, one in enumerate(of)
    ]
    return pd.DataFrame(rows)


SAID = [
    ["7", "7", "8", "7"],  # right
    ["1", "2", "2", "1"],  # a tie of right and wrong: one half
    ["", "", "", "5"],  # one vote, right
    ["", "", "", ""],  # no vote at all
    ["3", "4", "4", "4"],  # wrong, though one sample is right
]
TRUTH = ["7", "1", "5", "0", "3"]


def test_majority_by_hand() -> None:
    frame = pd.concat([answers("a", SAID, TRUTH), answers("b", [["7"] * 4] * 5, TRUTH)], ignore_index=True)
    found = majority_by_run(frame)
    assert found is not None
    assert found.to_dict() == pytest.approx({"a": 100 * (1 + 0.5 + 1) / 5, "b": 100 / 5})
    assert majority_by_run(frame.assign(answer="")) is None
    assert majority_by_run(frame.assign(answer=frame["answer"].where(frame["run"] == "a", ""))) is None  # b has none


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_pass_at_n_is_the_mean_over_all_subsets(n: int) -> None:
    frame = answers("a", SAID, TRUTH)
    right = frame.pivot(index="question", columns="sample", values="correct").to_numpy()
    solved = [np.mean([row[list(c)].any() for c in combinations(range(4), n)]) for row in right]
    assert pass_by_run(frame, n)["a"] == pytest.approx(100 * np.mean(solved))


def test_powers_and_intervals() -> None:
    assert (powers(1), powers(6), powers(32)) == ([1], [1, 2, 4, 6], [1, 2, 4, 8, 16, 32])
    values = pd.Series([40.0, 44.0, 45.0])
    interval = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (over_runs(values).low, over_runs(values).high) == pytest.approx(interval)
    assert np.isnan(over_runs(values[:2]).low)


def test_the_table_has_a_row_for_every_arm(tmp_path: Path) -> None:
    for arm, said in (("gspo", SAID), ("luspo", [["7", "7", "7", "8"]] * 5)):
        for seed in range(3):
            run = write_run(tmp_path, {"response_length": [9.0]}, experiment="tiny", arm=arm, seed=seed)
            frame = answers("", said, TRUTH).drop(columns=["run", "benchmark"])
            run.eval.mkdir()
            columns = {"tokens": 5, "truncated": False, "outcome": "right", "step": 1, "settings": "s"}
            frame.assign(**columns).to_parquet(run.eval / "arithmetic.parquet")
    table = pass_table(load_runs(tmp_path))
    assert table.columns == ("experiment", "benchmark", "arm", "k", "pass@1", "pass@2", "pass@4", "maj@k")
    text = to_markdown(table)
    assert "| tiny | arithmetic | gspo | 4 | 35.0 [35.0, 35.0] (3) |" in text
    assert "| 50.0 [50.0, 50.0] (3) |" in text.split("gspo")[1].splitlines()[0]  # maj@k
    assert pass_table(load_runs(tmp_path).select(arm="luspo")).rows[0][2] == "luspo"
