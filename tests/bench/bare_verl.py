"""One run of verl alone: ``python tests/bench/bare_verl.py WORK OVERRIDE...``.

What ``harness.plugin.job`` does, with verl's own TaskRunner: same configuration, no recorder, no launcher, no progress.
"""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from harness.config import compose
from harness.plugin.job import configure
from harness.rundir import RunDir


def main() -> None:
    work, overrides = Path(sys.argv[1]), sys.argv[2:]
    OmegaConf.save(compose(overrides), RunDir(work).config, resolve=True)
    config = configure(RunDir(work), work, None)  # paths and the environment that Ray's workers need

    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=TaskRunnerV1)


if __name__ == "__main__":
    main()
