"""The paper's experiments: their values, their reasons, and that verl and the harness accept every one of them."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError, flatten
from harness.config.matching import SEED, arm_name, classify, is_execution
from harness.doctor.rules import check
from harness.paper_settings import AS_IN_VERL, NOTHING, PRESETS, STATEMENTS, Row, choices, load_settings, main, markdown
from harness.paper_settings import table as full_table
from harness.paths import CONF
from harness.verl_examples import load_examples

ALGOS = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
PAPER = [name for name in PRESETS if name != "text_dense_1gpu"]
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MEGATRON = f"{ACTOR}.megatron"
TREATED = ("harness", "algorithm", ACTOR, "critic")  # where an algorithm's keys are, and what follows them
Flat = dict[str, Any]

# The paper's section 5, written down again.
COMMON = {
    "data.train_batch_size": 128,
    f"{ROLLOUT}.n": 8,
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.top_p": 0.7,
    f"{ACTOR}.ppo_mini_batch_size": 16,
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.lr_warmup_steps": 20,
    f"{ACTOR}.use_kl_loss": False,
    "algorithm.use_kl_in_reward": False,
}
TEXT = {
    "data.train_files": "asset:dapo_math_17k/train.parquet",
    "data.val_files": "asset:aime24/test.parquet",
    "data.max_response_length": 32768,
    "reward.reward_kwargs.overlong.buffer": 4096,
    f"{ROLLOUT}.val_kwargs.n": 32,
    "trainer.test_freq": 10,
}
IMAGES = {
    "data.max_response_length": 4096,
    "reward.reward_kwargs.overlong.buffer": 512,
    "reward.reward_kwargs.parts": ["accuracy", "format", "overlong"],
}
STATED = {
    "text_dense": COMMON | TEXT | {"trainer.nnodes": 1},
    "text_moe": COMMON | TEXT | {"trainer.nnodes": 4},
    "multimodal": COMMON | IMAGES | {"data.train_files": "asset:virl39k/train.parquet", "trainer.nnodes": 1},
    "multimodal_mix": COMMON | IMAGES | {"data.train_files": "asset:virl39k_dapo/train.parquet", "trainer.nnodes": 1},
}


@cache
def algorithm(name: str) -> DictConfig:
    """A file of conf/algo with those that it starts from."""
    content = OmegaConf.load(CONF / "algo" / f"{name}.yaml")
    assert isinstance(content, DictConfig)
    for base in content.pop("defaults", []):
        if base != "_self_":
            content = OmegaConf.merge(algorithm(base), content)
    assert isinstance(content, DictConfig)
    return content


@pytest.fixture(scope="session")
def preset(composed: Callable[..., Any]) -> Callable[[str, str], DictConfig]:
    """``preset(name, algo)``. One composition for a preset: an algorithm's file is merged onto it, as Hydra does."""

    @cache
    def build(name: str, algo: str) -> DictConfig:
        config = copy.deepcopy(composed(f"experiment={name}"))
        OmegaConf.set_struct(config, False)
        config.merge_with(algorithm(algo))
        return config

    return build


