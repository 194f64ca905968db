"""GPUs, memory and disk of this machine."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doctoring import ROLLOUT, TINY_PARAMETERS, Flat, cuda, levels, only

from harness.doctor import machine
from harness.doctor.machine import checkpoint_bytes, disk, gpus, host, kept_checkpoints
from harness.doctor.model import parameters
from harness.paths import ROOT


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *free: float, total: float = 80e9) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (int(free[number]), int(total)))


def test_gpus_are_asked_for_on_cuda_only(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)
    only(gpus(tiny), "ok")
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", "")
    assert "smollm2" in only(gpus(cuda(tiny)), "failure", "no NVIDIA driver").remedy
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert ".[gpu]" in only(gpus(cuda(tiny)), "failure", "a build for CPU").remedy
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "CUDA_VISIBLE_DEVICES" in only(gpus(cuda(tiny)), "failure", "sees no GPU").remedy


def test_gpus_are_counted_and_must_be_free(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = cuda(tiny) | {f"{ROLLOUT}.gpu_memory_utilization": 0.6}
    pretend_gpus(monkeypatch, 79e9, 79e9, 1e9)  # the third is not the run's
    only(gpus(wanted), "ok", "2 GPUs", "79 GB")
    pretend_gpus(monkeypatch, 79e9)
    found = list(gpus(wanted))
    assert found[0].level == "failure"
    assert "trainer.n_gpus_per_node=1" in found[0].remedy
    pretend_gpus(monkeypatch, 79e9, 47e9)  # vLLM wants 0.6 x 80 = 48
    only(gpus(wanted), "failure", "GPU 1: 47 GB of 80 GB")
    pretend_gpus(monkeypatch, 79e9, 49e9)
    only(gpus(wanted), "warning", "GPU 1")


def test_two_nodes_on_one_machine_would_share_gpus(tiny: Flat) -> None:
    only(gpus(cuda(tiny) | {"trainer.nnodes": 2}), "failure", "trainer.nnodes=2", "local")


def test_memory_is_that_of_the_container(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    small = tiny | {"harness.memory_gb": 0.5}
    assert "failure" not in levels(host(small))
    limit.write_text("400000000\n")
    assert any("400 MB of 400 MB" in finding.found for finding in host(small) if finding.level == "failure")
    limit.write_text("max\n")
    assert "failure" not in levels(host(small))


def test_ranks_without_a_core_are_warned_of(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    found = list(host(tiny | {"trainer.n_gpus_per_node": 2, "trainer.nnodes": 2, "harness.memory_gb": 0.1}))
    assert (found[0].level, found[0].found) == ("warning", "2 cores for 4 ranks")


def test_the_library_that_binds_workers_to_cores(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NUMA", "no-such-library.so")
    bound = {"harness.memory_gb": 0.1}
    assert levels(host(tiny | bound)) == ["ok"]
    found = list(host(cuda(tiny) | bound))
    assert (found[0].level, found[0].remedy) == ("warning", "`apt-get install libnuma-dev`")
    monkeypatch.setattr(machine, "NUMA", "libc.so.6")  # one that is there
    assert levels(host(cuda(tiny) | bound)) == ["ok"]


def test_a_checkpoint_is_three_float32_for_each_parameter_whoever_counts_them(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    assert parameters(folder) == TINY_PARAMETERS
    assert checkpoint_bytes(flat) == pytest.approx(3 * 4 * TINY_PARAMETERS)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"model_type": "gpt2"}))  # no estimate of this one
    assert checkpoint_bytes(flat) == pytest.approx(3 * 4 * TINY_PARAMETERS)


@pytest.mark.parametrize(
    ("every", "keep", "steps", "number"),
    [(20, 2, 60, 2), (20, 2, 20, 1), (20, 1, 60, 2), (20, None, 50, 3), (-1, 2, 60, 0), (100, 2, 60, 1)],
)
def test_checkpoints_on_disk_at_once(every: int, keep: int | None, steps: int, number: int, tiny: Flat) -> None:
    changes = {"trainer.save_freq": every, "trainer.max_actor_ckpt_to_keep": keep}
    assert kept_checkpoints(tiny | changes | {"trainer.total_training_steps": steps}) == number


def test_a_disk_too_small_for_the_checkpoints(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(free: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=free))

    usage(2 * 12 * TINY_PARAMETERS - 1)
    assert "max_actor_ckpt_to_keep" not in only(disk(tiny), "failure", "2 checkpoints").remedy  # none fewer are kept
    keep = tiny | {"trainer.max_actor_ckpt_to_keep": None}
    assert "max_actor_ckpt_to_keep=2" in only(disk(keep), "failure", "3 checkpoints").remedy
    assert asked == [tmp_path] * 2  # the folder that is there: the run's own is not yet
    usage(1e9)
    only(disk(tiny), "ok")


def test_the_reference_runs_fit_in_what_is_set_aside_for_records(tiny: Flat) -> None:
    run = ROOT / "results" / "reference" / "tiny" / "gspo" / "seed=20"
    kept = [run.joinpath("sequences.parquet"), *run.rglob("metrics.jsonl")]
    taken = sum(file.stat().st_size for file in kept)
    assert taken < machine.record_bytes(tiny) < 4 * taken


def test_a_root_that_is_a_file(tiny: Flat, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    only(disk(tiny), "failure", "not a folder")
