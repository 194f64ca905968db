"""Who asks the rollout for responses, in which order, and with which seed.

``BatchAgentLoopManager`` serves the transformers rollout: a whole batch in one call from the trainer's own process,
where verl's stock manager spends some ten milliseconds of Ray and Python on each response. ``SeededAgentLoop`` serves
vLLM and the others through verl's stock manager. ``OrderedReplayBuffer`` returns either's in the loader's order.
"""

from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import NonTensorData, TensorDict
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.reward import load_reward_manager
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.config import HFModelConfig

from harness.plugin.prompts import Prompt, Reader
from harness.plugin.rollout import server_name
from harness.plugin.sampling import Sampled, response_seed

POLL_SECONDS = 0.05  # verl's buffer looks every 2 s, which is a whole step of a tiny model
# What verl's trainer and the recorder read of a prompt's columns. Each further one would be a Python object for every
# response that is stored, sent to the workers and copied there with every micro-batch.
TRAINED, VALIDATED, DUMPED = ("uid",), ("uid", "data_source", "reward_model"), ("reward_model",)


class BatchAgentLoopManager:
    """verl's agent loop manager (``rollout.agent.agent_loop_manager_class``) for ``rollout.name=transformers``."""

    def __init__(self, config: DictConfig):
        model: HFModelConfig = omega_conf_to_dataclass(config.actor_rollout_ref.model)
        self.rollout = config.actor_rollout_ref.rollout
        self.trained = TRAINED + (DUMPED if config.trainer.get("rollout_data_dir") else ())
        self.bypass = config.algorithm.rollout_correction.get("bypass_mode", False)
        self.reward_manager: Any = load_reward_manager(config, model.tokenizer)
        self.reader = Reader(
            model.tokenizer, model.processor, getattr(model.hf_config, "model_type", None), config.data
        )
        replicas = config.trainer.nnodes * config.trainer.n_gpus_per_node
        self.servers: list[Any] = [ray.get_actor(server_name(rank)) for rank in range(replicas)]

    @classmethod
    def create(cls, config: DictConfig, **_: Any) -> "BatchAgentLoopManager":
        """verl's constructor; the servers are found by name, the reward is computed in this process."""
        return cls(config)

    def generate_sequences(self, batch: TensorDict) -> None:
        """Sample, grade and queue ``n`` responses to each prompt; returns when all are in the TransferQueue.

        An error is raised here, in the trainer's own stack, with its own message.
        """
        validate = bool(tu.pop(batch, key="validate", default=False))
        params, n = self._sampling(validate)
        step = int(batch["global_steps"])
        prompts = [_row(batch, i) for i in range(len(batch))]
        for prompt in prompts:
            prompt["read"] = self._read(prompt)
        requests = [(prompt, sample) for prompt in prompts for sample in range(n)]
        seeds = [response_seed(self.rollout.seed, step, int(p["index"]), sample) for p, sample in requests]
        # Contiguous shares, one a replica: a group's responses are sampled together.
        shares = [share for share in np.array_split(np.arange(len(requests)), len(self.servers)) if len(share)]
        answers = ray.get(
            [
                server.sample_batch.remote(
                    [requests[i][0]["read"].ids for i in share],
                    [seeds[i] for i in share],
                    params,
                    [requests[i][0]["read"].pictures for i in share],
                )
                for server, share in zip(self.servers, shares, strict=False)
            ]
        )
        responses = [answer for part in answers for answer in part]
        scores = self.reward_manager.score_many(
            (response.tokens, prompt["reward_model"]["ground_truth"])
            for (prompt, _), response in zip(requests, responses, strict=True)
        )
        kept = VALIDATED if validate else self.trained
        rows = [
            {name: prompt[name] for name in kept if name in prompt}
            | self._fields(prompt, sample, response, score, step)
            for (prompt, sample), response, score in zip(requests, responses, scores, strict=True)
        ]
        self._put(rows, partition="val" if validate else "train", step=step)

    def _sampling(self, validate: bool) -> tuple[dict[str, Any], int]:
        source = self.rollout.val_kwargs if validate else self.rollout
        params = {name: source[name] for name in ("temperature", "top_p", "top_k")}
        return params, int(source.n)

    def _read(self, prompt: dict[str, Any]) -> Prompt:
        read = self.reader.read(list(prompt["raw_prompt"]))
        if len(read.ids) > self.rollout.prompt_length:
            raise ValueError(
                f"prompt {prompt['index']} has {len(read.ids)} tokens, more than data.max_prompt_length="
                f"{self.rollout.prompt_length}; raise it or set data.filter_overlong_prompts=true"
            )
        return read

    def _fields(
        self, prompt: dict[str, Any], sample: int, response: Sampled, score: dict[str, Any], step: int
    ) -> dict[str, Any]:
        """One response with those fields of verl's ``AgentLoopWorkerTQ`` (trainer/ppo/v1/agent_loop_tq.py) that are
        read here, numbers as tensors, which travel as one array."""
        output = AgentLoopOutput(
            prompt_ids=prompt["read"].ids,
            response_ids=response.tokens,
            response_mask=[1] * len(response.tokens),
            response_logprobs=response.log_probs,
            routed_experts=response.experts,
            reward_score=score["reward_score"],
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields={
                "reward_extra_info": score["reward_extra_info"],
                "global_steps": step,
                # Weights are synchronised after each step: step s samples from version s - 1.
                "min_global_steps": step - 1,
                "max_global_steps": step - 1,
            },
        ).as_dict()
        del output["metrics"]  # timings of tool calls, of which there are none
        numbers = {"index": int(prompt["index"]), "session_id": sample, "num_turns": output["num_turns"]}
        output.update({name: torch.tensor(number) for name, number in numbers.items()})
        output["loss_mask"] = output["response_mask"]
        if self.bypass:  # else verl's trainer computes it, with the old log-probabilities
            output["entropy"] = torch.tensor(response.entropies)
        output["input_ids"] = torch.cat([output["prompts"], output["responses"]])
        output.update(prompt["read"].fields(len(response.tokens)))
        return output

    def _put(self, rows: list[dict[str, Any]], partition: str, step: int) -> None:
        keys = [f"{row['uid']}_{int(row['session_id'])}_0" for row in rows]
        tags = [
            {
                "status": "success",
                "prompt_len": len(row["prompts"]),
                "response_len": len(row["responses"]),
                "seq_len": len(row["input_ids"]),
                "global_steps": step,
                "min_global_steps": step - 1,
                "max_global_steps": step - 1,
            }
            for row in rows
        ]
        tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(rows), tags=tags, partition_id=partition)
        prompts = list(dict.fromkeys(row["uid"] for row in rows))
        tq.kv_batch_put(keys=prompts, tags=[{"status": "finished"}] * len(prompts), partition_id=partition)


class SeededAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn agent loop with a seed of its own for each response, for engines that accept one (vLLM)."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        seed = response_seed(
            self.rollout_config.seed, int(kwargs["global_steps"]), int(kwargs["index"]), int(kwargs["session_id"])
        )
        inherited: Any = super()
        return await inherited.run({**sampling_params, "seed": seed}, **kwargs)


class OrderedReplayBuffer(ReplayBuffer):
    """verl's replay buffer, polled often and returned in the loader's order, so mini-batches do not depend on arrival.

    Not sorted by the data's index, which would undo shuffling: prompts are queued in the loader's order.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"poll_interval": POLL_SECONDS, **kwargs})

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        queued = (tq.kv_list(partition_id) or {}).get(partition_id, {})
        place = {key: i for i, key in enumerate(k for k, tag in queued.items() if tag.get("is_prompt", False))}
        batch, metrics = super().sample(global_steps, partition_id, batch_size)

        def order(i: int) -> tuple[int, int, int]:
            uid, session, index = batch.keys[i].rsplit("_", 2)
            return place[uid], int(session), int(index)

        batch.reorder(sorted(range(len(batch.keys)), key=order))
        return batch, metrics


def _row(batch: TensorDict, i: int) -> dict[str, Any]:
    """Row ``i`` of a loader batch as plain values; shared values (``NonTensorData``) are repeated."""
    row: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            row[name] = value[i]
        elif isinstance(value, NonTensorData):
            row[name] = value.data
        else:
            row[name] = value[i].data
    return row
