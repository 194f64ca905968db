"""Which loss is this? ``python -m harness.passport verl:gspo trl@1.16.0:grpo,loss_type=luspo mine.py:loss``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.paths import ROOT

EPILOG = """\
A loss is FRAMEWORK:NAME or FILE.py:FUNCTION, then ,KEY=VALUE for each setting:
  verl:gspo,loss_agg_mode=token-mean           verl's registry; the rest as in verl's own YAML (actor_rollout_ref.actor)
  algo:luspo,clip=own                          what a run of this project with algo=luspo trains with
  trl@1.16.0:grpo,loss_type=luspo              TRL's GRPOTrainer of that version
  openrlhf@0.11.2:gspo  areal@1.0.4:ppo        others with a version, which --install puts into build/passport
  slime@0.3.1:gspo  easyr1@COMMIT:gspo_token   a checkout by git: nemo_rl, slime, roll, easyr1; yours with --python
  nemo_rl@0.7.0:grpo-gspo-deepscaler-1.5b-8K   the loss of an example's YAML (nemo_rl, roll)
  mine.py:loss,clip_low=0.2                    loss(log_prob, old_log_prob, advantages, response_mask, **settings)
  formula:gspo                                 a published loss, as it is compared with

Exit status: 0; 1 if --expect is not met; 2 if a loss could not be measured. In another project's CI:
  python -m harness.passport --expect gspo trl@1.16.0:grpo,loss_type=grpo,importance_sampling_level=sequence --install
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the passports; returns the exit status."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("VERL_PLATFORM", "cpu")  # chosen when verl is imported
    from rich.console import Console  # what follows imports torch: --help should not wait for it

    from harness.config import say_error
    from harness.passport.command import expectation, measure_all, page
    from harness.passport.render import markdown, plain, terminal

    try:
        pythons = dict(_python(pair) for pair in args.python)
        if args.page:
            return page(ROOT / "docs" / "passports.md", pythons, args.install)
        entries = measure_all(args.loss, pythons, args.install, args.expect)
    except ValueError as error:
        say_error(error)
        return 2
    if args.json:
        print(json.dumps([plain(entry) for entry in entries], indent=2))
    elif args.markdown:
        print(markdown(entries))
    else:
        terminal([entry for entry in entries if not entry.error], Console())
    failed = [entry for entry in entries if entry.error]
    for entry in failed:
        say_error(entry.error)
    if failed:
        return 2
    missed = [line for entry in entries if (line := expectation(entry, args.expect))]
    for line in missed:
        say_error(line)
    return 1 if missed else 0


def _python(pair: str) -> tuple[str, Path]:
    key, equals, path = pair.partition("=")
    if not equals or not key or not path:
        raise ValueError(f"--python {pair}: write --python trl=PATH or --python trl@1.16.0=PATH")
    return key, Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.passport",
        description="Which loss is this? Probe policy losses as black boxes: small synthetic batches and autograd.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = parser.add_mutually_exclusive_group()
    parser.add_argument("loss", nargs="*", help="what to probe; see below")
    parser.add_argument("--expect", metavar="FORMULA", help="exit with 1 unless every loss is this published one")
    chosen.add_argument("--json", action="store_true", help="every measured number")
    chosen.add_argument("--markdown", action="store_true", help="one table, a row for each loss")
    chosen.add_argument("--page", action="store_true", help="write docs/passports.md: frameworks by version")
    parser.add_argument(
        "--python", action="append", default=[], metavar="FRAMEWORK=PATH",
        help="the Python that has a framework, a folder that `pip install --target` filled, or a checkout; may be "
        "given again",
    )  # fmt: skip
    parser.add_argument("--install", action="store_true", help="put a missing framework@version into build/passport")
    return parser


if __name__ == "__main__":
    sys.exit(main())
