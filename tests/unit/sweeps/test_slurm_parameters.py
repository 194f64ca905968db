"""What Slurm is told: submitit's own batch file for each kind of trial, through stand-ins for Slurm's programs."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_launcher import trial
from submitit.core.utils import DelayedSubmission

from harness.config import ConfigError, matching
from harness.paths import CONF
from sweeps.launchers.base import LaunchError
from sweeps.launchers.slurm import Slurm, parameters
from sweeps.trials import Trial

SBATCH = """#!/bin/sh
cp "$(eval echo \\${$#})" "$SLURM_STAND_IN/batch.sh"
echo "Submitted batch job 42"
"""
FILE = yaml.safe_load((CONF / "hydra" / "launcher" / "slurm.yaml").read_text())
DEFAULTS = {key: value for key, value in FILE.items() if key not in ("_target_", "kind")}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH with stand-ins for sbatch, srun, squeue and scancel; empty ones do nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(tmp_path))
    for name in ("sbatch", "srun", "squeue", "scancel"):
        program(folder, name, SBATCH if name == "sbatch" else "#!/bin/sh\n")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def batch(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Options and other lines of the batch file that sbatch was given."""
    lines = (folder / "batch.sh").read_text().splitlines()
    options = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH")]
    return {key: value for key, _, value in options}, [line for line in lines if line and not line.startswith("#")]


def submit(one: Trial, **settings: Any) -> tuple[Slurm, dict[str, Any]]:
    launcher = Slurm(**{**DEFAULTS, **settings})
    launcher.check([one])
    assert launcher.place(one, []) == {}
    one.path.mkdir(parents=True, exist_ok=True)
    return launcher, launcher.start(one, {})


def test_the_file_of_settings_is_the_launchers_and_its_defaults(tmp_path: Path) -> None:
    named = set(inspect.signature(Slurm.__init__).parameters) - {"self", "settings"}
    others = {key: value for key, value in DEFAULTS.items() if key not in named}
    assert named < set(DEFAULTS)
    for gpus in (0, 8):
        one = trial(tmp_path, "a", gpus=gpus)
        given = parameters(one, others)
        assert given.items() >= {"time": 1440, "signal_delay_s": 300, "nodes": 1}.items()
        bare = parameters(one, {})  # without any setting but the number of cores
        assert {**bare, **({"cpus_per_task": 112} if gpus else {})} == given
    assert inspect.signature(Slurm).parameters["max_jobs"].default == DEFAULTS["max_jobs"]
    assert inspect.signature(Slurm).parameters["start_seconds"].default == DEFAULTS["start_seconds"]


def test_one_node_of_eight_gpus(programs: Path, tmp_path: Path) -> None:
    one = trial(tmp_path, "gspo,clip=own", gpus=8, ranks=8)
    launcher, submission = submit(one)
    assert submission == {"job": "42"}
    options, lines = batch(tmp_path)
    assert options["job-name"].strip("'") == "fake.gspo,clip=own.seed=0"
    expected = {"nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "8", "cpus-per-task": "112", "time": "1440",
                "signal": "USR2@300", "open-mode": "append"}  # fmt: skip
    assert options.items() >= expected.items()
    assert not {"partition", "account", "qos", "mem", "constraint"} & set(options)  # the cluster's own defaults
    assert options["output"].startswith(str(one.path))
    assert sys.executable in lines[-1]
    assert launcher.name == "slurm"
    assert not launcher.ends_with_us


def test_two_nodes_share_the_gpus(programs: Path, tmp_path: Path) -> None:
    submit(trial(tmp_path, "a", gpus=16, nodes=2, ranks=8), cpus_per_gpu=6)
    options, _ = batch(tmp_path)
    expected = {"nodes": "2", "ntasks-per-node": "1", "gpus-per-node": "8", "cpus-per-task": "48"}
    assert options.items() >= expected.items()


def test_a_run_on_cpu_asks_for_no_gpu(programs: Path, tmp_path: Path) -> None:
    submit(trial(tmp_path, "a"))
    options, _ = batch(tmp_path)
    assert not {"gpus-per-node", "cpus-per-task", "gres"} & set(options)


