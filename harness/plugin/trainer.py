"""verl's own synchronous trainer with a recorder attached: the only classes of verl's trainer that are subclassed.

``run_ppo`` takes a TaskRunner class; ours puts ``RecordingTrainer`` where verl looks up the mode ``sync`` (any other
name of ``trainer_mode`` silently changes behaviour) and changes nothing else.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

from harness.config import ConfigError, flatten
from harness.estimate.architecture import shape_of
from harness.estimate.cost import training
from harness.losses.registry import register_losses, spec_of
from harness.losses.spec import clip_range
from harness.plugin import metrics as own
from harness.plugin import probe, response_weights, routing, texts
from harness.plugin.recording import ROWS, RecordingLoss
from harness.run.checkpoints import checkpoints, complete, drop_checkpoints, ensure_room
from harness.run.merge import PLAIN
from harness.rundir import STAGE_FILE, STOP_FILE, RunDir, append_texts, responses_hash


class _Tap:
    """Stands in for the actor's worker group during one update and takes what verl is about to average away."""

    def __init__(self, group: Any):
        self.group = group
        self.rows: list[dict[str, Any]] = []
        self.grad_norms: list[float] = []

    def update_actor(self, batch: KVBatchMeta) -> Any:
        output = self.group.update_actor(batch)
        metrics = dict(tu.get(output, key="metrics"))
        self.rows = metrics.pop(ROWS)
        self.grad_norms = [float(norm) for norm in metrics["grad_norm"]]
        tu.assign_non_tensor_data(output, key="metrics", val=metrics)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group, name)


