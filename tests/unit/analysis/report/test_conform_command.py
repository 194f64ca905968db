"""``python -m analysis conform``: what it records, says and refuses, with runs drawn from known distributions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_runs import write_run

from analysis.__main__ import main
from analysis.statistics.conform import false_alarms
from analysis.statistics.envelopes import read

ROOT = Path(__file__).resolve().parents[4]
STEPS = 8
LEVELS = {"response_length": 20.0, "reward": 0.5, "clip_frac_token": 0.1, "entropy": 0.3, "grad_norm": 0.7}
SETTINGS = {"data.train_batch_size": 16, "optim.lr": 1e-3, "code.grader": "aa"}
VERSIONS = {"verl": "0.9.1", "torch": "2.13.0", "transformers": "5.10.4"}
MACHINE = {"processor": "a processor", "cores": 2}


def train(
    root: Path, arm: str, seeds: range, steps: int = STEPS, settings: Any = None, versions: Any = None, **times: float
) -> Path:
    """Runs whose every figure scatters by 5 % about its level times ``times[name]``."""
    for seed in seeds:
        rng = np.random.default_rng([len(arm), seed, steps])
        shift = rng.normal(1, 0.05, len(LEVELS))
        metrics = {
            name: level * times.get(name, 1.0) * shift[at] * rng.normal(1, 0.02, steps)
            for at, (name, level) in enumerate(LEVELS.items())
        }
        told = {
            "controlled": {**SETTINGS, **(settings or {})},
            "treatment": {"actor.policy_loss.loss_mode": arm},
            "versions": {**VERSIONS, **(versions or {})},
            "hardware": MACHINE,
            "commit": "0123456789ab",
        }
        write_run(root, metrics, experiment="fake", arm=arm, seed=seed, manifest=told)
    return root


@pytest.fixture
def envelope(tmp_path: Path) -> Path:
    for arm in ("gspo", "luspo"):
        train(tmp_path / "recorded", arm, range(10))
    assert main(["conform", "record", str(tmp_path / "recorded"), "--envelope", str(tmp_path / "envelope")]) == 0
    return tmp_path / "envelope"


def check(runs: Path, envelope: Path, *words: str) -> int:
    return main(["conform", "check", str(runs), "--envelope", str(envelope), *words])


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_other_seeds_of_the_same_loss_learn_the_same(tmp_path, envelope, capsys):
    for arm in ("gspo", "luspo"):
        train(tmp_path / "new", arm, range(10, 13), settings={"code.grader": "bb"})
    assert check(tmp_path / "new", envelope) == 0
    said = capsys.readouterr().out
    for arm in ("gspo", "luspo"):
        assert (
            f"{arm}: learns the same: the mean of seeds 10, 11, 12 is within the band of 10 in all of 10 values" in said
        )
    assert "recorded with all versions the same" in said


def test_what_left_the_band_is_named_with_its_steps_and_by_how_much(tmp_path, envelope, capsys):
    train(tmp_path / "new", "gspo", range(10, 13), grad_norm=2.0)
    train(tmp_path / "new", "luspo", range(10, 13))
    assert check(tmp_path / "new", envelope) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "SOMETHING ELSE" in line)
    assert line.startswith("gspo: LEARNS SOMETHING ELSE in 2 of 10 values: grad_norm at steps ")
    assert "grad_norm at steps 1-2 is 1." in line
    assert "grad_norm at steps 5-8 is 1." in line
    assert line.count("recorded 0.7") + line.count("recorded 0.6") == 2
    assert line.count("beyond every recorded run at step 1-8") == 2


def test_a_recorded_seed_must_be_the_same_run(tmp_path, envelope, capsys):
    train(tmp_path / "again", "gspo", range(2))
    assert check(tmp_path / "again", envelope) == 0
    assert "gspo: seed 1 is the recorded run, figure by figure" in capsys.readouterr().out
    train(tmp_path / "other", "gspo", range(1), reward=1.000001)
    assert check(tmp_path / "other", envelope) == 1
    assert "gspo: seed 0 is another run from step 1 on, where reward is 0." in capsys.readouterr().out


def test_with_other_versions_a_recorded_seed_may_be_another_run(tmp_path, envelope, capsys):
    train(tmp_path / "other", "gspo", range(1), versions={"torch": "2.14.0"}, reward=1.000001)
    assert check(tmp_path / "other", envelope) == 0
    said = capsys.readouterr().out
    assert "torch 2.13.0 there, 2.14.0 here" in said
    assert "seed 0 is another run from step 1 on" in said


def test_another_verl_may_have_other_keys_but_no_other_values(tmp_path, envelope, capsys):
    update = {"verl": "0.9.2"}
    train(tmp_path / "new", "gspo", range(10, 13), versions=update, settings={"trainer.new_key": 1})
    assert check(tmp_path / "new", envelope) == 0
    capsys.readouterr()
    train(tmp_path / "changed", "gspo", range(10, 13), versions=update, settings={"optim.lr": 2e-3})
    assert check(tmp_path / "changed", envelope) == 2
    assert "gspo was trained with other settings than the envelope's: optim.lr (0.001 | 0.002)" in refused(capsys)


def test_settings_that_may_differ_are_declared(tmp_path, envelope, capsys):
    train(tmp_path / "new", "gspo", range(10, 13), settings={"trainer.new_key": 1})
    assert check(tmp_path / "new", envelope) == 2
    assert "trainer.new_key (absent | 1)" in refused(capsys)
    assert check(tmp_path / "new", envelope, "--varies", "trainer") == 0


def test_no_envelope(tmp_path, capsys):
    train(tmp_path / "new", "gspo", range(10, 13))
    assert check(tmp_path / "new", tmp_path / "none") == 2
    assert "none/envelope.json: no such file; record runs of ten seeds" in refused(capsys)


def test_an_envelope_that_is_not_whole(tmp_path, envelope, capsys):
    train(tmp_path / "new", "gspo", range(10, 13))
    lines = (envelope / "steps.csv").read_text().splitlines(keepends=True)
    (envelope / "steps.csv").write_text("".join(lines[:-3]))
    assert check(tmp_path / "new", envelope) == 2
    assert "not every run of envelope.json has its 8 steps" in refused(capsys)
    (envelope / "steps.csv").write_text("nothing\n")
    assert check(tmp_path / "new", envelope) == 2
    assert "no envelope can be read" in refused(capsys)


def test_runs_of_other_steps(tmp_path, envelope, capsys):
    train(tmp_path / "new", "gspo", range(10, 13), steps=12)
    assert check(tmp_path / "new", envelope) == 2
    assert "the runs have 12 steps, the envelope 8" in refused(capsys)


def test_a_loss_that_was_not_recorded(tmp_path, envelope, capsys):
    train(tmp_path / "new", "sapo", range(10, 13))
    assert check(tmp_path / "new", envelope) == 2
    assert "sapo: not recorded; the envelope has gspo, luspo" in refused(capsys)


def test_a_run_that_was_cut_short(tmp_path, envelope, capsys):
    train(tmp_path / "new", "gspo", range(10, 12))
    write_run(
        tmp_path / "new",
        {"response_length": [20.0]},
        experiment="fake",
        seed=12,
        state="failed",
        planned=STEPS,
        error="boom",
    )
    assert check(tmp_path / "new", envelope) == 2
    assert "fake/gspo/seed=12 is failed at step 1 of 8: boom; only whole runs can be compared" in refused(capsys)


def test_mixed_settings_make_no_envelope(tmp_path, capsys):
    train(tmp_path / "runs", "gspo", range(5))
    train(tmp_path / "runs", "gspo", range(5, 6), settings={"optim.lr": 2e-3})
    assert main(["conform", "record", str(tmp_path / "runs"), "--envelope", str(tmp_path / "e")]) == 2
    assert "seed=0 and fake/gspo/seed=5 differ in optim.lr (0.001 | 0.002)" in refused(capsys)
    assert not (tmp_path / "e").exists()


def test_a_loss_is_added_to_those_that_are_recorded(tmp_path, envelope, capsys):
    before = (envelope / "steps.csv").read_text().splitlines()
    about = json.loads((envelope / "envelope.json").read_text())
    words = [
        "conform",
        "record",
        str(train(tmp_path / "more", "grpo", range(10))),
        "--envelope",
        str(envelope),
        "--add",
    ]
    assert main(words) == 0
    assert "30 runs of grpo, gspo, luspo" in capsys.readouterr().out
    after = (envelope / "steps.csv").read_text().splitlines()
    assert [line for line in after if not line.startswith("grpo,")] == before
    now = json.loads((envelope / "envelope.json").read_text())
    assert now["treatment"].pop("grpo") == {"actor.policy_loss.loss_mode": "grpo"}
    assert now["commits"].pop("grpo") == "0123456789ab"
    assert now == about
    assert main([*words[:2], str(train(tmp_path / "again", "luspo", range(10), reward=1.1)), *words[3:]]) == 0
    rows = pd.read_csv(envelope / "steps.csv").groupby("algo")["reward"].agg(["mean", "size"])
    assert rows["size"].tolist() == [10 * STEPS] * 3
    assert rows["mean"]["luspo"] == pytest.approx(0.55, rel=0.1)
    assert rows["mean"]["gspo"] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"versions": {"torch": "2.14.0"}},
            "differ in version of torch (2.13.0 | 2.14.0); record all losses anew",
        ),
        ({"settings": {"optim.lr": 2e-3}}, "differ in optim.lr (0.001 | 0.002); record all losses anew"),
        ({"steps": STEPS + 1}, "differ in planned_steps (8 | 9); record all losses anew"),
        ({"seeds": range(1, 11)}, "the same seeds of every loss, 5 at least, ten are usual; found grpo 10, gspo 10"),
    ],
)
def test_what_differs_from_the_recorded_is_not_added(tmp_path, envelope, capsys, more, message):
    runs = train(tmp_path / "more", "grpo", **{"seeds": range(10), **more})
    before = (envelope / "steps.csv").read_bytes(), (envelope / "envelope.json").read_bytes()
    assert main(["conform", "record", str(runs), "--envelope", str(envelope), "--add"]) == 2
    assert message in refused(capsys)
    assert ((envelope / "steps.csv").read_bytes(), (envelope / "envelope.json").read_bytes()) == before


def test_an_envelope_needs_the_same_seeds_of_every_loss(tmp_path, capsys):
    train(tmp_path / "runs", "gspo", range(6))
    train(tmp_path / "runs", "luspo", range(5))
    assert main(["conform", "record", str(tmp_path / "runs"), "--envelope", str(tmp_path / "e")]) == 2
    assert "the same seeds of every loss, 5 at least, ten are usual; found gspo 6, luspo 5" in refused(capsys)


def test_no_runs(tmp_path, capsys):
    assert check(tmp_path / "none", tmp_path) == 2
    assert "no runs found" in refused(capsys)


def test_calibrating_counts_all_choices_of_three(envelope, capsys):
    assert main(["conform", "calibrate", str(envelope)]) == 0
    said = capsys.readouterr().out
    assert "of 120 choices of 3 of the 10 seeds are told from the other 7" in said
    assert said.count("grad_norm") == 4  # two losses, two windows


def test_what_is_recorded_is_what_the_runs_say(tmp_path, envelope):
    about = json.loads((envelope / "envelope.json").read_text())
    assert about["settings"] == SETTINGS
    assert about["versions"] == VERSIONS
    assert about["planned_steps"] == STEPS
    lines = (envelope / "steps.csv").read_text().splitlines()
    assert lines[0] == "algo,seed,step,response_length,reward,clip_frac_token,entropy,grad_norm"
    assert len(lines) == 1 + 2 * 10 * STEPS
    (file,) = (tmp_path / "recorded").glob("fake/gspo/seed=3/attempts/01/metrics.jsonl")
    fourth = json.loads(file.read_text().splitlines()[3])["data"]
    row = next(line for line in lines if line.startswith("gspo,3,4,"))
    assert [float(cell) for cell in row.split(",")[3:]] == pytest.approx([fourth[name] for name in LEVELS], rel=1e-8)


def test_the_envelope_that_comes_with_the_project():
    """Ten seeds of each loss that ``make conform`` trains, and the rate of false alarms that the page states."""
    envelope = read(ROOT / "results" / "conform" / "tiny_conform")
    assert {"grpo", "gspo", "luspo"} <= {*envelope.losses}
    assert all(envelope.seeds(loss) == [*range(10)] for loss in envelope.losses)
    seeds = yaml.safe_load((ROOT / "conf" / "sweep" / "conform.yaml").read_text())["hydra"]["sweeper"]["params"]["seed"]
    assert not {int(seed) for seed in seeds.split(",")} & {*range(10)}
    alarms, total = false_alarms(envelope.summaries())
    assert alarms <= 0.05 * total
    assert f"{alarms} of {total}" in (ROOT / "docs" / "conform.md").read_text()
