"""texts.jsonl: what was written is read back, a later attempt replaces what an earlier one wrote after it."""

from pathlib import Path

import pytest

from harness.rundir import TEXT_COLUMNS, RunDir, RunDirError, append_texts, read_texts


def row(step: int, response: str) -> dict[str, object]:
    return {**dict.fromkeys(TEXT_COLUMNS), "of": "training", "step": step, "response": response}


def test_any_text_comes_back_as_it_was(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_texts(run) == []
    texts = ["<script>", "a\nb\r\u2028c", "\x00\x1b", "\u4e2d", '"quoted"\\']
    for step, text in enumerate(texts):
        append_texts(run.new_attempt() if step == 0 else run.attempts()[0], [row(step, text)])
    assert read_texts(run) == [row(step, text) for step, text in enumerate(texts)]


def test_half_a_pair_of_surrogates_does_not_stop_a_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    append_texts(run.new_attempt(), [row(1, "a\ud800b")])
    assert read_texts(run)[0]["response"] == "a?b"


def test_a_later_attempt_counts_from_where_it_continued(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    append_texts(run.new_attempt(), [row(step, "first") for step in (1, 2, 3)])
    append_texts(run.new_attempt(), [row(step, "second") for step in (2, 3, 4)])
    run.new_attempt()  # ended before its first step
    assert [(r["step"], r["response"]) for r in read_texts(run)] == [
        (1, "first"), (2, "second"), (3, "second"), (4, "second"),
    ]  # fmt: skip


def test_a_torn_last_line_is_left_out_and_a_bad_one_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    attempt = run.new_attempt()
    append_texts(attempt, [row(1, "whole")])
    with (attempt / "texts.jsonl").open("a") as file:
        file.write('{"step": 2, "resp')
    assert [r["response"] for r in read_texts(run)] == ["whole"]
    (attempt / "texts.jsonl").write_text('nonsense\n{"step": 2, "response": "x"}\n')
    with pytest.raises(RunDirError, match=r"texts\.jsonl:1: not a line of texts"):
        read_texts(run)
