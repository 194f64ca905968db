"""The claims of LUSPO (arXiv 2602.05261v1) and which arms its reports compare; and whose claims a report decides.

The claims themselves are ``results/paper/claims.yaml``, a file of claims like any other.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from analysis.statistics.claim_file import NO_CLAIMS, Claims, load_claims, require_arms

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "results" / "paper" / "claims.yaml"
FILE = str(CLAIMS.relative_to(ROOT))  # as messages name it
ALGORITHMS = ROOT / "conf" / "algo"  # a file for each
ARMS = ("grpo", "gspo", "luspo")
MAIN = ("luspo", "gspo")
PAIRS = (MAIN, ("gspo", "grpo"), ("luspo", "grpo"))
BASELINES = ("gspo", "grpo")  # what any other arm is compared with
FORKS = (MAIN, ("grpo_sum", "grpo"), ("gspo", "grpo"))
SENTENCES = {  # of the claims that need the paper, or their other rows, to be understood: by id and row
    ("C6", ""): "clipping whole sequences (GSPO) clips more tokens than clipping tokens (GRPO)",
    ("C7", "GSPO"): "under GSPO a larger share of the responses with negative than with positive advantage is clipped",
    ("C8", "GSPO"): "responses with positive advantage weigh more than half in GSPO's gradient",
    ("C8", "negligible under GRPO"): "responses with positive advantage weigh half in GRPO's gradient",
    ("C9", "GSPO"): "GSPO's loss favours short responses, beyond what the reward asks for",
    ("C9", "LUSPO unbiased"): "LUSPO's loss favours neither short nor long responses",
    ("C10", ""): "the more often a prompt is solved, the more GSPO pushes its responses to be short",
    ("C11", "equal steps"): "LUSPO's training accuracy is higher than GSPO's after equal steps",
    ("C11", "equal tokens"): "LUSPO's training accuracy is higher than GSPO's after equal tokens",
    ("C11", "equal steps, early"): "LUSPO's training accuracy is higher early in training, after equal steps",
    ("C11", "equal tokens, early"): "LUSPO's training accuracy is higher early in training, after equal tokens",
}


@lru_cache(maxsize=1)
def paper_claims() -> Claims:
    """The paper's claims, with what its reports compare."""
    claims = load_claims(CLAIMS)
    rows = tuple(replace(claim, plain=SENTENCES.get((claim.id, claim.row), "")) for claim in claims.rows)
    return replace(claims, rows=rows, file=FILE, of="the paper", pairs=PAIRS, baselines=BASELINES, forks=FORKS)


def is_of_paper(experiments: Collection[str]) -> bool:
    """Whether the paper's claims are about any of these experiments."""
    return any(map(paper_claims().decides, experiments))


def claims_for(
    experiments: Collection[str], file: Path | None = None, arms: Collection[str] = (), recorded: Collection[str] = ()
) -> Claims:
    """The claims that are decided on runs of these experiments: those of ``file``, else the paper's, else none.

    arms, recorded: those of the runs and the metrics that they recorded, () before there are any. Raises
    ``AnalysisError`` with one line for a file that says something that cannot be, or names what is not there.
    """
    if file is None:
        return paper_claims() if is_of_paper(experiments) else NO_CLAIMS
    if file.resolve() == CLAIMS:
        return paper_claims()
    claims = load_claims(file, recorded)
    if arms:
        require_arms(claims, arms, [algorithm.stem for algorithm in ALGORITHMS.glob("*.yaml")])
    paper = paper_claims()
    return replace(claims, notes={name: paper.note_of(name) for name in experiments if paper.note_of(name)})
