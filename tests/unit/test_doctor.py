"""Would a run start here? Every bad case is made for real: a missing file, a full disk, a node that shares nothing."""

import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from verl.workers.config import HFModelConfig

from harness import checks, doctor, doctor_cluster, doctor_machine, doctor_nodes, doctor_software
from harness.asset_names import asset_path
from harness.assets import ROOT
from harness.config import ConfigError
from harness.doctor_cluster import job_findings, node_findings
from harness.doctor_finding import Finding, failure, findings, ok
from harness.doctor_machine import checkpoint_bytes, disk, gpus, host, kept_checkpoints
from harness.doctor_model import architecture, parameters, tokenizer, weights
from harness.doctor_nodes import Node, make_probe, survey
from harness.doctor_run import RULES, data, grader, lengths, settings, tracking
from harness.doctor_software import engines, versions

MODEL = "actor_rollout_ref.model.path"
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
ADDRESS = "ray_kwargs.ray_init.address"
TINY_PARAMETERS = 94_720  # conf/policy/tiny.yaml
Flat = dict[str, Any]


@pytest.fixture
def tiny(flat: Callable[..., Flat], tmp_path: Path) -> Flat:
    """tiny's configuration, with runs in a folder of the test's own."""
    return flat("experiment=tiny") | {"harness.root": str(tmp_path / "runs")}


@pytest.fixture
def copied(tiny: Flat, tmp_path: Path) -> tuple[Flat, Path]:
    """The same with a copy of its model, and that copy."""
    folder = tmp_path / "model"
    shutil.copytree(asset_path(MODEL, tiny[MODEL], tiny["harness.asset_seed"]), folder)
    return tiny | {MODEL: str(folder)}, folder


def cuda(flat: Flat, count: int = 2) -> Flat:
    return flat | {"trainer.device": "cuda", "trainer.n_gpus_per_node": count, f"{ROLLOUT}.name": "vllm"}


def levels(found: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in found]


def only(found: Iterable[Finding], level: str, *words: str) -> Finding:
    """The one finding, of that level and with these words in what was found."""
    (finding,) = list(found)
    assert finding.level == level, finding
    assert all(word in finding.found for word in words), finding
    assert level == "ok" or finding.remedy or level == "warning", finding
    return finding


# -- the whole -------------------------------------------------------------------------------------------------------


def test_tiny_would_start_here_and_every_check_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["experiment=tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert set(doctor.checks()) <= {line.split()[1] for line in lines if line.startswith(("ok", "warning"))}
    assert not any(line.startswith("failure") for line in lines)


def test_a_configuration_that_cannot_be_composed_is_a_line_and_not_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.main(["experiment=nonsense"]) == 1
    out = capsys.readouterr().out
    assert "failure settings" in out
    assert "Could not find 'experiment/nonsense' Available options" in " ".join(out.split())
    assert "text_dense_1gpu" in out
    assert "search path" not in out
    assert "versions" in out  # what needs no configuration is still checked


def test_a_missing_package_is_a_line_too() -> None:
    code = "import sys; sys.modules['hydra'] = None; from harness.doctor import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "hydra" in done.stdout
    assert "make -B setup" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(
    tiny: Flat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Flat) -> list[Finding]:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(doctor, "composed", lambda _: tiny)
    monkeypatch.setattr(doctor, "checks", lambda: {"odd": broken, "even": lambda _: [ok("fine")]})
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: first line" in out
    assert "second line" not in out
    assert "fine" in out


def test_a_config_error_is_said_in_its_own_words(tiny: Flat) -> None:
    def refuse(_: Flat) -> list[Finding]:
        raise ConfigError("a is wrong; set b")

    assert findings(refuse, tiny) == [failure("a is wrong; set b")]


# -- software --------------------------------------------------------------------------------------------------------


def wrong_versions(monkeypatch: pytest.MonkeyPatch, **given: str | None) -> list[Finding]:
    true = metadata.version

    def version(name: str) -> str:
        found = given.get(name, "")
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found or true(name)

    monkeypatch.setattr(metadata, "version", version)
    return list(versions({}))


def test_packages_as_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    only(wrong_versions(monkeypatch, torch="2.13.0+cu130"), "ok")


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({"verl": "0.9.2"}, "failure", ("verl 0.9.2", "==0.9.1")),
        ({"torch": "2.14.0"}, "failure", ("torch 2.14.0", "<2.14")),
        ({"ray": None}, "failure", ("ray is not installed", "2.60")),
        ({"matplotlib": "3.0"}, "warning", ("matplotlib 3.0",)),  # the analysis' alone
    ],
)
def test_other_versions_are_named(
    given: dict[str, Any], level: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(wrong_versions(monkeypatch, **given), level, *words)


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_software.platform, "python_version", lambda: "3.14.1")
    only(versions({}), "failure", "Python 3.14.1")


