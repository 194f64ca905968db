"""Checks of what the configuration asks for: settings that fit together, data, grader, tracking."""

import importlib
import logging
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pyarrow.parquet as pq

from harness import checks
from harness.assets import ROOT
from harness.config import asset_path
from harness.doctor_finding import Finding, Flat, describe, failure, findings, local, ok, warning

# The rules of harness.checks that need no file, each asked for itself so that one run of the doctor names all faults.
RULES = (checks._misleading_keys, checks._unsupported, checks._batch_sizes, checks._loss, checks._fork_point)
WANDB_HOST = "https://api.wandb.ai"
GRADER = "reward.reward_kwargs.grader"


def settings(flat: Flat) -> Iterator[Finding]:
    """``harness.checks``: a failure for each rule that is broken, and its warnings."""
    if flat["harness.fork_from"]:
        flat = {**flat, "harness.fork_from": str(ROOT / flat["harness.fork_from"])}
    broken = [finding for rule in RULES for finding in findings(lambda flat, rule=rule: rule(flat) or (), flat)]
    yield from broken
    warnings = [warning(text) for text in checks._warnings(flat)]
    yield from warnings
    if not broken and not warnings:
        yield ok(f"{flat['harness.experiment']}, {flat['harness.algo']}, seed {flat['seed']}: settings fit together")


def data(flat: Flat) -> Iterator[Finding]:
    """Both data files are there, with their columns and unique indices."""

    def one(key: str) -> Iterator[Finding]:
        value = flat[key]
        if isinstance(value, str):
            value = asset_path(key, value, flat["harness.asset_seed"])
        checks._data_file({**flat, key: value}, key)
        files = value if isinstance(value, list) else [value]
        rows = sum(pq.read_metadata(Path(file).expanduser()).num_rows for file in files)
        yield ok(f"{key}: {rows:,} prompts in {', '.join(map(str, files))}")

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
        yield failure(f"{GRADER}={path} cannot be loaded ({describe(error)})", "make setup, or another grader")
        return
    tests = getattr(found, "SELF_TEST", ())
    logging.disable(logging.WARNING)  # math-verify's, that its time limits are off
    try:
        wrong = [pair for *pair, right in tests if grade(*pair, True)["accuracy"] != right]
    except ImportError as error:
        yield failure(f"{GRADER}={path} lacks a package ({describe(error)})", "make setup")
        return
    finally:
        logging.disable(logging.NOTSET)
    if wrong:
        yield failure(f"{path} misjudges {wrong[0]}: another version of math-verify?", "make setup")
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
        yield warning("WANDB_API_KEY is not handed on to a Ray cluster that runs already", "`wandb login` on its nodes")
    else:
        yield failure("WANDB_MODE=online, but no W&B login", "`wandb login`, WANDB_API_KEY, or WANDB_MODE=offline")


def logged_in() -> bool:
    """Whether a netrc file has an entry for W&B's server, looked for where W&B looks."""
    host = urlparse(os.environ.get("WANDB_BASE_URL") or WANDB_HOST).netloc
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    file = next((file for file in files if file.is_file()), None)
    return file is not None and netrc.netrc(file).authenticators(host) is not None
