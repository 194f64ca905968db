"""One rank of the engine check (``harness.doctor.engine``): verl's own training worker on four short responses.

    torchrun --nproc-per-node 2 -m harness.plugin.engine_rank FOLDER

The optimizer is plain gradient descent at rate 1, so one update moves the weights by minus the gradient, whatever
engine holds them and however it shards them. What moved is compared with the gradient that one process computes by
hand: each response alone, in float32, without verl.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import ActorConfig, HFModelConfig, TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

from harness.plugin.probe import policy_loss

LENGTHS = (3, 12, 5, 8)  # tokens of the responses
PROMPTS = (4, 2, 3, 4)
ADVANTAGES = (1.0, -0.5, 0.75, -1.25)
SMALLEST_TOKEN = 3  # padding, begin and end come before it


def synthetic(vocabulary: int) -> dict[str, Tensor]:
    """The batch, padded as verl pads: prompts on the left, responses on the right. Tensors of (responses, tokens)."""
    generator = torch.Generator().manual_seed(0)
    prompt, response = max(PROMPTS), max(LENGTHS)
    shape = (len(LENGTHS), prompt + response)
    ids = torch.randint(SMALLEST_TOKEN, vocabulary, shape, generator=generator)
    place = torch.arange(prompt + response)
    first = torch.tensor([[prompt - length] for length in PROMPTS])
    last = torch.tensor([[prompt + length] for length in LENGTHS])
    attended = (place >= first) & (place < last)
    ids = ids.masked_fill(~attended, 0)
    mask = attended[:, prompt:]
    return {
        "prompts": ids[:, :prompt],
        "responses": ids[:, prompt:],
        "input_ids": ids,
        "attention_mask": attended.long(),
        "position_ids": (attended.cumsum(-1) - 1).clamp(min=0),
        "response_mask": mask.long(),
        "advantages": torch.tensor(ADVANTAGES)[:, None] * mask,
    }


def log_probs(model: PreTrainedModel, batch: dict[str, Tensor], temperature: float) -> Tensor:
    """Log-probabilities of the responses' tokens, (responses, tokens), each response alone and without padding."""
    rows = torch.zeros(batch["responses"].shape)
    for row, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        logits = model(input_ids=ids[None]).logits[0, prompt - 1 : -1] / temperature
        taken = logits.log_softmax(-1).gather(-1, ids[prompt:, None]).squeeze(-1)
        rows = rows.index_put((torch.tensor(row), torch.arange(length)), taken)
    return rows


def by_hand(
    model: PreTrainedModel, config: ActorConfig, batch: dict[str, Tensor], temperature: float
) -> dict[str, Any]:
    """The right answer: ``gradient`` of the loss by all parameters (in the order of ``names``), ``responses``, for each
    the gradient of its summed log-probability, ``weights``, what each weighs at advantage 1, and ``old_log_probs``."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    log_prob = log_probs(model, batch, temperature)
    loss = policy_loss(config, log_prob, batch["advantages"], batch["response_mask"].bool())
    (weights,) = torch.autograd.grad(loss, log_prob, retain_graph=True)
    whole = torch.autograd.grad(loss, parameters, retain_graph=True)
    each = [torch.autograd.grad(row.sum(), parameters, retain_graph=True) for row in log_prob]
    return {
        "names": names,
        "gradient": torch.cat([g.flatten() for g in whole]).double(),
        "responses": torch.stack([torch.cat([g.flatten() for g in one]) for one in each]).double(),
        "weights": at_advantage_1(weights.sum(-1)),
        "old_log_probs": log_prob.detach(),
    }


def at_advantage_1(derivatives: Tensor) -> list[float]:
    """Weights of the responses from the sums of dL/dlogp over their tokens: the loss falls with advantage."""
    return (derivatives / -torch.tensor(ADVANTAGES)).tolist()


def parameters_of(worker: TrainingWorker, names: tuple[str, ...]) -> Tensor:
    """All weights of the engine's model in one vector, in the order of ``names``, on the CPU."""
    parts = {name: value.detach().cpu().double() for name, value in worker.engine.get_per_tensor_param()[0]}
    return torch.cat([parts[name].flatten() for name in names])


def training_worker(config: DictConfig) -> tuple[TrainingWorker, ActorConfig]:
    """The worker as ``verl.workers.engine_workers.ActorRolloutRefWorker`` builds its actor."""
    model: HFModelConfig = omega_conf_to_dataclass(config.model)
    actor: ActorConfig = omega_conf_to_dataclass(config.actor)
    actor.model_config = model
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=model,
            engine_config=actor.engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.set_loss_fn(partial(ppo_loss, config=actor))
    return worker, actor


def update(worker: TrainingWorker, batch: dict[str, Tensor], case: dict[str, Any], temperature: float) -> None:
    """One update of the worker's model by this rank's share of the batch, cut into micro-batches as ``case`` says."""
    rank, ranks = worker.engine.get_data_parallel_rank(), worker.engine.get_data_parallel_size()
    share: dict[str, Any] = {name: tensor[rank::ranks].contiguous() for name, tensor in batch.items()}
    data = left_right_2_no_padding(tu.get_tensordict(share, {"temperature": temperature}))
    tu.assign_non_tensor(
        data,
        global_batch_size=len(LENGTHS),
        calculate_entropy=False,
        compute_loss=True,
        global_token_num=NonTensorData([p + r for p, r in zip(PROMPTS, LENGTHS, strict=True)]),
        use_dynamic_bsz="tokens" in case,
        max_token_len_per_gpu=case.get("tokens"),
        micro_batch_size_per_gpu=case.get("responses"),
    )
    device = next(iter(worker.engine.get_per_tensor_param()[0]))[1].device
    worker.train_batch(data.to(device))


def small_model(folder: Path, shape: dict[str, Any]) -> None:
    """Write a model of ``shape`` with random weights, large enough that no gradient is lost in rounding."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**shape)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)


def measure(config: DictConfig, folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each case ``weights``, of each response in the engine's gradient, the same ``by_hand``, and ``error``, the
    distance of the two gradients in parts of the right one's length."""
    temperature = float(config.rollout.temperature)
    worker, actor = training_worker(config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    batch = synthetic(model.config.vocab_size)
    right = by_hand(model, actor, batch, temperature)
    batch["old_log_probs"] = right["old_log_probs"]
    measured = []
    for case in cases:
        worker.reset()
        before = parameters_of(worker, right["names"])
        update(worker, batch, case, temperature)
        moved = before - parameters_of(worker, right["names"])
        responses = right["responses"]
        found = torch.linalg.solve(responses @ responses.T, responses @ moved)
        weights = at_advantage_1(found * torch.tensor(LENGTHS))
        error = (moved - right["gradient"]).norm() / right["gradient"].norm()
        measured.append({**case, "weights": weights, "by_hand": right["weights"], "error": error.item()})
    return measured


def main(folder: Path) -> None:
    """Measure what ``folder/check.json`` asks for; rank 0 writes ``folder/measured.json``."""
    asked = json.loads((folder / "check.json").read_text())
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    cpu = os.environ.get("VERL_PLATFORM") == "cpu"
    if not cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl")
    rank = torch.distributed.get_rank()
    if rank == 0:
        small_model(folder / "model", asked["shape"])
    torch.distributed.barrier()
    measured = measure(config, folder / "model", asked["cases"])
    if rank == 0:
        (folder / "measured.json").write_text(json.dumps(measured))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