class RecordingTrainer(PPOTrainerSync):
    """``PPOTrainerSync`` that writes one row per response and logs metrics computed from these rows.

    ``config.harness.attempt_dir`` is where they go; ``config.harness.record=false`` trains without, bit for bit alike.
    ``config.harness.text_prompts``: of so many validation prompts the responses are kept as text (``texts``).
    """

    def _setup(self) -> None:
        register_losses()
        actor: ActorConfig = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.attempt = Path(self.config.harness.attempt_dir)
        self._say_stage("starting the workers and loading the model")
        probe.check(actor)  # before any worker is started; every worker checks its own again
        super()._setup()
        self._say_stage("the first step")
        self.recording = bool(self.config.harness.record)
        self.text_prompts = int(self.config.harness.get("text_prompts", 0))  # older runs' configurations have none
        self.run_dir = RunDir(Path(self.config.harness.run_dir))
        self.cumulative_tokens = _tokens_until(self.run_dir, self.global_steps)
        if self.recording:
            loss = RecordingLoss(partial(ppo_loss, config=actor), actor)
            self.actor_rollout_wg.set_loss_fn(loss)
            routing.watch(self.actor_rollout_wg)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        batch = super().step(metrics, timing_raw)
        freq, step = self.config.trainer.save_freq, self.global_steps
        saves = freq > 0 and (step % freq == 0 or step >= self.total_training_steps)  # verl will
        if self._asked_to_stop() and not saves:
            self._save_checkpoint()
        return batch

    def on_step_begin(self) -> None:
        # Here the record of the step before is complete. A request that came after its `step` waits for this one.
        if self._asked_to_stop() and any(number == self.global_steps - 1 for number, _ in checkpoints(self.run_dir)):
            raise StopRequestedError(f"after step {self.global_steps - 1} and its checkpoint")
        super().on_step_begin()

    def _asked_to_stop(self) -> bool:
        return (self.attempt / STOP_FILE).exists()

    def _save_checkpoint(self) -> None:
        """verl's, with what it lacks: room on the disk, a mark that it is whole, retention that outlives a resume."""
        ensure_room(self.run_dir, expected_bytes(self.config))
        super()._save_checkpoint()
        complete(self.run_dir.checkpoints / f"global_step_{self.global_steps}")
        drop_checkpoints(self.run_dir, self.global_steps, self.config.trainer.max_actor_ckpt_to_keep)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return response_weights.add(super()._compute_advantage(batch, metrics), self.config.actor_rollout_ref.actor)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if not self.recording:
            return super()._update_actor(batch, metrics)
        group = self.actor_rollout_wg
        self.actor_rollout_wg = self.tap = _Tap(group)
        try:
            return super()._update_actor(batch, metrics)
        finally:
            self.actor_rollout_wg = group

    def _say_stage(self, stage: str) -> None:
        """What a user is told who waits for the first step."""
        (self.attempt / STAGE_FILE).write_text(stage)

    def _validate(self) -> dict[str, float]:
        self._say_stage("validating the model")
        metrics = super()._validate()
        self._say_stage("the first step")
        return {**metrics, **own.validation_metrics(metrics)}

    def _maybe_log_val_generations(self, inputs: list[str], outputs: list[str], scores: list[float]) -> None:
        # Of all that verl decodes here, in the data's order, some is kept once `_val_metrics_update` tells what it is.
        self.validated = inputs, outputs
        super()._maybe_log_val_generations(inputs=inputs, outputs=outputs, scores=scores)

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, float]:
        if self.recording and self.text_prompts:
            rows = texts.of_validation(
                self.global_steps, self.text_prompts, sample_uids, *self.validated, reward_extra_infos_dict
            )
            append_texts(self.attempt, rows)
        return super()._val_metrics_update(data_sources, sample_uids, reward_extra_infos_dict, *args, **kwargs)

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        if not self.recording:
            return
        actor = self.config.actor_rollout_ref.actor
        rows_per_update = actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        responses = self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n * actor.ppo_epochs
        sequences = own.frame(self.tap.rows, global_steps, rows_per_update, responses)
        spec = spec_of(actor.policy_loss.loss_mode)
        metrics.update(own.step_metrics(sequences, spec, clip_range(actor)))
        self.cumulative_tokens += metrics["tokens"]
        norms = self.tap.grad_norms
        metrics.update(
            cumulative_tokens=self.cumulative_tokens,
            # Without the checkpoint: how often one is saved must not move an axis of hours.
            step_seconds=timing_raw["step"] - timing_raw.get("save_checkpoint", 0.0),
            grad_norm=sum(norms) / len(norms),
            grad_norm_clipped=sum(norm > actor.optim.clip_grad for norm in norms) / len(norms),
        )
        metrics.update({f"grad_norm_update{i}": norm for i, norm in enumerate(norms, 1)})
        self._write(sequences, global_steps)
        if self.text_prompts:
            append_texts(self.attempt, texts.of_training(batch, sequences, self.tokenizer))

    def _write(self, sequences: pd.DataFrame, step: int) -> None:
        """Write the step's rows so that a reader never sees half a file; the metrics line follows after it."""
        folder = self.attempt / "sequences"
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{step}.parquet"
        table = pa.Table.from_pandas(sequences, preserve_index=False).replace_schema_metadata(None)
        pq.write_table(table, draft, **PLAIN)
        draft.replace(folder / f"{step}.parquet")
        if step == 1:
            manifest = self.run_dir.manifest()
            first = sequences[["prompt_id", "sample", "response_hash"]].itertuples(index=False, name=None)
            self.run_dir.write_manifest({**manifest, "step1_responses": responses_hash(first)})


class StopRequestedError(Exception):
    """The run was asked to end and did, after a checkpoint and with the record complete."""


def expected_bytes(config: DictConfig) -> float:
    """Size of a first checkpoint, estimated; 0 for a model whose shape is unknown."""
    flat = flatten(config)
    try:
        return training(flat, shape_of(flat)).checkpoint
    except (ConfigError, KeyError):
        return 0.0


def _tokens_until(run: RunDir, step: int) -> float:
    """Tokens trained on up to and including ``step``, by earlier attempts (0 for a fresh run)."""
    if not step:
        return 0.0
    return float(run.metrics()[0].get(step, {}).get("cumulative_tokens", 0.0))


class RecordingTaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):  # type: ignore[attr-defined,misc]
    """verl's TaskRunner, with ``RecordingTrainer`` as the trainer of the mode ``sync``."""

    def run(self, config: DictConfig) -> None:
        _refuse_foreign_queue()
        TRAINER_REGISTRY["sync"] = RecordingTrainer
        super().run(config)


def _refuse_foreign_queue() -> None:
    """verl would attach to another job's TransferQueue on the same cluster and could train on its responses."""
    try:
        ray.get_actor("TransferQueueController", namespace="transfer_queue")
    except ValueError:
        return
    raise RuntimeError("another verl job runs on this Ray cluster; give every run a cluster of its own")


def task_runner() -> Any:
    """The Ray actor class for ``verl.trainer.main_ppo.run_ppo(config, task_runner_class=...)``."""
    return ray.remote(RecordingTaskRunner)
