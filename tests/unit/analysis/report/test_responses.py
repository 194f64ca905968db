"""Responses side by side: the same prompt, step and seed in every arm, as text that can do nothing."""

from pathlib import Path

import pytest
from fake_runs import training_like, write_run

from analysis import load_runs
from analysis.report import responses as module
from analysis.report.responses import facts, responses, visible
from harness.rundir import append_texts


def row(step: int, prompt: int, text: str, of: str = "validation", **more: object) -> dict[str, object]:
    known = {
        "prompt": f"prompt {prompt}",
        "tokens": len(text.split()),
        "accuracy": 1.0,
        "truncated": False,
        "clipped": None,
    }
    return {"of": of, "step": step, "prompt_id": prompt, "sample": 0, "response": text, **known, **more}


def write(root: Path, steps: int = 3, prompts: int = 2, text: str = "{arm} {seed} {step} {prompt}") -> None:
    for arm in ("grpo", "luspo"):
        for seed in (0, 1):
            run = write_run(root, training_like(4, seed), experiment="tiny", arm=arm, seed=seed)
            append_texts(
                run.attempts()[0],
                (
                    row(step, prompt, text.format(arm=arm, seed=seed, step=step, prompt=prompt))
                    for step in range(steps)
                    for prompt in range(prompts)
                ),
            )


def test_a_unit_is_one_prompt_step_and_seed_of_every_arm(tmp_path: Path) -> None:
    write(tmp_path)
    data = responses(load_runs(tmp_path))
    assert data["arms"] == ["grpo", "luspo"]
    assert data["seeds"] == [0, 1]
    assert [(kind["id"], kind["prompts"], kind["steps"]) for kind in data["kinds"]] == [("validation", 2, [0, 1, 2])]
    assert len(data["units"]) == 2 * 3 * 2
    for unit in data["units"]:
        texts = {data["arms"][int(arm)]: one["text"] for arm, one in unit["by"].items()}
        assert texts == {arm: f"{arm} {unit['seed']} {unit['step']} {unit['place']}" for arm in ("grpo", "luspo")}
    assert data["shown"] == data["recorded"] == 24


def test_prompts_of_a_step_are_matched_by_their_place_and_a_different_one_is_said(tmp_path: Path) -> None:
    for arm, ids in (("grpo", (7, 9)), ("luspo", (7, 8))):
        run = write_run(tmp_path, training_like(2, 0), experiment="tiny", arm=arm, seed=0)
        append_texts(run.attempts()[0], (row(1, prompt, "text", "training", clipped=2) for prompt in ids))
    first, second = responses(load_runs(tmp_path))["units"]
    assert "prompt" not in first["by"]["1"]
    assert (second["prompt"], second["by"]["1"]["prompt"]) == ("prompt 9", "prompt 8")
    assert second["by"]["0"]["facts"] == "\u2713 right, 1 token, 2 clipped"


def test_a_page_holds_no_more_than_fits_and_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, steps=100, text="word " * 20)
    data = responses(load_runs(tmp_path))
    (kind,) = data["kinds"]
    assert len(kind["steps"]) == module.STEPS
    assert (kind["steps"][0], kind["steps"][-1]) == (0, 99)
    assert (data["shown"], data["recorded"]) == (40 * 2 * 4, 800)
    monkeypatch.setattr(module, "EMBEDDED", 5000)
    data = responses(load_runs(tmp_path))
    assert sum(len(one["text"]) for unit in data["units"] for one in unit["by"].values()) <= 5000
    assert 0 < data["shown"] < data["recorded"]
    assert data["seeds"] == [0]  # every step of one seed before anything of the next


def test_runs_without_texts_and_with_broken_ones_keep_the_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, training_like(2, 0), experiment="tiny", arm="gspo", seed=0)
    assert responses(load_runs(tmp_path))["units"] == []
    (run.attempts()[0] / "texts.jsonl").write_text('{"step": 1}\n{"step": 2, "response": "x"}\n')
    data = responses(load_runs(tmp_path))
    assert data["units"] == []
    (said,) = data["unread"]
    assert said.startswith("tiny/gspo/seed=0: ")
    assert "texts.jsonl:1: not a line of texts" in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\tb", "a\n\tb"),
        ("\x00\x1b[31m\x7f", "\u2400\u241b[31m\u2421"),
        ("\x85", "<U+0085>"),
        ("a\u202eb", "a<U+202E>b"),
        ("\ud800", "<U+D800>"),
        ("\u2028", "<U+2028>"),
        ("<script>", "<script>"),  # escaped where it is written
        ("h\u00e9 \u4e2d \U0001f600", "h\u00e9 \u4e2d \U0001f600"),
    ],
)
def test_signs_that_cannot_be_seen_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_long_text_shows_its_beginning_and_its_end() -> None:
    text = "a" * module.BEGINNING + "x" * 5000 + "b" * module.END
    beginning, said, end = visible(text).split("\n")
    assert {*beginning} == {"a"}
    assert {*end} == {"b"}
    assert said == "[5,000 characters are left out here]"


def test_facts_leave_out_what_is_not_known() -> None:
    assert (
        facts({"accuracy": 0.0, "tokens": 1200, "truncated": True})
        == "\u2717 wrong, 1,200 tokens, cut off at the limit"
    )
    assert facts({"accuracy": 0.5}) == "accuracy 0.5"
    assert facts({}) == ""
