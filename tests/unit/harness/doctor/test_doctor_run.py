"""Settings, lengths, data, grader and tracking."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doctoring import ACTOR, ADDRESS, MODEL, ROLLOUT, Flat, levels, only

from harness.doctor import files, rules
from harness.doctor.run import data, grader, lengths, settings, tracking
from harness.tasks.registry import asset_path


def test_every_rule_of_the_checks_is_asked() -> None:
    """Those of ``rules.SETTINGS`` by `settings`, those of files by `weights` and `data`, the others are warnings."""
    of_files = {"model_folder", "heads", "fused_head", "fork_point", "data_file"}
    assert of_files <= set(files.check.__code__.co_names)
    assert {name for name, one in vars(files).items() if getattr(one, "__module__", "") == files.__name__} == (
        of_files | {"check"}
    )
    called = {name for name in rules.warnings.__code__.co_names if name.startswith("_")}
    assert called == {"_rounding"}
    assert {name for name in vars(rules) if name.startswith("_") and callable(getattr(rules, name))} == (
        called | {rule.__name__ for rule in rules.SETTINGS if rule.__name__.startswith("_")} | {"_nearest"}
    )


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
