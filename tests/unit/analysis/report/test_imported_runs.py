"""Runs of two frameworks in one report: compared on what is there, never called matched, and no claim is decided."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run
from importing import RECORDS, TRL_SEEDS, imported, write_lines

from analysis.paper.claims import paper_claims
from analysis.report import verify
from analysis.report.answer import answer
from analysis.report.numbers import build_report
from analysis.report.page import Content, own_tables, render_page
from analysis.report.warnings import warnings
from analysis.runs.load import AnalysisError, Runs, load_runs
from analysis.statistics.matched import require_matched
from analysis.statistics.selection import Choice, choose
from analysis.tables.table import Table

REFERENCE = Path(__file__).parents[4] / "results" / "reference" / "tiny" / "grpo"
LR = "actor_rollout_ref.actor.optim.lr"
STEPS = 12
CLAIMS = paper_claims()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that TRL trained and three that verl did, of one task; its name is that of a claimed experiment."""
    root = tmp_path_factory.mktemp("imported")
    for seed in TRL_SEEDS:
        trl = RECORDS / "trl" / f"seed={seed}"
        stated = ("--setting", "learning_rate=3e-4", "--setting", "num_generations=8", "--setting", "temperature=1")
        words = ("--arm", "luspo", "--seed", seed, "--per-step", 2, *stated)
        assert imported(root, trl, *words, name="tiny") == 0
        run = REFERENCE / f"seed={seed}"
        words = ("--arm", "gspo", "--seed", seed, "--until", STEPS, "--config", run / "config.yaml")
        assert imported(root, run / "attempts" / "01" / "metrics.jsonl", *words, name="tiny") == 0
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> Runs:
    return choose(load_runs(root))


