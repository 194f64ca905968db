"""What is found wrong before a run starts: every refusal and warning, on small files, by the words that help."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_files import write_data, write_model

from harness.config import ConfigError
from harness.doctor import files, rules
from harness.doctor.rules import check
from harness.doctor.verl_keys import ENVIRONMENT, FLASH_CROSS_ENTROPY

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model.path"
REWARD = "reward.reward_kwargs"
Flat = Callable[..., dict[str, Any]]


@pytest.fixture
def good(flat: Flat, tmp_path: Path) -> dict[str, Any]:
    """A configuration about which there is nothing to say: 16 prompts x 8 responses, 4 prompts an update."""
    return {
        **flat("algo=gspo"),
        MODEL: write_model(tmp_path / "model"),
        "data.train_files": write_data(tmp_path / "train.parquet", list(range(32))),
        "data.val_files": write_data(tmp_path / "heldout.parquet", list(range(100, 104))),
    }


def refusal(flat: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        check(flat)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_good_configuration_passes_without_a_word(good: dict[str, Any]) -> None:
    assert check(good) == []


@pytest.mark.parametrize("keep", [2, 5, None])
def test_two_checkpoints_or_more_may_be_kept(good: dict[str, Any], keep: int | None) -> None:
    assert check({**good, "trainer.max_actor_ckpt_to_keep": keep}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{ACTOR}.grad_clip": 0.5}, (f"{ACTOR}.grad_clip=0.5", f"{ACTOR}.optim.clip_grad")),
        (
            {f"{ACTOR}.optim.warmup_style": "cosine"},
            (f"{ACTOR}.optim.warmup_style=cosine", f"{ACTOR}.optim.lr_scheduler_type"),
        ),
        ({f"{ACTOR}.use_kl_loss": True}, (f"{ACTOR}.use_kl_loss=true", "CPU")),
        (
            {
                f"{REWARD}.parts": ["accuracy", "overlong"],
                f"{REWARD}.overlong.limit": 64,
                f"{REWARD}.overlong.buffer": 99,
            },
            (f"{REWARD}.overlong={{limit: 64, buffer: 99}}", "0 < buffer <= limit"),
        ),
        ({f"{REWARD}.parts": ["accuracy", "brevity"]}, (f"{REWARD}.parts=['accuracy', 'brevity']", "format, overlong")),
        ({"trainer.max_actor_ckpt_to_keep": 1}, ("trainer.max_actor_ckpt_to_keep must be 2 or more", "kill")),
        ({f"{ACTOR}.checkpoint.async_save": True}, (f"{ACTOR}.checkpoint.async_save=true", "set it to false")),
        (
            {f"{ACTOR}.policy_loss.loss_mode": "geo_mean", f"{ACTOR}.use_dynamic_bsz": True},
            ("geo_mean", f"{ACTOR}.use_dynamic_bsz"),
        ),
        ({"trainer.v1.trainer_mode": "colocate_async"}, ("trainer.v1.trainer_mode", "sync")),
        ({f"{ROLLOUT}.tensor_model_parallel_size": 2}, (f"{ROLLOUT}.tensor_model_parallel_size", "1", "transformers")),
        ({f"{ROLLOUT}.max_model_len": 64}, (f"{ROLLOUT}.max_model_len=64", "null", "data.max_response_length is the")),
        (
            {f"{ROLLOUT}.response_length": 30},
            (f"{ROLLOUT}.response_length=30", "data.max_response_length=70", "set data.max_response_length alone"),
        ),
        (
            {f"{ROLLOUT}.prompt_length": 8},
            (f"{ROLLOUT}.prompt_length=8", "data.max_prompt_length=16"),
        ),
        (
            {f"{ACTOR}.ulysses_sequence_parallel_size": 2, "trainer.n_gpus_per_node": 2},
            (f"{ACTOR}.ulysses_sequence_parallel_size=2", "flash_attention_2, got sdpa", "its own part alone"),
        ),
        (
            {f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 2},
            (f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2", "set harness.sequence_parallel_size"),
        ),
        (
            {f"{ROLLOUT}.full_determinism": True},
            (f"{ROLLOUT}.full_determinism=True", "one engine", f"{ENVIRONMENT}.VLLM_BATCH_INVARIANT='\"1\"'"),
        ),
        (
            {f"{ACTOR}.fsdp_config.full_determinism": True, "trainer.device": "cuda"},
            (f"{ACTOR}.fsdp_config.full_determinism=true", "bfloat16", f"{FLASH_CROSS_ENTROPY}='\"0\"'"),
        ),
        (
            {f"{ACTOR}.megatron.router_replay.mode": "R3"},
            (f"{ACTOR}.megatron.router_replay.mode=R3", f"{ACTOR}.strategy is fsdp2", "experiment=text_moe"),
        ),
        (
            {"algorithm.rollout_correction.bypass_mode": True, f"{ROLLOUT}.top_p": 0.7},
            ("bypass_mode=true", "top_p=0.7", "bypass_mode=false"),
        ),
        (
            {"algorithm.rollout_correction.bypass_mode": True, "algorithm.rollout_correction.rollout_is": "token"},
            ("bypass_mode=true", "rollout_is", "bypass_mode=false"),
        ),
        (
            {"algorithm.rollout_correction.rollout_is": "token", f"{ROLLOUT}.top_p": 0.7},
            ("algorithm.rollout_correction.rollout_is", "top_p=0.7", f"set {ROLLOUT}.top_p=1"),
        ),
        ({"harness.mean_length": "???"}, ("harness.mean_length has no value", "harness.mean_length=...")),
        (
            {f"{ACTOR}.ppo_mini_batch_size": 6},
            (f"{ACTOR}.ppo_mini_batch_size=6", "data.train_batch_size=16", "nearest that do: 4 or 8"),
        ),
        ({f"{ACTOR}.ppo_mini_batch_size": 15}, ("nearest that do: 8 or 16",)),
        ({f"{ACTOR}.ppo_mini_batch_size": 32}, ("nearest that do: 8 or 16",)),
        ({"trainer.n_gpus_per_node": 3}, ("4 prompts x 8 responses", "3 ranks", f"{ROLLOUT}.n could be ")),
        ({"trainer.n_gpus_per_node": 4, "trainer.nnodes": 16}, ("64 ranks", f"{ROLLOUT}.n could be 16")),
        (
            {f"{ACTOR}.ppo_micro_batch_size_per_gpu": 12},
            (f"{ACTOR}.ppo_micro_batch_size_per_gpu=12", "32 responses", "nearest that do: 8 or 16"),
        ),
        (
            {f"{ACTOR}.ppo_micro_batch_size_per_gpu": 32, "trainer.n_gpus_per_node": 2},
            ("16 responses", "nearest that do: 8 or 16"),
        ),
        (
            {f"{ACTOR}.ppo_micro_batch_size_per_gpu": None},
            (f"{ACTOR}.ppo_micro_batch_size_per_gpu", f"{ACTOR}.use_dynamic_bsz=true"),
        ),
        ({"data.train_batch_size": 48, f"{ACTOR}.ppo_mini_batch_size": 4}, ("32 prompts", "data.train_batch_size=48")),
    ],
    ids=lambda value: ",".join(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in value.items()) if type(value) is dict else "",
)
def test_a_setting_that_cannot_work_is_refused_with_its_remedy(
    good: dict[str, Any], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    message = refusal({**good, **changes})
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("ranks", [3, 5, 6, 7, 12, 64])
def test_the_group_size_that_is_proposed_passes_and_none_that_passes_is_nearer(
    good: dict[str, Any], ranks: int
) -> None:
    settings = {**good, "trainer.n_gpus_per_node": ranks, f"{ACTOR}.use_dynamic_bsz": True}
    (proposed,) = map(int, re.findall(r"rollout\.n could be (\d+)", refusal(settings)))
    assert check({**settings, f"{ROLLOUT}.n": proposed}) == []
    passing = [n for n in range(1, 200) if 4 * n % ranks == 0]
    assert abs(proposed - 8) == min(abs(n - 8) for n in passing)


@pytest.mark.parametrize(
    "changes",
    [
        {f"{ACTOR}.use_kl_loss": True, "trainer.device": "cuda"},
        {f"{ACTOR}.policy_loss.loss_mode": "geo_mean"},
        {f"{ACTOR}.use_dynamic_bsz": True, f"{ACTOR}.ppo_micro_batch_size_per_gpu": None},
        {f"{ROLLOUT}.tensor_model_parallel_size": 2, f"{ROLLOUT}.name": "vllm"},
        {f"{ACTOR}.fsdp_config.full_determinism": True},
        {f"{ACTOR}.fsdp_config.full_determinism": True, "trainer.device": "cuda", FLASH_CROSS_ENTROPY: "0"},
        {f"{ACTOR}.ppo_mini_batch_size": 16},
        {"trainer.n_gpus_per_node": 2, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 16},
        {"data.train_batch_size": 32},
    ],
    ids=lambda value: ",".join(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in value.items()),
)
def test_the_neighbour_of_a_refused_setting_passes(good: dict[str, Any], changes: dict[str, Any]) -> None:
    assert check({**good, **changes}) == []


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (("config.json",), ("config.json", "not a transformers model folder")),
        (("model.safetensors",), ("weights", "safetensors", "hf download")),
        (("tokenizer.json",), ("tokenizer", "hf download")),
    ],
    ids=lambda value: value[0],
)
def test_a_model_folder_must_be_whole(
    good: dict[str, Any], tmp_path: Path, without: tuple[str, ...], words: tuple[str, ...]
) -> None:
    folder = write_model(tmp_path / "broken", without)
    message = refusal({**good, MODEL: folder})
    assert [word for word in (folder, *words) if word not in message] == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model-00001.safetensors"])
def test_other_names_of_weights_and_tokenizer_files_are_known(good: dict[str, Any], tmp_path: Path, name: str) -> None:
    folder = Path(write_model(tmp_path / "other", without=("model.safetensors", "tokenizer.json")))
    (folder / name).touch()
    (folder / "tokenizer_config.json").touch()
    assert check({**good, MODEL: str(folder)}) == []


def test_a_model_that_is_not_there_names_the_way_to_get_it(good: dict[str, Any]) -> None:
    message = refusal({**good, MODEL: "org/model"})
    assert "actor_rollout_ref.model.path=org/model: no such folder" in message
    assert "hf download org/model" in message


@pytest.mark.parametrize(("shape", "fits"), [((64, 4), False), ((64, 2), True), ((576, 9), True)])
def test_heads_that_vllm_on_a_cpu_does_not_know(good: dict[str, Any], shape: tuple[int, int], fits: bool) -> None:
    config = Path(good[MODEL]) / "config.json"
    hidden, heads = shape
    config.write_text(json.dumps({"hidden_size": hidden, "num_attention_heads": heads}))
    flat = {**good, f"{ROLLOUT}.name": "vllm"}
    if fits:
        files.heads(flat)
        return
    with pytest.raises(ConfigError, match=r"vllm on a CPU needs heads of 32, .* have 16; use policy=tiny_vllm"):
        files.heads(flat)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_is_not_fused_with_fsdp2(good: dict[str, Any], tied: bool) -> None:
    (Path(good[MODEL]) / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    flat = {**good, "actor_rollout_ref.model.use_fused_kernels": True, f"{ACTOR}.strategy": "fsdp2"}
    if tied:
        files.fused_head(flat)
        return
    with pytest.raises(ConfigError, match=r"use_fused_kernels=true with fsdp2 .* set .*use_fused_kernels=false"):
        files.fused_head(flat)


@pytest.mark.parametrize("key", ["data.train_files", "data.val_files"])
class TestDataFiles:
    def test_a_missing_file(self, good: dict[str, Any], tmp_path: Path, key: str) -> None:
        message = refusal({**good, key: str(tmp_path / "no.parquet")})
        assert f"{key}={tmp_path / 'no.parquet'}: no such file" in message
        assert "task=" in message

    def test_a_file_that_is_no_parquet(self, good: dict[str, Any], tmp_path: Path, key: str) -> None:
        (tmp_path / "text.parquet").write_text("hello, this is no parquet file")
        assert f"{key}={tmp_path / 'text.parquet'}: not a readable parquet" in refusal(
            {**good, key: str(tmp_path / "text.parquet")}
        )

    @pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model", "extra_info"])
    def test_a_missing_column(self, good: dict[str, Any], tmp_path: Path, key: str, column: str) -> None:
        path = write_data(tmp_path / "less.parquet", list(range(40)), **{column: None})
        message = refusal({**good, key: path})
        assert f"{path} lacks the columns {column}; it has " in message

    @pytest.mark.parametrize(
        "indices", [[*range(39), 0], ["a", *map(str, range(39))], [None, *range(39)]], ids=["twice", "text", "none"]
    )
    def test_an_index_that_is_not_a_unique_integer(
        self, good: dict[str, Any], tmp_path: Path, key: str, indices: list[Any]
    ) -> None:
        path = write_data(tmp_path / "bad.parquet", indices)
        message = refusal({**good, key: path})
        assert f"{key}: extra_info.index must be an integer that is unique" in message
        assert path in message

    @pytest.mark.parametrize("extra", [None, "text", {"split": "train"}], ids=["null", "text", "other_keys"])
    def test_extra_info_without_an_index(self, good: dict[str, Any], tmp_path: Path, key: str, extra: Any) -> None:
        path = write_data(tmp_path / "bad.parquet", list(range(40)), extra_info=[extra] * 40)
        assert "extra_info.index must be an integer" in refusal({**good, key: path})

    def test_an_index_that_is_unique_within_files_but_not_over_them(
        self, good: dict[str, Any], tmp_path: Path, key: str
    ) -> None:
        files = [write_data(tmp_path / f"{i}.parquet", list(range(20))) for i in (1, 2)]
        assert "unique" in refusal({**good, key: files})

    def test_several_files_are_one_data_set(self, good: dict[str, Any], tmp_path: Path, key: str) -> None:
        files = [write_data(tmp_path / f"{i}.parquet", list(range(10 * i, 10 * i + 10))) for i in range(500, 504)]
        assert check({**good, key: files}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {f"{ACTOR}.clip_ratio_high": 0.28, f"{ACTOR}.clip_ratio_low": 0.2},
            ("gspo", "sequences", "2e-3/2.5e-3", "3e-4/4e-4", "0.28"),
        ),
        (
            {"harness.clip": "shared", "harness.importance_sampling_level": "token"},
            ("clip=shared", "token-level", "0.004"),
        ),
        ({"trainer.save_freq": -1}, ("trainer.save_freq", "step 1")),
        ({"trainer.save_freq": 0}, ("trainer.save_freq",)),
    ],
    ids=["token_range_for_sequences", "shared_range_for_tokens", "no_checkpoints", "no_checkpoints_either"],
)
def test_a_doubtful_setting_is_one_warning(
    good: dict[str, Any], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    (warning,) = check({**good, **changes})
    assert [word for word in words if word not in warning] == []
    assert "\n" not in warning


@pytest.mark.parametrize(
    "changes",
    [
        {"harness.clip": "shared"},
        {"harness.importance_sampling_level": "token", f"{ACTOR}.clip_ratio_high": 0.28},
        {"trainer.save_freq": 1},
    ],
    ids=["shared_range_for_sequences", "token_range_for_tokens", "checkpoints"],
)
def test_what_is_usual_is_not_warned_about(good: dict[str, Any], changes: dict[str, Any]) -> None:
    assert check({**good, **changes}) == []


def test_a_clip_range_left_to_clip_ratio_is_checked_too(good: dict[str, Any]) -> None:
    unset = {f"{ACTOR}.clip_ratio_low": None, f"{ACTOR}.clip_ratio_high": None, f"{ACTOR}.clip_ratio": 0.2}
    (warning,) = check({**good, **unset})
    assert "0.2" in warning


def test_a_folder_too_long_for_rays_sockets(flat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 24)
    with pytest.raises(ConfigError, match=r"^RAY_TMPDIR=/tmp/x+: 29 characters .* at most 28: export RAY_TMPDIR=/tmp$"):
        rules.settings(flat())
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 23)
    rules.settings(flat())
