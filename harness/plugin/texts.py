"""Which responses are kept as text: the same prompts in every matched run, few enough to cost nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import transfer_queue as tq
from transfer_queue import KVBatchMeta

TRAINING_PROMPTS = 2  # of each step, those with the smallest index


def of_validation(
    step: int,
    prompts: int,
    uids: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    info: Mapping[str, Sequence[Any]],
) -> Iterator[dict[str, Any]]:
    """Rows (``rundir.TEXT_COLUMNS``) of the first ``prompts`` prompts of a validation, one response each.

    uids, inputs, outputs, info: of all its responses, in the order of the data, as verl's ``_validate`` collects them;
    a uid is one prompt's.
    """
    for place, uid in enumerate(list(dict.fromkeys(uids))[:prompts]):
        at = list(uids).index(uid)
        known = {name: values[at] for name, values in info.items() if len(values) == len(uids)}
        yield {
            "of": "validation",
            "step": step,
            "prompt_id": place,
            "sample": 0,
            "prompt": inputs[at],
            "response": outputs[at],
            "tokens": _whole(known.get("response_length")),
            "accuracy": known.get("acc"),
            "truncated": None if known.get("truncated") is None else bool(known["truncated"]),
            "clipped": None,
        }


def of_training(batch: KVBatchMeta, sequences: pd.DataFrame, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Rows of the first response to ``TRAINING_PROMPTS`` prompts of a step.

    batch: the step's responses, still in TransferQueue. sequences: their recorded rows (``metrics.frame``).
    """
    firsts = [key for key in batch.keys if key.rsplit("_", 2)[1:] == ["0", "0"]]
    if not firsts:
        return
    data = tq.kv_batch_get(keys=firsts, partition_id=batch.partition_id, select_fields=["index"])
    index = [int(number) for number in data["index"]]  # a tensor, or a list where verl's agent loops wrote it
    chosen = sorted(zip(index, firsts, strict=True))[:TRAINING_PROMPTS]
    keys = [key for _, key in chosen]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["prompts", "responses"])
    texts = [data[name].unbind() for name in ("prompts", "responses")]  # token ids, of one length each
    first = sequences[sequences["sample"] == 0].drop_duplicates("prompt_id", keep="last")
    rows: dict[int, dict[Any, Any]] = {row["prompt_id"]: row for row in first.to_dict("records")}
    for at, (prompt_id, _) in enumerate(chosen):
        if prompt_id not in rows:  # left out of the update
            continue
        row = rows[prompt_id]
        prompt, response = (tokenizer.decode(ids[at], skip_special_tokens=True) for ids in texts)
        yield {
            "of": "training",
            "step": int(row["step"]),
            "prompt_id": int(prompt_id),
            "sample": 0,
            "prompt": prompt,
            "response": response,
            "tokens": int(row["tokens"]),
            "accuracy": float(row["accuracy"]),
            "truncated": bool(row["truncated"]),
            "clipped": int(row["clipped"]),
        }


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
