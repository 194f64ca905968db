"""Checks of what the configuration asks for: settings that fit together, lengths, data, grader, tracking."""

import importlib
import logging
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pyarrow.parquet as pq

from harness.doctor import files, rules
from harness.doctor.finding import Finding, Flat, describe, failure, findings, local, ok, warning
from harness.doctor.model import SHAPE, model_config
from harness.doctor.software import SETUP
from harness.paths import ROOT
from harness.tasks.registry import asset_path

WANDB_HOST = "https://api.wandb.ai"
GRADER = "reward.reward_kwargs.grader"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def settings(flat: Flat) -> Iterator[Finding]:
    """``harness.doctor.rules``: a failure for each rule that is broken, and its warnings."""
    if flat["harness.fork_from"]:
        flat = {**flat, "harness.fork_from": str(ROOT / flat["harness.fork_from"])}
    # Each rule is asked for itself, so that one run of the doctor names all faults.
    every = (*rules.SETTINGS, files.fork_point)
    broken = [finding for rule in every for finding in findings(lambda flat, rule=rule: rule(flat) or (), flat)]
    yield from broken
    warnings = [warning(text) for text in rules.warnings(flat)]
    yield from warnings
    if not broken and not warnings:
        yield ok(f"{flat['harness.experiment']}, {flat['harness.algo']}, seed {flat['seed']}: settings fit together")


def lengths(flat: Flat) -> Iterator[Finding]:
    """The longest prompt with the longest response fits into the model's context, the rollout's and a micro-batch.

    verl finds out late: at the first long response, or never, since vLLM then ends responses early without a word.
    """
    longest = flat["data.max_prompt_length"] + flat["data.max_response_length"]
    found = f"prompt and response take up to {longest:,} tokens"
    shorter = "or smaller data.max_prompt_length or data.max_response_length"
    broken = False
    context, limit = context_of_model(flat), flat[f"{ROLLOUT}.max_model_len"]
    if context and context < max(longest, limit or 0):
        broken = True
        yield failure(
            f"{found}, {ROLLOUT}.max_model_len={limit}; the model has {context:,} positions",
            f"another policy=, {shorter}" + (f" with {ROLLOUT}.max_model_len" if limit else ""),
        )
    elif limit and limit < longest:
        broken = True
        yield failure(f"{found}, {ROLLOUT}.max_model_len={limit:,}", f"{ROLLOUT}.max_model_len={longest}, {shorter}")
    megatron = flat[f"{ACTOR}.strategy"] == "megatron"
    ranks = flat[f"{ACTOR}.{'megatron.context_parallel_size' if megatron else 'ulysses_sequence_parallel_size'}"]
    for packed, size in (
        (f"{ACTOR}.use_dynamic_bsz", f"{ACTOR}.ppo_max_token_len_per_gpu"),
        (f"{ROLLOUT}.log_prob_use_dynamic_bsz", f"{ROLLOUT}.log_prob_max_token_len_per_gpu"),
    ):
        if flat[packed] and flat[size] * ranks < longest:
            broken = True
            shared = f" on each of the {ranks} GPUs that share it" if ranks > 1 else ""
            yield failure(f"{found}, {size}={flat[size]:,}{shared}", f"{size}={-(-longest // ranks)}, {shorter}")
    if not broken:
        yield ok(found + (f", of {context:,} positions" if context else ""))


def context_of_model(flat: Flat) -> int | None:
    """Positions of the model by its config.json, else by the policy's ``harness.shape``; None where neither says."""
    content = model_config(flat) or {}
    there = content.get("max_position_embeddings", content.get("text_config", {}).get("max_position_embeddings"))
    return there or flat.get(f"{SHAPE}max_position_embeddings")


def data(flat: Flat) -> Iterator[Finding]:
    """Both data files are there with their columns and unique indices; images only for a model that sees them."""
    model = model_config(flat)
    blind = model is not None and "vision_config" not in model

    def one(key: str) -> Iterator[Finding]:
        value = flat[key]
        if isinstance(value, str):
            value = asset_path(key, value, flat["harness.asset_seed"])
        files.data_file({**flat, key: value}, key)
        paths = [Path(file).expanduser() for file in (value if isinstance(value, list) else [value])]
        if blind and any(flat["data.image_key"] in pq.read_schema(file).names for file in paths):
            yield failure(f"{key} has images, and the model sees none", "a policy= that sees images, or another task=")
            return
        rows = sum(pq.read_metadata(file).num_rows for file in paths)
        yield ok(f"{key}: {rows:,} prompts in {', '.join(map(str, paths))}")

    for key in ("data.train_files", "data.val_files"):
        yield from findings(lambda _, key=key: one(key), flat)


def grader(flat: Flat) -> Iterator[Finding]:
    """The grader imports; one that brings a self-test (math-verify's does) passes it."""
    path = flat[GRADER]
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
        grade = getattr(found, name)
    except Exception as error:  # noqa: BLE001  (a module may raise anything while it is imported)
        yield failure(
            f"{GRADER}={path} cannot be loaded ({describe(error)})",
            f"{SETUP} if the package is one of the project's, or another {GRADER}",
        )
        return
    tests = getattr(found, "SELF_TEST", ())
    logging.disable(logging.WARNING)  # math-verify's, that its time limits are off
    try:
        wrong = [pair for *pair, right in tests if grade(*pair, True)["accuracy"] != right]
    except ImportError as error:
        yield failure(f"{GRADER}={path} lacks a package ({describe(error)})", SETUP)
        return
    finally:
        logging.disable(logging.NOTSET)
    if wrong:
        yield failure(f"{path} misjudges {wrong[0]}: another version of math-verify?", SETUP)
    else:
        yield ok(path + (f", {len(tests)} answers judged as they should" if tests else ""))


def tracking(flat: Flat) -> Iterator[Finding]:
    """A W&B login where W&B is to be online. Nothing is sent, and a key is looked for but not read out."""
    mode = os.environ.get("WANDB_MODE", "offline")
    if "wandb" not in flat["trainer.logger"] or mode != "online":
        yield ok("files" + (f" and W&B, WANDB_MODE={mode}" if "wandb" in flat["trainer.logger"] else ""))
    elif os.environ.get("WANDB_API_KEY") and local(flat):
        yield ok("W&B online, key in WANDB_API_KEY")
    elif logged_in():
        yield ok("W&B online, login found")
    elif os.environ.get("WANDB_API_KEY"):
        yield warning(
            "WANDB_API_KEY is not handed on to a Ray cluster that runs already", "`wandb login` on each of its nodes"
        )
    else:
        yield failure(
            "WANDB_MODE=online, but no W&B login", "`.venv/bin/wandb login`, or WANDB_MODE=offline in the environment"
        )


def logged_in() -> bool:
    """Whether a netrc file has an entry for W&B's server, looked for where W&B looks."""
    host = urlparse(os.environ.get("WANDB_BASE_URL") or WANDB_HOST).netloc
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    file = next((file for file in files if file.is_file()), None)
    return file is not None and netrc.netrc(file).authenticators(host) is not None
