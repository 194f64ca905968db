"""A file of claims of one's own, as a reader finds it in docs/claims.md; and reports of which nothing is claimed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_runs import training_like, write_run
from scipy import stats

from analysis.__main__ import main
from analysis.runs.load import load_runs

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs" / "claims.md").read_text()
RUNS = ROOT / "results" / "reference" / "tiny"
STEPS = 20
FENCE = re.search(r"<!-- example:begin -->\n```yaml\n(.*?)```\n<!-- example:end -->", PAGE, re.DOTALL)
EXAMPLE = FENCE[1] if FENCE else ""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the reference runs with exactly the example's text."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_claims.yaml").write_text(EXAMPLE)
    arguments = [str(RUNS), "--only", "gspo", "--only", "luspo", "--claims", str(folder / "my_claims.yaml")]
    assert main([*arguments, "--out", str(folder / "out")]) == 0
    return folder


def test_the_example_has_at_most_ten_lines_and_its_verdicts_are_those_of_the_page(report: Path) -> None:
    assert 0 < len(EXAMPLE.splitlines()) <= 10
    content = json.loads((report / "out" / "report.json").read_text())
    verdicts = {claim["id"]: claim["verdict"] for claim in content["claims"]}
    assert verdicts == {"longer": "supported", "surer": "negligible", "as-right": "undecided"}
    told = "the first claim is *supported*, the second *negligible*, the third *undecided*"
    assert told in " ".join(PAGE.split())


def test_its_numbers_are_those_of_the_runs_by_hand(report: Path) -> None:
    claims = {one["id"]: one for one in json.loads((report / "out" / "report.json").read_text())["claims"]}
    metrics = load_runs(RUNS).metrics
    late = metrics[metrics["step"].between(41, 60)].groupby(["seed", "arm"])["entropy"].mean().unstack()
    effects = (late["luspo"] - late["gspo"]).to_numpy()
    low, high = stats.t.interval(0.95, len(effects) - 1, effects.mean(), stats.sem(effects))
    assert (claims["surer"]["low_plain"], claims["surer"]["high_plain"]) == pytest.approx((low, high))
    last = metrics[metrics["step"] > 48].groupby(["seed", "arm"])["response_length"].mean().unstack()
    logs = np.log(last["luspo"] / last["gspo"]).to_numpy()
    # Two primary claims: the smaller p is tested at half of 5 %.
    low, high = np.exp(stats.t.interval(0.975, len(logs) - 1, logs.mean(), stats.sem(logs)))
    assert (claims["longer"]["low"], claims["longer"]["high"]) == pytest.approx((low, high))


def test_the_page_says_whose_claims_they_are_and_names_both_intervals(report: Path) -> None:
    text = (report / "out" / "index.html").read_text()
    file = str(report / "my_claims.yaml")
    assert f"The claims of {file}: which do these runs support?" in text
    assert "what the paper claims" not in text
    assert re.search(r"1\.52 x \[[\d., ]+\] Holm; \[[\d., ]+\] at 95 %", text)
    assert "Holm&#39;s for claim longer" in text  # the answer has the same number
    assert f"The rules are those of {file}: 10 did not record theirs" in text
    assert "chosen because the losses differ" in text  # what a reader of tiny must know stays


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("quantity: length", "quantity: lenght", "longer: unknown quantity 'lenght'; did you mean length?"),
        ("quantity: entropy", "quantity: entrpy", "surer: unknown quantity 'entrpy'; did you mean entropy?"),
        ("[luspo, gspo], window: end", "[lupso, gspo], window: end", "longer: no run of an arm 'lupso'; did you mean"),
        ("delta: 0.02", "margin: 0.02", "surer: unknown key 'margin'; did you mean delta?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in EXAMPLE
    (tmp_path / "my_claims.yaml").write_text(EXAMPLE.replace(old, new, 1))
    arguments = [str(RUNS), "--claims", str(tmp_path / "my_claims.yaml"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'my_claims.yaml'}:{said}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert main(["power", *arguments[:3]]) == 2
    assert said in capsys.readouterr().err


def test_power_plans_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_claims.yaml").write_text(EXAMPLE)
    file = str(tmp_path / "my_claims.yaml")
    assert main(["power", str(RUNS), "--claims", file, "--claim", "longer"]) == 0
    assert "longer" in capsys.readouterr().out
    assert main(["power", str(RUNS), "--claims", file, "--claim", "C1"]) == 2
    assert f"{file} has no claim 'C1'; those that compare two arms are longer, surer" in capsys.readouterr().err


@pytest.fixture(scope="module")
def unclaimed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of an experiment that nobody made claims about, of losses that are no losses of the paper."""
    root = tmp_path_factory.mktemp("unclaimed")
    for arm, growth in (("cispo", 0.1), ("mine", 0.9), ("cispo,lr=1e-06", 0.5)):
        for seed in range(5):
            write_run(root / "runs", training_like(STEPS, seed, growth), experiment="puzzles", arm=arm, seed=seed)
    return root


def test_without_claims_the_first_page_answers_and_claims_nothing(unclaimed: Path) -> None:
    assert main([str(unclaimed / "runs"), "--out", str(unclaimed / "out")]) == 0
    content = json.loads((unclaimed / "out" / "report.json").read_text())
    assert content["claims"] == []
    part = content["experiments"]["puzzles"]
    assert {tuple(one["arms"]) for one in part["comparisons"]} == {("mine", "cispo"), ("cispo,lr=1e-06", "cispo")}
    assert part["answer"][0].startswith("cispo,lr=1e-06's responses are longer than CISPO's")
    page = (unclaimed / "out" / "index.html").read_text()
    assert "no rules" not in page
    assert "The paper" not in page
    assert "claim" not in " ".join(re.findall(r"<h\d>(.*?)</h\d>", page)).lower()
    assert (unclaimed / "out" / "figures" / "contrasts.png").exists()
    assert not list((unclaimed / "out" / "tables").glob("claims_*"))
    assert not any(name.startswith("paper_") for name in content["missing_figures"].get("puzzles", {}))
    assert "paper" not in content["missing_figures"]


def test_every_arm_against_a_chosen_baseline(unclaimed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(unclaimed / "runs"), "--out", str(unclaimed / "other"), "--baseline"]
    assert main([*arguments, "mine"]) == 0
    content = json.loads((unclaimed / "other" / "report.json").read_text())
    pairs = {tuple(one["arms"]) for one in content["experiments"]["puzzles"]["comparisons"]}
    assert pairs == {("cispo", "mine"), ("cispo,lr=1e-06", "mine")}
    capsys.readouterr()
    assert main([*arguments, "mien"]) == 2
    error = capsys.readouterr().err
    assert error == "error: baseline mien: no run of such an arm; there are cispo, cispo,lr=1e-06, mine\n"