def test_engines_are_imported_where_they_are_used(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(engines(tiny), "ok")
    monkeypatch.setattr(doctor_software.importlib.util, "find_spec", lambda _: None)
    only(engines(cuda(tiny)), "failure", "vllm", "not installed")
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    only(engines(cuda(tiny)), "failure", "vllm", "libcudart.so.13")
    (tmp_path / "vllm.py").write_text("import os; os.kill(os.getpid(), 11)")
    only(engines(cuda(tiny)), "failure", "signal 11")


def test_flash_attention_is_asked_for_where_verl_takes_it(tiny: Flat) -> None:
    on_cuda = tiny | {"trainer.device": "cuda"}
    only(engines(on_cuda), "ok")  # tiny names another
    unnamed = {key: value for key, value in on_cuda.items() if key != doctor_software.ATTENTION}
    assert doctor_software.FLASH_ATTN in only(engines(unnamed), "failure", "flash_attn", "not installed").remedy
    only(engines(unnamed | {"trainer.device": "cpu"}), "ok")
    assert f'"attn_implementation", "{doctor_software.DEFAULT_ATTENTION}"' in inspect.getsource(HFModelConfig)


# -- machine ---------------------------------------------------------------------------------------------------------


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *free: float, total: float = 80e9) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (int(free[number]), int(total)))


def test_gpus_are_asked_for_on_cuda_only(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch)
    only(gpus(tiny), "ok")
    monkeypatch.setattr(doctor_machine, "DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", "")
    assert "smollm2" in only(gpus(cuda(tiny)), "failure", "no NVIDIA driver").remedy
    monkeypatch.setattr(doctor_machine, "DRIVER", tmp_path)
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
    monkeypatch.setattr(doctor_machine, "CGROUP_LIMIT", limit)
    small = tiny | {"harness.memory_gb": 0.5}
    assert "failure" not in levels(host(small))
    limit.write_text("400000000\n")
    assert any("400 MB of 400 MB" in finding.found for finding in host(small) if finding.level == "failure")
    limit.write_text("max\n")
    assert "failure" not in levels(host(small))


def test_ranks_without_a_core_are_warned_of(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine.os, "cpu_count", lambda: 2)
    found = list(host(tiny | {"trainer.n_gpus_per_node": 2, "trainer.nnodes": 2, "harness.memory_gb": 0.1}))
    assert (found[0].level, found[0].found) == ("warning", "2 cores for 4 ranks")


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
    taken = sum(file.stat().st_size for file in (run / "attempts").rglob("*") if file.is_file())
    assert taken < doctor_machine.record_bytes(tiny) < 4 * taken


