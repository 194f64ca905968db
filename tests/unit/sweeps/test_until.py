"""``until=decided`` and its words: what they make of a sweep, what a plan and a status say, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config import ConfigError
from harness.manifest import hash_of_claims
from harness.rundir import content_hash, write_json
from harness.rundir.decisions import decision_file, find_decisions
from sweeps import __main__ as command
from sweeps import trials
from sweeps.control import until_decided
from sweeps.definition import Sweep, load
from sweeps.state import SweepState
from sweeps.until import adjusted


@pytest.fixture(autouse=True)
def _composed_once(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "compose", lambda overrides: composed(*overrides))


def grid(seeds: list[int] | None = None) -> Sweep:
    of = {"experiment": ["tiny"], "algo": ["gspo", "luspo"], "seed": seeds or [0]}
    return Sweep("mine", "", of, {}, [], [{"when": {"algo": "luspo"}, "add": 1}], 3, 30.0)


def test_a_word_replaces_the_values_of_a_key_of_the_grid() -> None:
    sweep, rest = adjusted(grid(), ["algo=grpo,gspo", "seed=4,5", "trainer.save_freq=5"])
    assert (sweep.grid["algo"], sweep.grid["seed"], rest) == (["grpo", "gspo"], [4, 5], ["trainer.save_freq=5"])
    assert sweep.priority == []  # it named an algorithm that is not there any more
    assert (sweep.until, sweep.name) == ({}, "mine")
    assert adjusted(grid(), ["algo=luspo"])[0].priority == grid().priority
    assert adjusted(grid(), ["algo=[a,b]"])[0].grid["algo"] == ["[a,b]"]


@pytest.mark.parametrize(
    ("seeds", "start", "grid_of_seeds"),
    [
        ("0", [0, 1, 2], [0, 1, 2, 3, 4]),
        ("0,1,2,3", [0, 1, 2, 3], [0, 1, 2, 3, 4]),
        ("7,3", [7, 3, 8], [7, 3, 8, 9, 10]),
    ],
)
def test_the_seeds_to_start_from_and_those_that_may_follow(seeds: str, start: list, grid_of_seeds: list) -> None:
    sweep, rest = adjusted(grid(), ["until=decided", "max_seeds=5", f"seed={seeds}", "claim=luspo:gspo"])
    assert (sweep.grid["seed"], rest, sweep.name) == (grid_of_seeds, [], "mine-tiny")
    assert sweep.until == {"start": start, "max_seeds": 5, "claim": ["luspo:gspo"]}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["until=other"], "until=other: a sweep can wait for one thing only, until=decided"),
        (["max_seeds=5"], "max_seeds=5 says how to decide, so until=decided must be there too"),
        (["claim=a:b"], "claim=a:b says how to decide, so until=decided must be there too"),
        (
            ["until=decided", "max_seeds=2"],
            "max_seeds=2: must be a whole number of at least 3, the seeds of the first look",
        ),
        (["until=decided", "max_seeds=many"], "max_seeds=many: must be a whole number"),
        (["until=decided", "max_seeds=3", "seed=0,1,2,3"], "max_seeds=3: seed already names 4 seeds to start from"),
        (["until=decided", "seed=x"], "seed must be whole numbers of at least 0, got x"),
        (["until=decided", "experiment=tiny,smollm2"], "sweep mine has tiny, smollm2; choose, such as experiment=tiny"),
        (["algo={", "seed={}"], ""),
    ],
)
def test_words_that_do_not_fit_are_told_in_one_line(overrides: list[str], said: str) -> None:
    if not said:
        assert adjusted(grid(), overrides)[0].grid["algo"] == ["{"]  # Hydra says what is wrong with it
        return
    with pytest.raises(ConfigError) as caught:
        adjusted(grid(), overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("until", "said"),
    [({"most": 5}, "until.most: no such key; there are max_seeds, claim"), ({"claim": [5]}, "must be pairs of arms")],
)
def test_a_file_that_says_something_else(tmp_path: Path, until: dict[str, Any], said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"grid": grid().grid, "until": until}))
    with pytest.raises(ConfigError, match=said):
        SweepState.of(str(file), [])


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = command.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algo=gspo"], "until=decided: a decision is between two arms, and this sweep has only gspo"),
        (["claim=luspo:gpso"], "claim=luspo:gpso: no arm 'gpso' in this sweep; there are grpo, gspo, luspo"),
        (["claim=luspo"], "contrast luspo: two different arms with a colon between"),
    ],
)
@pytest.mark.parametrize("what", ["plan", "run"])
def test_what_cannot_be_decided_starts_nothing(
    words: list[str], said: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run([what, "decided", *words, f"harness.root={tmp_path / 'runs'}"], capsys)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("seed=*"))


def test_a_plan_shows_the_rule_and_how_many_runs_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["algo=gspo,luspo", "max_seeds=7", f"harness.root={tmp_path / 'runs'}"]
    status, out, _ = run(["plan", "decided", *words], capsys)
    assert status == 0
    assert out.count("tiny/gspo/seed=") == out.count("tiny/luspo/seed=") == 3
    assert "at most 14 runs" in out
    assert (
        "until decided: luspo:gspo, in length and accuracy; a look after each seed from number 3 on, at most 7" in out
    )
    assert not (tmp_path / "runs").exists()


def test_a_file_of_claims_says_what_is_to_be_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim = {"id": "longer", "claim": "longer", "quantity": "length", "arms": ["luspo", "gspo"], "window": "end",
             "direction": ">", "delta": 1.1}  # fmt: skip
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"claims": [claim]}))
    words = ["algo=gspo,luspo", "max_seeds=7", f"claims={file}", f"harness.root={tmp_path / 'runs'}"]
    status, out, _ = run(["plan", "decided", *words], capsys)
    assert status == 0
    assert f"until decided: longer, claims of {file} (luspo:gspo); a look after each seed" in out.replace("\n", " ")
    status, _, err = run(["plan", "decided", *words, "claim=luspo:gspo"], capsys)
    assert (status, "give one of claim, pairs of arms, and claims, a file of claims" in err) == (2, True)
    file.write_text(yaml.safe_dump({"claims": [claim | {"windw": "end"}]}))
    status, _, err = run(["plan", "decided", *words], capsys)
    assert (status, err.count("\n"), f"{file}:longer: unknown key 'windw'" in err) == (2, 1, True)


def test_a_status_says_what_the_last_look_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["algo=gspo,luspo", "max_seeds=7"]
    root = f"harness.root={tmp_path}"
    state = SweepState.of("decided", [*words, root])
    state.write()
    assert state.folder == tmp_path / ".sweeps" / "decided-tiny"
    for one in state.begun:
        one.run.write_status("done", last_step=one.planned)
        (one.path / "manifest.json").write_text("{}")
    file = until_decided(state).file
    assert file == state.folder / "decision-luspo-gspo.json"
    write_json(file, {"looks": [], "stop": "", "text": "Undecided after 3 of 7 seeds."})
    _, out, _ = run(["status", "decided", root], capsys)  # as the last run had it
    assert "Undecided after 3 of 7 seeds." in out
    assert out.count("tiny/gspo/seed=") == 3
    assert "next: python -m sweeps run decided" in out
    write_json(file, {"looks": [], "stop": "decided", "text": "Decided after 3 of 7 seeds."})
    _, out, _ = run(["status", "decided", root], capsys)
    assert "next: python -m analysis" in out


def test_the_sweep_of_the_makefile_is_there() -> None:
    assert load("decided").until == {"max_seeds": 20}


def test_decisions_are_found_beside_the_runs(tmp_path: Path) -> None:
    short, long = (("a", "b"),), tuple((f"arm_{n}", "other") for n in range(20))
    assert decision_file(tmp_path, short).name == "decision-a-b.json"
    assert len(decision_file(tmp_path, long).name) < 40
    assert find_decisions(tmp_path) == []
    write_json(decision_file(tmp_path / ".sweeps" / "one", short), {"text": "yes"})
    decision_file(tmp_path / ".sweeps" / "one", long).write_text("{")
    assert find_decisions(tmp_path) == [{"text": "yes"}]


def test_every_run_of_such_a_sweep_keeps_the_hash_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("claims: []")
    _, rest = adjusted(grid(), ["until=decided", f"claims={file}"])
    assert rest == [f"harness.claims={file}"]
    (trial, *_) = adjusted(grid(), ["until=decided"])[0].trials(rest)
    assert trial.path.parent.name in ("gspo", "luspo", "grpo")  # an arm is none the other for it
    assert hash_of_claims(str(file)) == content_hash(file) != hash_of_claims()
    with pytest.raises(ConfigError, match=r"none.yaml: no such file; give the path of a file of claims"):
        hash_of_claims(str(tmp_path / "none.yaml"))
