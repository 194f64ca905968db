"""The fork test: one update of each loss from one checkpoint on one batch, and what it does to the length on probes.

    python -m harness.fork results/runs/tiny/gspo/seed=0
    python -m harness.fork results/runs/tiny/gspo/seed=0 results/runs/tiny/gspo/seed=1 --step 20 --algos gspo,luspo

Every fork continues its parent's weights, optimizer state, position in the data and seed, so all losses see the same
responses; they are the held-out prompts, 16 responses each, before and after. Forks are runs like others, in
``results/runs/<experiment>_fork_<arm>_<step>/``; Adam keeps the parent's moments.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config import say_error
from harness.paths import ROOT
from harness.run.checkpoints import checkpoints, intact
from harness.rundir import RunDir, RunDirError

# Of the parent's command line: what the fork says itself.
REPLACED = (
    "algo",
    "clip",
    "sweep",
    "harness.suffix",
    "harness.root",
    "trainer.total_training_steps",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.val_before_train",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.rollout.val_kwargs.n",
)


def fork_overrides(run: RunDir, step: int | None) -> list[str]:
    """Overrides of ``harness.train`` that fork ``run`` at ``step`` (default: its newest whole checkpoint).

    Raises ``RunDirError`` if there is no such checkpoint or no such run.
    """
    manifest = run.manifest()
    there = {at: folder for at, folder in checkpoints(run) if intact(folder)}
    if not there or (step is not None and step not in there):
        has = f"it has steps {', '.join(map(str, sorted(there)))}" if there else "it has none"
        wanted = "whole checkpoint" if step is None else f"whole checkpoint of step {step}"
        raise RunDirError(f"{run.checkpoints}: no {wanted}; {has}")
    step = max(there) if step is None else step
    kept = [override for override in manifest["overrides"] if override.split("=")[0].lstrip("+~") not in REPLACED]
    folder = there[step].resolve()
    return [
        *kept,
        "sweep=fork",
        f"harness.suffix=_fork_{manifest['arm'].replace(',', '_').replace('=', '')}_{step}",
        # Quoted: the path has an equals sign.
        f"harness.fork_from='{folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}'",
        f"trainer.total_training_steps={step + 1}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of the first sweep that failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.fork", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories with checkpoints")
    parser.add_argument("--step", type=int, help="checkpoint to fork from (default: the newest)")
    parser.add_argument("--algos", help="losses to compare (default: grpo,grpo_sum,gspo,luspo)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further override; may repeat")
    args = parser.parse_args(argv)
    codes = []
    for path in args.runs:
        try:
            overrides = fork_overrides(RunDir(path), args.step)
        except RunDirError as error:
            say_error(error)
            return 2
        algos = [f"algo={args.algos}"] if args.algos else []
        command = [sys.executable, "-m", "harness.train", "-m", *overrides, *algos, *args.set]
        codes.append(subprocess.run(command, check=False, cwd=ROOT).returncode)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