def lengths(run: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (run / "attempts/01/metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["data"].get("response_length") for line in lines}
    return np.array([found[step] for step in range(1, STEPS + 1)])


def test_the_contrast_is_that_of_the_two_records(root: Path, runs: Runs) -> None:
    """The ratio of the mean lengths of the last fifth of the steps, over the three seeds, by hand."""
    report = build_report(runs, CLAIMS, contrasts=["luspo:gspo"])
    content = report["experiments"]["tiny"]
    record = next(r for r in content["comparisons"] if r["quantity"] == "response length")
    logs = [
        math.log(lengths(root / f"tiny/luspo/seed={seed}")[-3:].mean())
        - math.log(lengths(root / f"tiny/gspo/seed={seed}")[-3:].mean())
        for seed in TRL_SEEDS
    ]
    assert record["n"] == len(TRL_SEEDS)
    assert record["estimate"] == pytest.approx(math.exp(np.mean(logs)))
    half = 4.302653 * np.std(logs, ddof=1) / math.sqrt(3)  # Student's t for 2 degrees of freedom
    assert (record["low"], record["high"]) == pytest.approx(
        (np.exp(np.mean(logs) - half), np.exp(np.mean(logs) + half))
    )
    tokens = next(r for r in content["comparisons"] if r["basis"] == "token-matched")
    assert tokens["n"] == 0  # TRL does not record them
    assert "tokens is not recorded" in tokens["reason"]


def test_they_are_never_matched_and_no_claim_is_decided(runs: Runs) -> None:
    report = build_report(runs, CLAIMS)
    assert report["claims"] == []
    found = report["experiments"]["tiny"]["comparability"]
    assert not found["matched"]
    assert found["why_not"].startswith("cannot be shown, because 6 runs are imported: ")
    assert "nothing proves that they are matched" in answer(report, "tiny")[-1]
    settings = [row for row in report["experiments"]["tiny"]["verification"] if row["what"] == "settings"]
    assert [(row["agrees"], row["false"]) for row in settings] == [(0, 0)]
    with pytest.raises(AnalysisError, match="not matched: cannot be shown"):
        require_matched(load_runs(runs.runs["path"].to_list()))


def test_what_both_state_is_compared(runs: Runs) -> None:
    stated = build_report(runs, CLAIMS)["experiments"]["tiny"]["comparability"]["stated"]
    assert stated["equal"][LR] == "0.0003"
    assert stated["equal"]["actor_rollout_ref.rollout.temperature"] == "1.0"
    assert "actor_rollout_ref.actor.optim.clip_grad" in stated["partly"]  # TRL's records do not say


def test_the_page_names_them_and_their_files(runs: Runs) -> None:
    report = build_report(runs, CLAIMS)
    page = render_page("tiny", report, Content())
    for seed in TRL_SEEDS:
        state = RECORDS / "trl" / f"seed={seed}" / "trainer_state.json"
        assert hashlib.sha256(state.read_bytes()).hexdigest() in page
    assert "6 runs are imported from other records (TRL, verl)" in page
    assert "That they are matched cannot be shown, because" in page
    assert "config-matched" not in page
    assert any("no claim is decided with them" in said for said in warnings(report))
    (table,) = (t for part in own_tables(report).values() for t in part if t.name == "imported_tiny")
    assert isinstance(table, Table)
    assert len(table.rows) == 6


def test_settings_that_differ_keep_runs_apart(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [(step, {"response_length": 5.0}) for step in (1, 2)])
    for arm, rate in (("a", "1e-5"), ("b", "1e-6"), ("c", "0.00001")):
        assert imported(tmp_path, file, "--arm", arm, "--setting", f"learning_rate={rate}") == 0
    chosen = choose(load_runs(tmp_path / "cmp"))
    assert set(chosen.runs["arm"]) == {"a", "c"}
    assert f"differ in {LR} (1e-05: " in chosen.left_out["cmp/b/seed=0"]
    assert set(choose(load_runs(tmp_path / "cmp"), Choice(varies=(LR,))).runs["arm"]) == {"a", "b", "c"}


def test_one_arm_with_two_losses_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [(1, {"response_length": 5.0})])
    for seed, low in enumerate((0.2, 0.1)):
        assert imported(tmp_path, file, "--arm", "a", "--seed", seed, "--setting", f"epsilon={low}") == 0
    runs = load_runs(tmp_path / "cmp")
    with pytest.raises(AnalysisError, match=r"are called one arm, a, and differ in the treatment: .*clip_ratio_low"):
        require_matched(runs, ["imported"])
    assert "differs from it in the treatment" in choose(runs).left_out["cmp/a/seed=1"]


def test_beside_a_run_of_our_own(tmp_path: Path) -> None:
    """An imported run is held against its settings, and is no part of a claim's sample."""
    for seed in range(5):
        for arm in ("gspo", "luspo"):
            settings = {LR: 1e-5, "data.train_batch_size": 16}
            write_run(tmp_path, {"response_length": [5.0 + seed] * 20}, experiment="tiny", arm=arm, seed=seed,
                      controlled=settings)  # fmt: skip
    file = write_lines(tmp_path / "a.jsonl", [(step, {"response_length": 50.0}) for step in range(1, 21)])
    words = ("--arm", "luspo", "--seed", 9)
    assert imported(tmp_path, file, *words, "--setting", "learning_rate=1e-5", name="tiny") == 0
    chosen = choose(load_runs(tmp_path / "tiny"))
    assert "tiny/luspo/seed=9" in set(chosen.runs["run"])
    report = build_report(chosen, CLAIMS)
    claim = next(result for result in report["claims"] if result["id"] == "C1")
    assert claim["n"] == 5
    assert "tiny/luspo/seed=9" not in claim["runs"]
    assert claim["estimate"] == pytest.approx(1.0)
    assert not report["experiments"]["tiny"]["comparability"]["matched"]


def test_verify_says_what_cannot_be_known(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(root)]) == 0
    assert "0 are false" in capsys.readouterr().out
    file = write_lines(tmp_path / "a.jsonl", [(step, {"response_length": 5.0}) for step in range(1, STEPS + 1)])
    assert imported(tmp_path, file, "--arm", "sapo", "--seed", 20, "--setting", "num_generations=4", name="tiny") == 0
    pair = [str(root / "tiny" / "gspo" / "seed=20"), str(tmp_path / "tiny" / "sapo" / "seed=20")]
    assert verify.main(pair) == 1
    assert "the runs differ in actor_rollout_ref.rollout.n" in " ".join(capsys.readouterr().out.split())


def test_a_changed_run_directory_is_not_read(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [(1, {"response_length": 5.0})])
    assert imported(tmp_path, file, "--arm", "a") == 0
    metrics = tmp_path / "cmp" / "a" / "seed=0" / "attempts" / "01" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("5.0", "6.0"))
    with pytest.raises(AnalysisError, match="not as the run left them"):
        load_runs(tmp_path / "cmp")


def test_gaps_in_the_gradient_norm_are_no_divergence(tmp_path: Path) -> None:
    rows = [(step, {"response_length": 5.0, **({"grad_norm": 1.0} if step < 5 else {})}) for step in range(1, 11)]
    assert imported(tmp_path, write_lines(tmp_path / "a.jsonl", rows), "--arm", "a") == 0
    report = build_report(choose(load_runs(tmp_path / "cmp")), CLAIMS)
    (row,) = report["experiments"]["cmp"]["attrition"]
    assert (row["finished"], row["diverged"]) == (1, 0)