@pytest.fixture(scope="session")
def flat_preset(preset: Callable[[str, str], DictConfig], flat: Callable[..., Flat]) -> Callable[[str, str], Flat]:
    """``flat_preset(name, algo)``; only what an algorithm can change is resolved anew."""

    @cache
    def build(name: str, algo: str) -> Flat:
        whole = flat(f"experiment={name}")
        for part in TREATED:
            old = [key for key in whole if key.startswith(f"{part}.")]
            for key in old:
                del whole[key]
            content = OmegaConf.to_container(OmegaConf.select(preset(name, algo), part), resolve=True)
            whole.update(flatten(content, f"{part}."))
        return whole

    return lambda name, algo: dict(build(name, algo))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Flat:
    """Paths of a model folder and data files of the right layout, with 128 prompts."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "model").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / "model" / name).write_text("{}")
    rows = range(128)
    pd.DataFrame(
        {
            "data_source": "x",
            "prompt": [[{"role": "user", "content": "1 + 1 ="}] for _ in rows],
            "reward_model": [{"ground_truth": "2"} for _ in rows],
            "extra_info": [{"index": i} for i in rows],
        }
    ).to_parquet(folder / "data.parquet")
    data = str(folder / "data.parquet")
    return {
        "actor_rollout_ref.model.path": str(folder / "model"),
        "data.train_files": data,
        "data.val_files": data,
    }


@pytest.mark.parametrize(
    ("name", "algo"), list(zip(PRESETS, ("luspo_norm", "fspo", "dr_grpo", "sapo", "gmpo"), strict=True))
)
def test_merging_an_algorithm_is_what_hydra_does(
    flat: Callable[..., Flat], flat_preset: Callable[[str, str], Flat], name: str, algo: str
) -> None:
    assert flat_preset(name, algo) == flat(f"experiment={name}", f"algo={algo}")


@pytest.mark.parametrize("name", PAPER)
def test_what_the_paper_states_is_what_is_set(flat: Callable[..., Flat], name: str) -> None:
    config = flat(f"experiment={name}")
    assert {key: config[key] for key in STATED[name]} == STATED[name]
    assert config["trainer.n_gpus_per_node"] == 8
    assert config["reward.reward_kwargs.overlong.limit"] == config["data.max_response_length"]


@pytest.mark.parametrize("name", PRESETS)
def test_one_range_for_the_losses_by_sequence_and_no_clip_in_an_arms_name(
    flat_preset: Callable[[str, str], Flat], name: str
) -> None:
    ranges = {}
    for algo in ("grpo", "gspo", "luspo"):
        config = flat_preset(name, algo)
        ranges[algo] = (config[f"{ACTOR}.clip_ratio_low"], config[f"{ACTOR}.clip_ratio_high"])
        assert arm_name(config, [f"algo={algo}", f"experiment={name}"]) == algo
    assert ranges == {"grpo": (0.2, 0.28), "gspo": (2e-3, 2.5e-3), "luspo": (2e-3, 2.5e-3)}


@pytest.mark.parametrize(
    ("sweep", "algo", "expected"), [("own", "gspo", (3e-4, 4e-4)), ("shared", "grpo", (2e-3, 2.5e-3))]
)
def test_a_named_sweep_changes_the_range_and_makes_arms_of_its_own(
    flat: Callable[..., Flat], sweep: str, algo: str, expected: tuple[float, float]
) -> None:
    config = flat("experiment=text_dense", f"sweep={sweep}", f"algo={algo}")
    assert (config[f"{ACTOR}.clip_ratio_low"], config[f"{ACTOR}.clip_ratio_high"]) == expected
    assert arm_name(config, [f"algo={algo}", f"sweep={sweep}"]) == f"{algo},clip={sweep}"
    content = OmegaConf.load(CONF / "sweep" / f"{sweep}.yaml")
    assert set(content.hydra.sweeper.params.algo.split(",")) == {"grpo", "gspo", "luspo"}


def test_the_learning_rate_is_0_at_step_1_and_full_from_step_21(flat: Callable[..., Flat]) -> None:
    """By the scheduler that verl's FSDP engine builds from these keys; it moves on after each rollout step."""
    from verl.utils.torch_functional import get_constant_schedule_with_warmup

    config = flat("experiment=text_dense")
    assert config[f"{ACTOR}.optim.lr_scheduler_type"] == "constant"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=config[f"{ACTOR}.optim.lr"])
    schedule = get_constant_schedule_with_warmup(optimizer, config[f"{ACTOR}.optim.lr_warmup_steps"])
    rates = []
    for _ in range(30):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0
    assert rates[10] == pytest.approx(5e-7)
    assert rates[19] < 1e-6
    assert rates[20:] == [pytest.approx(1e-6)] * 10


