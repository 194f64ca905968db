"""What the file of claims says of its earlier versions, against those versions in the history of the project."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import write_run

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.report.numbers import build_report
from analysis.statistics.claim_file import Claims, load_claims
from harness.paths import CLAIMS, ROOT
from harness.rundir import content_hash

CURRENT = paper_claims()


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def versions(folder: Path) -> Iterator[Path]:
    """The file as each commit that touched it left it, newest first."""
    name = CLAIMS.relative_to(ROOT).as_posix()
    for commit in git("log", "--format=%H", "--", name).split():
        file = folder / f"{commit}.yaml"
        file.write_text(git("show", f"{commit}:{name}"))
        yield file


@pytest.mark.parametrize("version", CURRENT.earlier)
def test_rules_that_are_said_to_be_unchanged_are(version: str, tmp_path: Path) -> None:
    try:
        old = next(load_claims(file) for file in versions(tmp_path) if content_hash(file) == version)
    except (StopIteration, OSError, subprocess.CalledProcessError):
        pytest.skip("the history of the project is not here")
    for experiment in CURRENT.earlier[version]:
        assert decides(old, experiment) == decides(CURRENT, experiment), experiment


def decides(claims: Claims, experiment: str) -> object:
    """Everything that a verdict on the experiment depends on."""
    setting = claims.setting_of(experiment)
    rows = [
        (replace(row, experiments=(), delta={}, plain=""), row.rule(setting))
        for row in claims.rows
        if experiment in row.experiments
    ]
    return claims.level, sum(row.primary for row in claims.rows), claims.rules_of(experiment), rows


def test_a_report_counts_runs_by_the_rules_of_their_experiment(tmp_path: Path) -> None:
    claims = replace(CURRENT, hash="now", earlier={"then": ("tiny",)})
    for experiment in ("tiny", "mini_dense"):
        for seed, version in enumerate(("now", "then", "never", None)):
            write_run(
                tmp_path,
                {"response_length": [9.0]},
                experiment=experiment,
                arm="gspo",
                seed=seed,
                manifest={"claims": version},
            )
    found = build_report(load_runs(tmp_path), claims)["experiments"]
    assert {name: (of["rules"]["same"], of["rules"]["unknown"]) for name, of in found.items()} == {
        "tiny": (2, 1),
        "mini_dense": (1, 1),
    }
    assert [run.rpartition("=")[2] for run in found["mini_dense"]["rules"]["other"]] == ["1", "2"]
