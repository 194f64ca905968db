"""Small benchmarks of the tasks that are built here: easier, harder and longer than what was trained on."""

from pathlib import Path

from harness.tasks import arithmetic
from harness.tasks.cache import ensure
from harness.tasks.tiny.asset import asset as tiny_folder

VERSION = 1  # raise it whenever a build would write something else

# Of chain_sum, by what changes against training (two terms of one digit); all questions are held out.
CHAIN_SUMS = {
    "easy": {},
    "hard": {"min_digits": 2, "max_digits": 2},
    "long": {"min_terms": 3, "max_terms": 4},
}
QUESTIONS = 64


def tiny_asset(seed: int = 0) -> Path:
    """``easy.parquet`` and ``hard.parquet``: tiny's held-out prompts whose total is at most, or above, the median.

    Larger totals are harder: more numbers to tell apart, and a step that slips has further to go.
    """
    source = tiny_folder("tiny", seed)

    def build(folder: Path) -> None:
        import pandas as pd

        heldout = pd.read_parquet(source / "heldout.parquet")
        truths: list[dict[str, str]] = heldout["reward_model"].tolist()
        total = pd.Series([int(truth["ground_truth"]) for truth in truths], index=heldout.index)
        for name, rows in (("easy", heldout[total <= total.median()]), ("hard", heldout[total > total.median()])):
            rows.to_parquet(folder / f"{name}.parquet", index=False)

    return ensure("tiny-benchmarks", {"source": source.name, "version": VERSION}, build)


def chain_sum_asset(seed: int = 0) -> Path:
    """``easy``, ``hard`` and ``long.parquet``: sums as trained on (held-out ones), of two digits, of more terms."""
    sources = {
        name: arithmetic.asset("chain_sum", seed, heldout=QUESTIONS, **({"train": 1} if options else {}), **options)
        for name, options in CHAIN_SUMS.items()
    }

    def build(folder: Path) -> None:
        for name, source in sources.items():
            (folder / f"{name}.parquet").write_bytes((source / "heldout.parquet").read_bytes())

    recipe = {name: source.name for name, source in sources.items()} | {"version": VERSION}
    return ensure("chain-sum-benchmarks", recipe, build)