def test_all_settings_arrive(programs: Path, tmp_path: Path) -> None:
    settings = {
        "partition": "gpu", "account": "lab", "qos": "long", "time_minutes": 90, "signal_seconds": 120,
        "mem_per_node": "900GB", "setup": ["module load cuda", "export A=1"],
        "extra": {"constraint": "h100", "exclusive": True},
    }  # fmt: skip
    submit(trial(tmp_path, "a", gpus=1), **settings)
    options, lines = batch(tmp_path)
    expected = {"partition": "gpu", "account": "lab", "qos": "long", "time": "90", "signal": "USR2@120",
                "mem": "900GB", "constraint": "h100", "exclusive": ""}  # fmt: skip
    assert options.items() >= expected.items()
    assert lines[:2] == ["module load cuda", "export A=1"]


@pytest.mark.parametrize("warning", [300, 90])
def test_a_run_has_less_time_for_its_last_step_than_slurm_gives(
    programs: Path, tmp_path: Path, flat: Callable[..., Any], warning: int
) -> None:
    """And what is added for that, or for a Ray that is there already, does not make it another run."""
    one = trial(tmp_path, "a", gpus=1)
    submit(one, signal_seconds=warning)
    (file,) = one.path.rglob("*submitted.pkl")
    name, added = DelayedSubmission.load(file).function.overrides
    assert name == "algo=a"
    mine = ["algo=gspo", added, "ray_kwargs.ray_init.address=auto"]
    assert 30 <= flat(*mine)["harness.watch.grace_seconds"] < warning
    assert matching.run_path(flat(*mine), mine) == matching.run_path(flat("algo=gspo"), ["algo=gspo"])


@pytest.mark.parametrize("name", ["partitoin", "gpus", "mem"])
def test_an_unknown_setting_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"hydra.launcher.{name}: unknown; there are account, .*time_minutes"):
        parameters(trial(tmp_path, "a"), {name: 1})


def test_no_more_at_once_than_told(tmp_path: Path) -> None:
    launcher, one = Slurm(max_jobs=2), trial(tmp_path, "a")
    assert [launcher.place(one, [{"job": "1"}] * running) for running in (0, 1, 2, 3)] == [{}, {}, None, None]


def test_without_slurm_it_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch on this machine"):
        Slurm().check([trial(tmp_path, "a")])


def test_what_sbatch_says_is_the_error(programs: Path, tmp_path: Path) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    program(programs, "sbatch", f"#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\necho '{said}' >&2\nexit 1\n")
    with pytest.raises(LaunchError) as caught:
        submit(trial(tmp_path, "a"), partition="nowhere")
    assert "Invalid partition name specified" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_lives_while_it_is_in_the_queue(programs: Path, tmp_path: Path) -> None:
    launcher, submission = submit(trial(tmp_path, "a"))
    program(programs, "squeue", "#!/bin/sh\necho 41\necho 42\n")
    assert launcher.alive(submission)
    assert not launcher.alive({"job": "4"})
    assert not Slurm().alive({"job": "43"})  # another launcher asks for itself


def test_a_queue_that_does_not_answer_says_nothing(programs: Path, tmp_path: Path) -> None:
    program(
        programs, "squeue", "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    assert Slurm().alive({"job": "42"})


@pytest.mark.parametrize("answer", ["seq 1 300", "exit 1"])
def test_the_queue_is_asked_now_and_then_for_all(programs: Path, tmp_path: Path, answer: str) -> None:
    program(programs, "squeue", f'#!/bin/sh\necho x >> "$SLURM_STAND_IN/asked"\n{answer}\n')
    launcher = Slurm()
    assert all(launcher.alive({"job": str(number)}) for number in range(1, 301))
    assert (tmp_path / "asked").read_text() == "x\n"


def test_cancel_names_one_job(programs: Path, tmp_path: Path) -> None:
    program(programs, "scancel", '#!/bin/sh\necho "$@" > "$SLURM_STAND_IN/cancelled"\n')
    Slurm().cancel({"job": "42"})
    assert (tmp_path / "cancelled").read_text() == "42\n"


def test_what_runs_in_the_allocation_can_be_pickled_with_its_process(programs: Path, tmp_path: Path) -> None:
    """submitit writes it to a file when it queues the job again, while the training process is there."""
    one = trial(tmp_path, "a", gpus=16, nodes=2, ranks=8)
    submit(one)
    (file,) = one.path.rglob("*submitted.pkl")
    allocation = DelayedSubmission.load(file).function
    allocation.training = object.__new__(type("Unpicklable", (), {"__reduce__": None}))
    again = tmp_path / "again.pkl"
    DelayedSubmission(allocation).dump(again)
    loaded = DelayedSubmission.load(again).function
    assert (loaded.path, loaded.training) == (str(one.path), None)
    assert loaded.overrides[0] == "algo=a"