def test_a_root_that_is_a_file(tiny: Flat, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    only(disk(tiny), "failure", "not a folder")


# -- model -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(copied: tuple[Flat, Path]) -> tuple[Flat, Path]:
    """The model's weights in two files with an index."""
    flat, folder = copied
    (folder / "model.safetensors").unlink()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in names.items():
        save_file({name: np.ones((2, 3), np.float32)}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return flat, folder


def test_all_shards_are_there(sharded: tuple[Flat, Path]) -> None:
    flat, folder = sharded
    only(weights(flat), "ok", "12 parameters")
    (folder / "model-00002-of-00002.safetensors").unlink()
    finding = only(weights(flat), "failure", "lacks 1 files", "model-00002-of-00002.safetensors")
    assert "00001" not in finding.found


def test_a_shard_that_was_cut_short(sharded: tuple[Flat, Path]) -> None:
    flat, folder = sharded
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    only(weights(flat), "failure", file.name, "not whole")


def test_no_folder_is_one_failure(tiny: Flat) -> None:
    absent = tiny | {MODEL: "Qwen/Nowhere"}
    (finding,) = findings(weights, absent)
    assert finding.level == "failure"
    assert "hf download Qwen/Nowhere" in finding.found
    assert [*architecture(absent), *tokenizer(absent)] == []


def test_an_architecture_that_transformers_lacks(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    only(architecture(flat), "ok", "Qwen2ForCausalLM")
    content = json.loads((folder / "config.json").read_text()) | {"architectures": ["Qwen9ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(content))
    only(architecture(flat), "failure", "Qwen9ForCausalLM")
    (folder / "config.json").write_text(json.dumps(content | {"architectures": None}))
    only(architecture(flat), "failure", "no architecture")


def test_a_model_of_other_sizes_than_the_policy_s(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    sizes = {"harness.shape.hidden_size": 64, "harness.shape.num_hidden_layers": 28}
    found = only(architecture(flat | sizes), "warning", "num_hidden_layers 2, not 28")
    assert "hidden_size" not in found.found
    assert "policy=" in found.remedy
    content = json.loads((folder / "config.json").read_text())
    nested = {"architectures": content.pop("architectures"), "text_config": content}
    (folder / "config.json").write_text(json.dumps(nested))
    only(architecture(flat | sizes), "warning", "num_hidden_layers 2, not 28")
    only(architecture(flat | {"harness.shape.hidden_size": 64, "harness.shape.vision_config.depth": 32}), "ok")


def test_a_tokenizer_without_a_chat_template(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    only(tokenizer(flat), "ok", "chat template")
    (folder / "chat_template.jinja").unlink()
    only(tokenizer(flat), "failure", "no chat template")
    given = {"actor_rollout_ref.model.custom_chat_template": "{{ messages[0]['content'] }}"}
    only(tokenizer(flat | given), "ok")
    (folder / "chat_template.jinja").write_text("hello")
    only(tokenizer(flat), "failure", "leaves the question out")
    (folder / "tokenizer.json").write_text("{")
    only(tokenizer(flat), "failure", "does not load")


# -- run -------------------------------------------------------------------------------------------------------------


def test_every_rule_of_the_checks_is_asked() -> None:
    called = {name for name in checks.check.__code__.co_names if name.startswith("_")}
    apart = {"_model_folder", "_data_file", "_warnings"}  # by `weights`, `data` and `settings`
    assert {rule.__name__ for rule in RULES} | apart == called


def test_each_broken_rule_is_a_line(tiny: Flat) -> None:
    only(settings(tiny), "ok", "tiny, grpo, seed 0")
    only(settings(tiny | {"trainer.save_freq": -1}), "warning", "save_freq")
    broken = tiny | {f"{ACTOR}.grad_clip": 0.5, f"{ACTOR}.ppo_mini_batch_size": 5, "harness.fork_from": "nowhere"}
    found = list(settings(broken))
    assert levels(found) == ["failure"] * 3
    assert all(word in finding.found for word, finding in zip(("grad_clip", "divide", "nowhere"), found, strict=True))


def test_the_longest_response_fits_everywhere(tiny: Flat, flat: Callable[..., Flat]) -> None:
    only(lengths(tiny), "ok", "86 tokens, of 128 positions")
    only(lengths(tiny | {"data.max_response_length": 113}), "failure", "129 tokens", "128 positions")
    only(lengths(tiny | {f"{ROLLOUT}.max_model_len": 129}), "failure", "max_model_len=129", "128 positions")
    assert "max_model_len=86" in only(lengths(tiny | {f"{ROLLOUT}.max_model_len": 85}), "failure").remedy
    only(lengths(tiny | {MODEL: "Qwen/Nowhere"}), "ok", "86 tokens")  # `weights` says that there is none
    for name, ranks in (("text_dense", 4), ("text_moe", 2)):
        preset = flat(f"experiment={name}")
        only(lengths(preset), "ok", "34,816 tokens")
        size = preset[f"{ACTOR}.ppo_max_token_len_per_gpu"]
        longer = preset | {f"{ROLLOUT}.max_model_len": 40_000, "data.max_response_length": 34_000}
        found = list(lengths(longer))
        assert levels(found) == ["failure"] * 2  # the update and the log-probabilities
        assert f"per_gpu={size:,} on each of the {ranks} GPUs" in found[0].found
        assert f"ppo_max_token_len_per_gpu={36_048 // ranks}" in found[0].remedy
        small = preset | {"harness.shape.max_position_embeddings": 32_768}
        only(lengths(small), "failure", "34816; the model has 32,768 positions")


def test_images_need_a_model_that_sees_them(copied: tuple[Flat, Path], tmp_path: Path) -> None:
    flat, folder = copied
    table = pq.read_table(asset_path("data.val_files", flat["data.val_files"], flat["harness.asset_seed"]))
    images = pa.array([[{"bytes": b"", "path": ""}]] * len(table))
    pq.write_table(table.append_column("images", images), tmp_path / "images.parquet")
    flat |= {"data.val_files": str(tmp_path / "images.parquet")}
    assert levels(data(flat)) == ["ok", "failure"]
    assert "policy=" in list(data(flat))[1].remedy
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"vision_config": {}}))
    assert levels(data(flat)) == ["ok", "ok"]


def test_each_data_file_is_a_line(tiny: Flat, tmp_path: Path) -> None:
    assert levels(data(tiny)) == ["ok", "ok"]
    (tmp_path / "a.parquet").write_text("no parquet")
    found = list(data(tiny | {"data.train_files": str(tmp_path / "a.parquet"), "data.val_files": "asset:aime99/a"}))
    assert levels(found) == ["failure", "failure"]
    assert "not a readable parquet" in found[0].found
    assert "no asset aime99" in found[1].found


def test_the_grader_is_loaded_and_tests_itself(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "reward.reward_kwargs.grader"
    mathematics = "harness.grading.mathematics"
    only(grader(tiny), "ok")
    only(grader(tiny | {key: f"{mathematics}.grade"}), "ok", "10 answers")
    only(grader(tiny | {key: f"{mathematics}.marks"}), "failure", "marks")
    monkeypatch.setattr(f"{mathematics}.SELF_TEST", (("42", "24", True),))
    only(grader(tiny | {key: f"{mathematics}.grade"}), "failure", "misjudges")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_import.py").write_text(
        "SELF_TEST = (('1', '1', True),)\ndef grade(*_):\n    import no_such_verifier\n"
    )
    only(grader(tiny | {key: "late_import.grade"}), "failure", "no_such_verifier")


def test_wandb_online_needs_a_login(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    flat = tiny | {"trainer.logger": ["file", "wandb"]}
    only(tracking(flat), "ok", "offline")
    monkeypatch.setenv("WANDB_MODE", "online")
    only(tracking(tiny), "ok", "files")
    only(tracking(flat), "failure", "no W&B login")
    (tmp_path / ".netrc").write_text("machine example.org login user password word\n")
    only(tracking(flat), "failure", "no W&B login")
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    assert "sesame" not in only(tracking(flat), "ok").found
    only(tracking(flat | {ADDRESS: "auto"}), "warning", "not handed on")
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password sesame\n")
    assert "sesame" not in only(tracking(flat | {ADDRESS: "auto"}), "ok").found


# -- cluster ---------------------------------------------------------------------------------------------------------

TWO = {ADDRESS: "10.0.0.1:6379", "trainer.nnodes": 2, "trainer.n_gpus_per_node": 8}
NODES = [("id-a", "10.0.0.1", 8.0, 96.0), ("id-b", "10.0.0.2", 8.0, 96.0)]


def here(_: str, probe: Callable[..., Any], arguments: tuple) -> Any:
    return probe(*arguments)


def good(name: str, gpus: float, cpus: float) -> Node:
    return Node(name, gpus, cpus, read=True, wrote=True)


def test_nodes_that_share_everything(tiny: Flat, tmp_path: Path) -> None:
    nodes = survey(tiny | TWO, NODES, here)
    assert nodes == [good(name, 8.0, 96.0) for _, name, _, _ in NODES]
    only(node_findings(nodes, tiny | TWO), "ok", "2 nodes, 16 GPUs, 192 CPUs")
    assert list((tmp_path / "runs").iterdir()) == []  # nothing is left behind


def test_nodes_that_fail_are_named_with_what_they_lack(copied: tuple[Flat, Path], tmp_path: Path) -> None:
    flat = copied[0] | TWO

    def ask(identity: str, probe: Callable[..., Any], arguments: tuple) -> Any:
        ours, theirs, token, paths, packages = arguments
        if identity == "dead":
            raise TimeoutError("no answer")
        if identity == "apart":  # its own disk under the same path
            (tmp_path / "apart").mkdir()
            return probe(ours.replace("runs", "apart"), theirs.replace("runs", "apart"), token, paths, packages)
        if identity == "read-only":
            return probe(ours, str(tmp_path / "nowhere" / "file"), token, paths, packages)
        if identity == "modelless":
            absent = [f"{path}-not-there" for path in paths if "model" in path]
            return probe(ours, theirs, token, absent, packages)
        answer = probe(*arguments)
        if identity == "bare":
            return {**answer, "problem": "ModuleNotFoundError: No module named 'harness'"}
        torch_there = f"{metadata.version('torch').partition('+')[0]}+cu999"  # another build of the same version
        return {**answer, "versions": {**answer["versions"], "verl": "0.8.0", "ray": None, "torch": torch_there}}

    names = ("dead", "apart", "read-only", "modelless", "bare", "older")
    found = list(node_findings(survey(flat, [(name, name, 8.0, 96.0) for name in names], ask), flat))
    words = (
        *("TimeoutError: no answer", "does not share", "does not share", "model-not-there", "does not import"),
        f"verl 0.8.0 where this machine has {metadata.version('verl')}, ray not installed where",
    )
    assert levels(found) == ["failure"] * 6
    for name, word, finding in zip(names, words, found, strict=True):
        assert finding.found.startswith(f"node {name}: ") or (name == "older" and "node older: " in finding.found)
        assert word in finding.found
        assert "torch" not in finding.found
    assert list((tmp_path / "runs").iterdir()) == []


def test_vllm_is_asked_of_nodes_with_gpus_only(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_nodes, "training_packages", lambda: ["vllm"])
    monkeypatch.setattr(doctor_nodes, "installed", lambda _: "0.20.0")
    nodes = survey(tiny | TWO, [("a", "head", 0.0, 8.0), ("b", "worker", 8.0, 96.0)], here)
    assert [bool(node.others) for node in nodes] == [False, True]


def test_too_few_nodes_with_enough_gpus_or_cpus(tiny: Flat) -> None:
    nodes = [good(str(gpus), gpus, cpus) for gpus, cpus in ((8.0, 96.0), (4.0, 96.0), (8.0, 23.0))]
    found = only(node_findings(nodes, tiny | TWO), "failure", "3 nodes, 20 GPUs", "8 GPUs and 24 CPUs: 1")
    assert "trainer.nnodes" in found.remedy
    for cpus, level in ((24.0, "failure"), (25.0, "ok")):  # 48 for the ranks, the queue's controller and its one unit
        only(node_findings([good("a", 8.0, cpus), good("b", 8.0, 25.0)], tiny | TWO), level, "2 nodes, 16 GPUs")


def test_a_ray_of_the_run_s_own_must_count_the_cpus_that_verl_waits_for(
    flat: Callable[..., Flat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of tiny with num_cpus=5 trains, with 4 it waits without end: tried."""
    num_cpus = "ray_kwargs.ray_init.num_cpus"
    tiny = flat("experiment=tiny")
    only(doctor_cluster.cluster(tiny | {num_cpus: 5}), "ok")
    assert f"{num_cpus}=5" in only(doctor_cluster.cluster(tiny | {num_cpus: 4}), "failure", "have 4 CPUs").remedy
    many = tiny | {"trainer.n_gpus_per_node": 6}  # of its 16 CPUs the ranks alone take 18, on one node
    assert f"{num_cpus}=20" in only(doctor_cluster.cluster(many), "failure", "have 16 CPUs").remedy
    only(doctor_cluster.cluster(tiny | {"trainer.n_gpus_per_node": 5, "trainer.nnodes": 2}), "ok")
    assert doctor_cluster.cpus_counted() == os.cpu_count() or Path("/sys/fs/cgroup/cpu.max").is_file()
    card = flat("experiment=text_dense_1gpu") | {"trainer.nnodes": 1, ADDRESS: "local"}
    needed = 3 + 1 + card[doctor_cluster.UNITS]
    for cores, level in ((needed - 1, "failure"), (needed, "ok")):
        monkeypatch.setattr(doctor_cluster, "cpus_counted", lambda cores=cores: cores)
        only(doctor_cluster.cluster(card), level)


def test_the_cpus_are_those_that_verl_and_its_queue_ask_for() -> None:
    from transfer_queue.controller import TransferQueueController
    from transfer_queue.storage.simple_storage import SimpleStorageUnit
    from verl.single_controller.ray import ResourcePoolManager

    assert ResourcePoolManager.max_colocate_count == doctor_cluster.RANK_CPUS
    for actor in (TransferQueueController, SimpleStorageUnit):
        options: dict[str, Any] = getattr(actor, "_default_options")  # noqa: B009  (Ray's)
        assert options["num_cpus"] == 1


def test_another_verl_job_is_seen() -> None:
    others = [{"name": "something", "namespace": "else"}]
    assert list(job_findings(others)) == []
    queue = {"name": "TransferQueueController", "namespace": "transfer_queue"}
    only(job_findings([*others, queue]), "failure", "another verl job")


def test_a_cluster_that_cannot_be_joined(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(doctor_cluster.cluster(tiny | {ADDRESS: None}), "failure", "is not set")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stub = tmp_path / "ray.py"
    stub.write_text("def init(**_):\n    raise ConnectionError('Could not find\\n   any running Ray instance.')\n")
    found = only(doctor_cluster.cluster(tiny | TWO), "failure", "ConnectionError: Could not find any running Ray")
    assert "ray start --head" in found.remedy
    stub.write_text("def init(**_):\n    import os\n    os._exit(7)\n")
    only(doctor_cluster.cluster(tiny | TWO), "failure", "status 7")
    monkeypatch.setattr(doctor_cluster, "CONNECT_SECONDS", 1)
    stub.write_text("def init(**_):\n    import time\n    time.sleep(600)\n")
    only(doctor_cluster.cluster(tiny | TWO), "failure", "no answer within 1 s")


def test_the_probe_travels_to_a_node_without_the_package(tmp_path: Path) -> None:
    cloudpickle: Any = importlib.import_module("ray.cloudpickle")
    (tmp_path / "probe.pickle").write_bytes(cloudpickle.dumps(make_probe()))
    (tmp_path / "ours").write_text("token")
    code = (
        "import sys, pickle, json; sys.modules['harness'] = None; probe = pickle.load(open('probe.pickle', 'rb'));"
        "print(json.dumps(probe('ours', 'theirs', 'token', ['ours', 'absent'], ['ray', 'absent'])))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert "harness" in said["problem"]
    assert (said["read"], said["lacks"]) == (True, ["absent"])
    assert said["versions"] == {"ray": metadata.version("ray"), "absent": None}
    assert (tmp_path / "theirs").read_text() == "token"


def test_a_failure_keeps_a_run_on_gpus_from_starting(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "gpus": lambda flat: [Finding("failure", "0 GPUs", "a node with 8")],
        "disk": lambda flat: [Finding("failure", "full", "room"), Finding("ok", "there")],
        "settings": lambda flat: [Finding("failure", "checked by the run itself", "")],
    }
    monkeypatch.setattr("harness.doctor.checks", lambda: found)
    with pytest.raises(ConfigError, match=r"gpus: 0 GPUs; remedy: a node with 8 .1 more"):
        doctor.before_run(tiny)
    found["gpus"] = lambda flat: [Finding("warning", "busy", "wait")]
    found["disk"] = lambda flat: [Finding("ok", "there")]
    assert doctor.before_run(tiny) == ["gpus: busy"]