class TestAccepted:
    @pytest.mark.parametrize("algo", ALGOS)
    @pytest.mark.parametrize("name", PRESETS)
    @pytest.mark.filterwarnings("ignore:Disabled critic")
    def test_by_verl(self, preset: Callable[[str, str], DictConfig], name: str, algo: str) -> None:
        from verl.trainer.ppo.utils import need_critic, need_reference_policy
        from verl.utils.config import omega_conf_to_dataclass, validate_config
        from verl.workers.config import FSDPActorConfig, McoreActorConfig, RolloutConfig

        config = preset(name, algo)
        assert not need_reference_policy(config)
        assert not need_critic(config)
        validate_config(config, use_reference_policy=False, use_critic=False)
        actor: Any = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        rollout: Any = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        assert type(actor) is (McoreActorConfig if name == "text_moe" else FSDPActorConfig)
        assert actor.engine.strategy == actor.strategy == ("megatron" if name == "text_moe" else "fsdp2")
        assert isinstance(rollout, RolloutConfig)
        assert actor.policy_loss.loss_mode == algorithm(algo).actor_rollout_ref.actor.policy_loss.loss_mode

    @pytest.mark.parametrize("algo", ALGOS)
    @pytest.mark.parametrize("name", PRESETS)
    def test_by_our_checks(self, flat_preset: Callable[[str, str], Flat], local: Flat, name: str, algo: str) -> None:
        config = {**flat_preset(name, algo), **local}
        if (
            algo == "gmpo"
        ):  # needs a rank's whole update in one micro-batch, which responses of this length do not allow
            with pytest.raises(ConfigError, match=r"geo_mean.*use_dynamic_bsz"):
                check(config)
        else:
            assert check(config) == []

    @pytest.mark.filterwarnings("ignore:.*(engine is not available|processor)")
    @pytest.mark.parametrize("name", PRESETS)
    def test_the_models_dataclass_is_built_from_a_folder(
        self, preset: Callable[[str, str], DictConfig], tmp_path: Path, name: str
    ) -> None:
        from transformers import AutoConfig
        from verl.utils.config import omega_conf_to_dataclass
        from verl.workers.config import HFModelConfig

        from harness.tasks.tiny.base_model import make_tokenizer
        from harness.tasks.tiny.task import recipe

        config = copy.deepcopy(preset(name, "grpo"))
        shape: Any = OmegaConf.to_container(config.harness.shape)
        architecture = {"qwen2": "Qwen2ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}.get(shape["model_type"], "VL")
        AutoConfig.for_model(**shape, architectures=[architecture]).save_pretrained(tmp_path)
        make_tokenizer(recipe("tiny", 0)).save_pretrained(tmp_path)
        config.actor_rollout_ref.model.path = str(tmp_path)
        model: Any = omega_conf_to_dataclass(config.actor_rollout_ref.model, HFModelConfig)
        text = model.hf_config.get_text_config()
        assert (text.hidden_size, text.num_hidden_layers) == (shape["hidden_size"], shape["num_hidden_layers"])
        assert model.enable_gradient_checkpointing
        assert model.use_remove_padding
        assert model.external_lib == "harness.plugin.external"


@pytest.mark.parametrize("name", PRESETS)
class TestSizes:
    def test_a_response_of_full_length_fits_everywhere(self, flat: Callable[..., Flat], name: str) -> None:
        config = flat(f"experiment={name}")
        longest = config["data.max_prompt_length"] + config["data.max_response_length"]
        megatron = config[f"{ACTOR}.strategy"] == "megatron"
        shared = config[f"{MEGATRON}.context_parallel_size" if megatron else f"{ACTOR}.ulysses_sequence_parallel_size"]
        assert shared == config["harness.sequence_parallel_size"]
        assert config[f"{ACTOR}.use_dynamic_bsz"]
        assert config[f"{ROLLOUT}.log_prob_use_dynamic_bsz"]
        assert longest <= config[f"{ACTOR}.ppo_max_token_len_per_gpu"] * shared
        assert longest <= config[f"{ROLLOUT}.log_prob_max_token_len_per_gpu"] * shared
        assert config[f"{ROLLOUT}.prompt_length"] + config[f"{ROLLOUT}.response_length"] == longest
        assert longest == config[f"{ROLLOUT}.max_model_len"] <= config["harness.shape.max_position_embeddings"]

    def test_every_split_is_even(self, flat: Callable[..., Flat], name: str) -> None:
        config = flat(f"experiment={name}")
        ranks = config["trainer.nnodes"] * config["trainer.n_gpus_per_node"]
        heads, kv_heads = (config[f"harness.shape.num_{kind}_heads"] for kind in ("attention", "key_value"))
        update = config[f"{ACTOR}.ppo_mini_batch_size"] * config[f"{ROLLOUT}.n"]
        shared, tensor = config["harness.sequence_parallel_size"], 1
        if config[f"{ACTOR}.strategy"] == "megatron":
            tensor = config[f"{MEGATRON}.tensor_model_parallel_size"]
            experts = config[f"{MEGATRON}.expert_model_parallel_size"]
            pipeline = config[f"{MEGATRON}.pipeline_model_parallel_size"]
            assert config["harness.shape.num_experts"] % experts == 0
            assert ranks % (experts * config[f"{MEGATRON}.expert_tensor_parallel_size"] * pipeline) == 0
            assert config["harness.shape.num_hidden_layers"] % pipeline == 0
            assert kv_heads % tensor == 0
            assert config[f"{ACTOR}.ppo_max_token_len_per_gpu"] % tensor == 0, "sequence parallel"
        else:
            assert heads % shared == 0, "Ulysses splits the heads"
        assert ranks % (tensor * shared) == 0
        assert update % (ranks // (tensor * shared)) == 0
        assert config["data.train_batch_size"] % config[f"{ACTOR}.ppo_mini_batch_size"] == 0
        engine = config[f"{ROLLOUT}.tensor_model_parallel_size"]
        assert config["trainer.n_gpus_per_node"] % engine == 0
        assert heads % engine == 0

    def test_responses_have_seeds_of_their_own_and_rollout_probabilities_are_kept(
        self, flat: Callable[..., Flat], name: str
    ) -> None:
        from verl.utils.import_utils import resolve_config_path

        config = flat(f"experiment={name}")
        path = resolve_config_path(config[f"{ROLLOUT}.agent.agent_loop_config_path"])
        listed: Any = OmegaConf.load(path)
        loops = {loop["name"]: loop["_target_"] for loop in listed}
        assert loops[config[f"{ROLLOUT}.agent.default_agent_loop"]].endswith("SeededAgentLoop")
        assert config[f"{ROLLOUT}.name"] == "vllm"
        assert config[f"{ROLLOUT}.calculate_log_probs"] is True


@pytest.mark.parametrize("name", PRESETS)
def test_algorithms_and_seeds_of_a_preset_are_matched(
    preset: Callable[[str, str], DictConfig], flat_preset: Callable[[str, str], Flat], name: str
) -> None:
    prints = {classify(flat_preset(name, algo), {}).fingerprint for algo in ALGOS}
    other = copy.deepcopy(preset(name, "luspo"))
    other.seed = 1
    prints.add(classify(flatten(other), {}).fingerprint)
    assert len(prints) == 1


class TestRoutingReplay:
    """R3: updates with the experts that the rollout chose. verl wants two keys for it, of which one is set here."""

    MODE = f"{MEGATRON}.router_replay.mode"
    KEPT = f"{ROLLOUT}.enable_rollout_routing_replay"

    def test_verl_accepts_the_sweep_and_its_arms_are_matched(
        self, composed: Callable[..., Any], flat: Callable[..., Flat], local: Flat
    ) -> None:
        from verl.utils.config import omega_conf_to_dataclass, validate_config

        words = ("experiment=text_moe", "sweep=routing_replay")
        config = composed(*words)
        validate_config(config, use_reference_policy=False, use_critic=False)
        actor: Any = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        rollout: Any = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        assert actor.engine.router_replay.mode == "R3"
        assert rollout.enable_rollout_routing_replay is True
        prints = set()
        for algo in OmegaConf.load(CONF / "sweep" / "routing_replay.yaml").hydra.sweeper.params.algo.split(","):
            whole = flat(*words, f"algo={algo}")
            assert check({**whole, **local}) == []
            assert arm_name(whole, [*words, f"algo={algo}"]) == algo
            prints.add(classify(whole, {}).fingerprint)
        assert len(prints) == 1
        assert prints != {classify(flat("experiment=text_moe"), {}).fingerprint}

    @pytest.mark.parametrize(("mode", "kept"), [("disabled", False), ("R2", False), ("R3", True)])
    def test_one_override_makes_an_arm_of_it(self, flat: Callable[..., Flat], mode: str, kept: bool) -> None:
        words = ["experiment=text_moe", f"{self.MODE}={mode}"]
        config = flat(*words)
        assert (config[self.MODE], config[self.KEPT]) == (mode, kept)
        assert arm_name(config, words) == f"grpo,actor.megatron.router_replay.mode={mode}"

    def test_without_megatron_it_is_refused(self, flat: Callable[..., Flat]) -> None:
        with pytest.raises(ConfigError, match=r"router_replay.mode=R3: .*strategy is fsdp2"):
            check(flat("experiment=text_dense", "sweep=routing_replay"))


def test_no_key_of_fsdp_is_in_the_megatron_preset(flat: Callable[..., Flat]) -> None:
    moe, dense = flat("experiment=text_moe"), flat("experiment=text_dense")
    assert [key for key in moe if "fsdp_config" in key or "ulysses" in key] == []
    assert {key: value for key, value in moe.items() if value in ("fsdp", "fsdp2")} == {}
    assert not [key for key in dense if key.startswith(MEGATRON)]


def lines_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The keys that a file of conf sets, unresolved, and its parents' of the same group."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            yield from lines_of(path.parent / f"{base.removeprefix('/')}.yaml")
    yield from flatten({key: value for key, value in content.items() if key != "hydra"}).items()


def table(config: DictConfig, name: str = "text_dense", **values: Any) -> list[Row]:
    """The preset's table; ``values`` overrule those of verl's example, a point in a key being two underscores."""
    example = load_examples()[name]
    example = replace(example, values={**example.values, **{k.replace("__", "."): v for k, v in values.items()}})
    return full_table(config, load_settings(), example)


@pytest.fixture(scope="session")
def beside_verl(composed: Callable[..., Any]) -> Callable[[str], DictConfig]:
    """``beside_verl(name)``: the preset with the algorithm of verl's example. Read only."""
    return lambda name: composed(f"experiment={name}", f"algo={load_examples()[name].algo}")


FILES = {
    "text_dense": ("gpu_fsdp", "qwen25_7b", "dapo_math_17k"),
    "text_moe": ("gpu_megatron", "qwen3_30b_a3b", "dapo_math_17k"),
    "multimodal": ("gpu_fsdp", "qwen25_vl_7b", "virl39k"),
    "multimodal_mix": ("gpu_fsdp", "qwen25_vl_7b", "virl39k_dapo"),
    "text_dense_1gpu": ("gpu_1", "qwen25_15b", "dapo_math_17k"),
}


class TestTable:
    @pytest.mark.parametrize("name", PRESETS)
    def test_every_value_that_a_preset_sets_and_that_can_change_what_is_learnt_is_in_it(
        self, beside_verl: Callable[[str], DictConfig], flat: Callable[..., Flat], name: str
    ) -> None:
        """Set by interpolation: follows another value. Of the reference model and the critic: neither is built."""
        config, whole = beside_verl(name), flat(f"experiment={name}")
        shown = [row.key for row in table(config, name)]
        files = [CONF / "experiment" / f"{name}.yaml"]
        files += [
            CONF / group / f"{file}.yaml"
            for group, file in zip(("cluster", "policy", "task"), FILES[name], strict=True)
        ]
        unexplained = [
            key
            for file in files
            for key, value in lines_of(file)
            if not is_execution(key, whole)
            and key not in SEED
            and not key.startswith(("actor_rollout_ref.ref.", "critic."))
            and not (isinstance(value, str) and value.startswith("${"))
            and not any(key == one or key.startswith(f"{one}.") for one in shown)
        ]
        assert unexplained == []

    @pytest.mark.parametrize("name", PRESETS)
    def test_each_key_is_there_once_and_has_a_reason(self, beside_verl: Callable[[str], DictConfig], name: str) -> None:
        rows = table(beside_verl(name), name)
        keys = [row.key for row in rows]
        assert len(keys) == len(set(keys))
        assert all(row.why and row.ours and row.paper and row.verl for row in rows)

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_setting_of_verls_example_is_in_it_and_no_difference_is_without_a_reason(
        self, beside_verl: Callable[[str], DictConfig], flat: Callable[..., Flat], name: str
    ) -> None:
        example = load_examples()[name]
        whole = flat(f"experiment={name}", f"algo={example.algo}")
        rows = {row.key: row for row in table(beside_verl(name), name)}
        for key, value in example.values.items():
            assert rows[key].verl != NOTHING
            assert (key in whole) != (key in example.absent)
            if key in example.absent:
                assert (rows[key].ours, rows[key].why) == (NOTHING, example.absent[key])
            elif whole[key] != value:
                assert rows[key].why != AS_IN_VERL
            elif rows[key].paper == NOTHING:
                assert rows[key].ours == rows[key].verl

    @pytest.mark.parametrize("name", PRESETS)
    def test_its_values_are_those_of_the_run(
        self, beside_verl: Callable[[str], DictConfig], flat: Callable[..., Flat], name: str
    ) -> None:
        ours = {row.key: row.ours for row in table(beside_verl(name), name)}
        config = flat(f"experiment={name}")
        for key in (
            f"{ACTOR}.optim.lr",
            f"{ACTOR}.optim.weight_decay",
            "harness.mean_length",
            "data.max_prompt_length",
        ):
            assert float(ours[key]) == config[key]
        assert ours["trainer.total_training_steps"] == str(config["trainer.total_training_steps"])

    def test_everything_that_the_settings_state_has_a_statement_or_is_no_setting(self) -> None:
        settings = load_settings()
        stated = {key for key, value in settings["common"].items() if value is not None}
        stated |= {key for one in settings["settings"].values() for key in one}
        assert stated - {one.name for one in STATEMENTS} == {"trainer", "constancy", "note"}

    def test_steps_are_said_to_be_inferred(self, composed: Callable[..., Any]) -> None:
        steps = {}
        for name in PAPER:
            config = composed(f"experiment={name}")
            assert choices(config)["trainer.total_training_steps"].startswith("inferred")
            steps[name] = config.trainer.total_training_steps
        assert steps == {"text_dense": 140, "text_moe": 60, "multimodal": 700, "multimodal_mix": 700}

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            (f"{ACTOR}.optim.lr", 2e-6, "the paper has 1e-06"),
            ("data.max_response_length", 16384, "the paper has 32768"),
            (f"{ROLLOUT}.val_kwargs.n", 8, "avg@32"),
            ("harness.setting", "text", "no setting of the paper"),
        ],
    )
    def test_a_value_other_than_the_papers_without_a_reason_is_refused(
        self, beside_verl: Callable[[str], DictConfig], key: str, value: Any, words: str
    ) -> None:
        config = copy.deepcopy(beside_verl("text_dense"))
        OmegaConf.update(config, key, value)
        with pytest.raises(ConfigError, match=words):
            table(config)

    def test_a_value_other_than_verls_without_a_reason_is_refused(
        self, beside_verl: Callable[[str], DictConfig]
    ) -> None:
        with pytest.raises(ConfigError, match=r"data.truncation=error, verl's example has left, and harness.choices"):
            table(beside_verl("text_dense"), data__truncation="left")

    def test_a_setting_of_verls_that_is_neither_here_nor_marked_as_absent_is_refused(
        self, beside_verl: Callable[[str], DictConfig]
    ) -> None:
        with pytest.raises(ConfigError, match=r"data.gone: no such key in text_dense"):
            table(beside_verl("text_dense"), data__gone=1)

    def test_a_setting_that_is_marked_as_absent_and_is_here_is_refused(
        self, beside_verl: Callable[[str], DictConfig]
    ) -> None:
        example = replace(load_examples()["text_dense"], absent={"data.truncation": "renamed"})
        with pytest.raises(ConfigError, match=r"data.truncation: .* absent, and text_dense has it"):
            full_table(beside_verl("text_dense"), load_settings(), example)

    def test_the_reason_of_a_block_holds_for_its_keys(self, beside_verl: Callable[[str], DictConfig]) -> None:
        rows = {row.key: row.why for row in table(beside_verl("text_dense"))}
        reason = rows["actor_rollout_ref.ref.fsdp_config.param_offload"]
        assert reason == choices(beside_verl("text_dense"))["actor_rollout_ref.ref"]
        assert "actor_rollout_ref.ref" not in rows, "the block has no line of its own"
        assert rows["reward.reward_kwargs.pool"], "one whose keys are not in the table has"

    def test_with_a_reason_it_is_shown(self, beside_verl: Callable[[str], DictConfig]) -> None:
        config = copy.deepcopy(beside_verl("text_dense"))
        config.actor_rollout_ref.actor.optim.lr = 2e-6
        config.harness.choices = {**config.harness.choices, f"{ACTOR}.optim.lr": "faster | riskier"}
        rows = table(config)
        (row,) = (row for row in rows if row.key == f"{ACTOR}.optim.lr")
        assert (row.paper, row.verl, row.ours, row.why) == ("1e-06", "1e-06", "2e-06", "faster | riskier")
        assert f"| `{ACTOR}.optim.lr` | 1e-06 | 1e-06 | 2e-06 | faster \\| riskier |" in markdown(rows).splitlines()

    @pytest.mark.parametrize(
        ("key", "reason", "words"),
        [
            (f"{ACTOR}.optim.clip_grad", None, "the paper states no grad_clip"),
            (f"{ACTOR}.optim.nothing", "because", "no such key"),
        ],
        ids=["missing", "stale"],
    )
    def test_a_missing_and_a_stale_reason_are_refused(
        self, beside_verl: Callable[[str], DictConfig], key: str, reason: str | None, words: str
    ) -> None:
        config = copy.deepcopy(beside_verl("text_dense"))
        config.harness.choices = {**config.harness.choices, key: reason}
        with pytest.raises(ConfigError, match=words):
            table(config)

    def test_on_the_command_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["text_moe"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("## text_moe\n\nverl's example: [examples/gspo_trainer/run_qwen3_30b_a3b_megatron.sh](")
        assert "\n\n| key | paper | verl's example | ours | why |\n|---|---|---|---|---|\n" in out
        assert "| `trainer.nnodes` | 32 GPUs | 1 | 4 | as stated |" in out

    def test_an_unknown_name_ends_in_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["nope"]) == 2
        assert capsys.readouterr().err.startswith("error: experiment=nope: no preset; these are: text_dense, text_moe")
