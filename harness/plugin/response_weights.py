"""Weights of responses by the others of their step, for losses that have them (``harness.losses.weighting``)."""

from typing import Any

import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_to_nested

from harness.losses.registry import spec_of
from harness.losses.weighting import WeightedSpec, of_step
from harness.plugin.recording import WEIGHTS


def add(batch: KVBatchMeta, actor: Any) -> KVBatchMeta:
    """Put the weights of a step's responses beside their advantages in verl's TransferQueue, where the loss has any.

    actor: verl's actor configuration.
    """
    spec = spec_of(actor.policy_loss.loss_mode)
    if not isinstance(spec, WeightedSpec):
        return batch
    fields = ["uid", "response_mask", "advantages"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    padded = data.to_padded_tensor()
    weights = of_step(spec, actor, padded["response_mask"], padded["advantages"], padded.pop("uid").tolist())
    each = response_to_nested(weights[:, None].expand(padded["response_mask"].shape), data["response_mask"])
    put = TensorDict({WEIGHTS: each}, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=put)
