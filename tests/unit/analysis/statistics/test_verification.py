"""Good runs, and what a hand or an accident may do to them: each change is found, named, and in no contrast."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_runs import VERSIONS, write_whole_run
from scipy import stats

from analysis.__main__ import main
from analysis.paper.claims import paper_claims
from analysis.report.numbers import build_report
from analysis.report.warnings import warnings
from analysis.runs.load import load_runs
from analysis.runs.proofs import FALSE
from analysis.statistics.selection import Choice, choose
from analysis.statistics.verification import verify
from harness.rundir import RunDir, seal, settings_hash

CLAIMS = paper_claims()
STEPS = 20
LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode"
RATE = "actor_rollout_ref.actor.optim.lr"
LONGER = {0: 1.5, 1: 1.6, 2: 1.4, 3: 1.55, 4: 1.45}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GSPO and LUSPO over five seeds, 20 steps; LUSPO's responses are 1.4 to 1.6 times as long."""
    root = tmp_path_factory.mktemp("good")
    for seed, ratio in LONGER.items():
        for arm, length in (("gspo", 20.0), ("luspo", 20.0 * ratio)):
            write_whole_run(root, arm, seed, lengths=np.full(STEPS, length))
    return root


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of the good runs, to be changed."""
    return shutil.copytree(good, tmp_path / "runs")


def run_of(folder: Path, arm: str, seed: int = 2) -> RunDir:
    return RunDir(folder / "tiny" / arm / f"seed={seed}")


def manifest_of(run: RunDir) -> dict[str, Any]:
    return json.loads((run.path / "manifest.json").read_text())


def change(run: RunDir, resealed: bool = True, **fields: Any) -> None:
    """Change the manifest; ``resealed``: as if the run had been made so, its hashes included."""
    (run.path / "manifest.json").write_text(json.dumps({**manifest_of(run), **fields}))
    if resealed:
        seal(run)


def set_up(run: RunDir, **settings: Any) -> None:
    """The run as if it had been trained with these controlled settings: manifest, fingerprint and config.yaml."""
    controlled = {**manifest_of(run)["controlled"], **settings}
    change(run, controlled=controlled, fingerprint=settings_hash(controlled))
    flat = yaml.safe_load(run.config.read_text())
    plain = {key: value for key, value in settings.items() if not key.startswith(("code.", "hash."))}
    run.config.write_text(yaml.safe_dump({**flat, **plain}))
    seal(run)


def report_of(folder: Path, choice: Choice | None = None) -> dict[str, Any]:
    return build_report(choose(load_runs(folder), choice), CLAIMS)


def claim(report: Mapping[str, Any], id: str, row: str = "") -> Any:
    (found,) = [r for r in report["claims"] if (r["id"], r["row"], r["experiment"]) == (id, row, "tiny")]
    return found


def test_good_runs_are_proved(folder: Path) -> None:
    report = report_of(folder)
    assert (claim(report, "C1")["verdict"], report["left_out"]) == ("supported", {})
    assert claim(report, "C1")["paired"]
    states = {
        (one.pair, proof.what): proof.state for one in verify(load_runs(folder)) for proof in one.proofs
    }  # the last of each kind
    unknown = [key for key, state in states.items() if state == "unknown"]
    assert unknown == [(True, "source code")]
    assert set(states.values()) == {"agrees", "unknown"}
    assert warnings(report) == []


def another_rate(folder: Path) -> str:
    for seed in LONGER:
        run = run_of(folder, "luspo", seed)
        change(run, controlled={**manifest_of(run)["controlled"], RATE: 1e-4})
    return f"{RATE} (0.0001 | 1e-05)"


def another_config(folder: Path) -> str:
    for seed in LONGER:
        run = run_of(folder, "luspo", seed)
        run.config.write_text(yaml.safe_dump({**yaml.safe_load(run.config.read_text()), RATE: 1e-4}))
        seal(run)
    return f"manifest.json and config.yaml differ in {RATE} (1e-05 | 0.0001)"


def another_treatment(folder: Path) -> str:
    for seed in (0, 1):
        run = run_of(folder, "gspo", seed)
        treatment = {**manifest_of(run)["treatment"], LOSS: "vanilla"}
        change(run, treatment=treatment)
        run.config.write_text(yaml.safe_dump({**yaml.safe_load(run.config.read_text()), LOSS: "vanilla"}))
        seal(run)
    return f"differs from it in the treatment: {LOSS} (gspo | vanilla)"


def the_same_treatment(folder: Path) -> str:
    for seed in LONGER:
        run = run_of(folder, "luspo", seed)
        change(run, treatment=manifest_of(run_of(folder, "gspo"))["treatment"])
        run.config.write_text(yaml.safe_dump({**yaml.safe_load(run.config.read_text()), LOSS: "gspo"}))
        seal(run)
    return "those of the arm gspo, so it is the same loss"


def copies(folder: Path) -> str:
    for arm in ("gspo", "luspo"):
        for seed in (1, 2, 3, 4):
            run = run_of(folder, arm, seed)
            shutil.rmtree(run.path)
            shutil.copytree(run_of(folder, arm, 0).path, run.path)
            change(run, seed=seed)
            run.config.write_text(yaml.safe_dump({**yaml.safe_load(run.config.read_text()), "seed": seed}))
            seal(run)
    return "has the same first responses as"


def another_verl(folder: Path) -> str:
    for seed in LONGER:
        change(run_of(folder, "luspo", seed), versions={**VERSIONS, "verl": "0.8.0"})
    return "versions.verl (0.9.1 | 0.8.0)"


def another_engine(folder: Path) -> str:
    for seed in LONGER:
        change(run_of(folder, "luspo", seed), versions={**VERSIONS, "vllm": "0.11.0"})
    return "versions.vllm (0.24.0 | 0.11.0)"


def another_grader(folder: Path) -> str:
    for arm, value in (("gspo", "1111"), ("luspo", "2222")):
        for seed in LONGER:
            run = run_of(folder, arm, seed)
            set_up(run, **{"code.grader": value})
            change(run, code={"grader": {"mine/reward.py": value, "mine/parts.py": "same"}})
    return "code.grader (in mine/reward.py: 1111 | 2222)"


def changed_file(folder: Path) -> str:
    for seed in LONGER:
        (attempt,) = run_of(folder, "luspo", seed).attempts()
        file = attempt / "metrics.jsonl"
        file.write_text(file.read_text().replace('"accuracy": 0.5', '"accuracy": 0.9'))
    return "not as the run left them: attempts/01/metrics.jsonl (changed)"


def a_step_twice(folder: Path) -> str:
    for seed in LONGER:
        run = run_of(folder, "luspo", seed)
        (attempt,) = run.attempts()
        with (attempt / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": STEPS, "data": {"response_length": 999.0, "accuracy": 0.5}}) + "\n")
        seal(run)
    return "step 20 is there twice"


Change = Callable[[Path], str]


@pytest.mark.parametrize(
    "change_runs",
    [
        another_rate,
        another_config,
        another_treatment,
        the_same_treatment,
        copies,
        another_verl,
        another_engine,
        another_grader,
        changed_file,
        a_step_twice,
    ],
)
def test_no_contrast_of_runs_that_were_changed(folder: Path, change_runs: Change) -> None:
    reason = change_runs(folder)
    report = report_of(folder)
    assert claim(report, "C1")["verdict"] == "not tested"
    assert reason in " ".join(report["left_out"].values())


def test_an_edited_loss_is_another_arm_by_name(folder: Path) -> None:
    for seed in LONGER:
        for arm in ("gspo", "luspo"):
            run = run_of(folder, arm, seed)
            value = "edited" if (arm, seed) == ("luspo", 4) else arm
            change(run, treatment={**manifest_of(run)["treatment"], "code.loss": value})
    report = report_of(folder)
    assert report["left_out"] == {
        "tiny/luspo/seed=4": "called one arm with tiny/luspo/seed=0, and differs from it in the treatment: "
        "code.loss (luspo | edited)"
    }


def test_code_that_one_side_did_not_record_is_unknown_and_no_difference(folder: Path) -> None:
    for seed in LONGER:
        set_up(run_of(folder, "luspo", seed), **{"code.grader": "1111"})
    report = report_of(folder)
    assert (claim(report, "C1")["verdict"], report["left_out"]) == ("supported", {})
    (row,) = [row for row in report["experiments"]["tiny"]["verification"] if row["what"] == "source code"]
    assert (row["agrees"], row["unknown"], row["false"]) == (0, 5, 0)
    # but two that recorded it are compared, whatever the first of all recorded
    set_up(run_of(folder, "luspo", 4), **{"code.grader": "2222"})
    assert "code.grader (1111 | 2222)" in report_of(folder)["left_out"]["tiny/luspo/seed=4"]


def test_another_torch_is_a_warning(folder: Path) -> None:
    change(run_of(folder, "luspo", 0), versions={**VERSIONS, "torch": "2.6.0"})
    report = report_of(folder)
    assert claim(report, "C1")["verdict"] == "supported"
    assert warnings(report) == ["The runs differ in versions, torch: 2.13.0 | 2.6.0."]


def test_other_commits_and_changed_trees_are_warnings(folder: Path) -> None:
    change(run_of(folder, "luspo", 0), commit="fedcba987654+")
    said = warnings(report_of(folder))
    assert said == [
        "The runs come from different commits: 0123456789ab | fedcba987654+.",
        "Runs were made from a changed tree, whose state no commit holds: fedcba987654+.",
    ]


def test_pairs_that_did_not_begin_alike_are_compared_as_independent_runs(folder: Path) -> None:
    for seed in LONGER:
        shutil.rmtree(run_of(folder, "luspo", seed).path)
        write_whole_run(folder, "luspo", seed + 10, lengths=np.full(STEPS, 20.0 * LONGER[seed]))
        run = RunDir(folder / "tiny" / "luspo" / f"seed={seed + 10}")
        moved = run.path.rename(run_of(folder, "luspo", seed).path)
        change(RunDir(moved), seed=seed)
        config = yaml.safe_load(RunDir(moved).config.read_text())
        RunDir(moved).config.write_text(yaml.safe_dump({**config, "seed": seed}))
        seal(RunDir(moved))
    report = report_of(folder)
    found = claim(report, "C1")
    assert not found["paired"]
    assert found["same_start"] == 0
    assert found["reason"].startswith("unpaired (Welch): the first responses were the same in 0 of 5 pairs")
    lengths = {arm: [] for arm in ("gspo", "luspo")}
    runs = load_runs(folder)
    for row in runs.runs.to_dict("records"):
        metrics = runs.metrics[(runs.metrics["run"] == row["run"]) & (runs.metrics["step"] > 16)]
        lengths[row["arm"]].append(np.log(metrics["response_length"].mean()))
    independent = stats.ttest_ind(lengths["luspo"], lengths["gspo"], equal_var=False).confidence_interval(0.95)
    assert np.log([found["low_plain"], found["high_plain"]]) == pytest.approx(list(independent))
    (said,) = warnings(report)
    assert said.startswith("The first responses differ in 5 of 5 pairs")


def rewrite(run: RunDir, step: int, changed: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    (attempt,) = run.attempts()
    file = attempt / "sequences" / f"{step}.parquet"
    changed(pd.read_parquet(file)).to_parquet(file)
    seal(run)


def rows_twice(run: RunDir, folder: Path) -> str:
    rewrite(run, STEPS, lambda rows: pd.concat([rows, rows]))
    return "16 responses at step 20, the settings give 8"


def rows_of_another_seed(run: RunDir, folder: Path) -> str:
    (attempt,), (other,) = run.attempts(), run_of(folder, "luspo", 3).attempts()
    shutil.copy(other / "sequences" / "20.parquet", attempt / "sequences" / "20.parquet")
    seal(run)
    return "response_length of step 20 is"


def rows_missing(run: RunDir, folder: Path) -> str:
    (attempt,) = run.attempts()
    (attempt / "sequences" / "20.parquet").unlink()
    seal(run)
    return "no responses of step 20"


def rows_torn(run: RunDir, folder: Path) -> str:
    (attempt,) = run.attempts()
    file = attempt / "sequences" / "20.parquet"
    file.write_bytes(file.read_bytes()[:300])
    seal(run)
    return "20.parquet: not readable"


def sample_twice(run: RunDir, folder: Path) -> str:
    rewrite(run, STEPS, lambda rows: pd.concat([rows.iloc[:-1], rows.iloc[:1]]))
    return "sample 0 of prompt 0 is there twice at step 20"


def other_beginning(run: RunDir, folder: Path) -> str:
    rewrite(run, 1, lambda rows: rows.assign(response_hash=rows["response_hash"] + 1))
    return "those of step 1 hash to"


@pytest.mark.parametrize(
    "spoil", [rows_twice, rows_of_another_seed, rows_missing, rows_torn, sample_twice, other_beginning]
)
def test_responses_that_contradict_the_metrics_are_used_nowhere(
    folder: Path, spoil: Callable[[RunDir, Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    reason = spoil(run_of(folder, "luspo"), folder)
    runs = load_runs(folder)
    assert set(runs.runs["run"]) - {row["run"] for row, _ in runs.responses(["tokens"])} == {"tiny/luspo/seed=2"}
    report = report_of(folder)
    assert claim(report, "C1")["verdict"] == "supported"  # it needs the metrics alone
    (said,) = warnings(report)
    assert said.startswith("tiny/luspo/seed=2: responses: ")
    assert reason in said
    assert main(["verify", str(folder)]) == 1
    assert "1 are false" in capsys.readouterr().out


def test_a_torn_file_leaves_the_page_standing(folder: Path, tmp_path: Path) -> None:
    rows_torn(run_of(folder, "luspo"), folder)
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "20.parquet: not readable" in page
    assert "What is proved of tiny" in page


def test_verify_counts_what_agrees(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    # a run: fingerprint, config, files, responses, commit; a pair: settings, trainer, first responses, and code
    assert "65 checks agree, 5 cannot be known, 0 are false" in out
    run = run_of(folder, "luspo")
    change(run, resealed=False, commit="x")
    assert main(["verify", str(folder)]) == 1
    assert "manifest.json (changed)" in capsys.readouterr().out
    assert main(["verify", str(folder / "nothing")]) == 2
    assert "no runs found" in capsys.readouterr().err


def test_what_is_declared_to_vary_reaches_the_contrasts(folder: Path) -> None:
    for seed in LONGER:
        set_up(run_of(folder, "luspo", seed), **{RATE: 1e-4})
    assert claim(report_of(folder), "C1")["verdict"] == "not tested"
    report = report_of(folder, Choice(varies=[RATE]))
    assert (claim(report, "C1")["verdict"], report["left_out"]) == ("supported", {})
    comparisons = report["experiments"]["tiny"]["comparisons"]
    assert {c["n"] for c in comparisons if c["basis"] == "config-matched"} == {5}


def test_the_page_says_whose_rules_decided(folder: Path) -> None:
    for seed in LONGER:
        for arm in ("gspo", "luspo"):
            change(run_of(folder, arm, seed), claims=CLAIMS.hash)
    assert report_of(folder)["experiments"]["tiny"]["rules"] == {"same": 10, "other": [], "unknown": 0}
    change(run_of(folder, "luspo"), claims="another")
    assert report_of(folder)["experiments"]["tiny"]["rules"] == {
        "same": 9,
        "other": ["tiny/luspo/seed=2"],
        "unknown": 0,
    }


def test_every_false_proof_names_its_subject(folder: Path) -> None:
    another_verl(folder)
    false = {one.subject for one in verify(load_runs(folder)) for proof in one.proofs if proof.state == FALSE}
    assert false == {f"gspo, luspo at seed {seed}" for seed in LONGER}
