"""Prepared data from small files of the published layouts: counts, splits and overlaps are those planted in them."""

import json
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.config import ConfigError
from harness.data import main
from harness.doctor.files import DATA_COLUMNS
from harness.grading.components import Response, format_reward
from harness.grading.extraction import final_answer as in_response
from harness.tasks.hub import prompts
from harness.tasks.hub.contamination import overlap
from harness.tasks.hub.images import blank
from harness.tasks.hub.prepare import builders, folder_of, prepare, prepared
from harness.tasks.hub.questions import InvalidRowError, final_answer
from harness.tasks.hub.table import DATA_SETS

# What the published DAPO file has around each question.
BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'
AIME = "Every morning Aya goes for a walk of nine kilometres and stops at a coffee shop on her way. Find the minutes."


def png(grey: int, size: int = 60, mode: str = "L") -> bytes:
    stream = BytesIO()
    Image.new(mode, (size, size), grey).save(stream, "PNG")
    return stream.getvalue()


def dapo_row(question: str, answer: str, row_id: str) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": BEFORE + question + AFTER, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": row_id},
    }


def virl_row(question: str, answer: str, images: list[str], qid: str) -> dict[str, Any]:
    return {
        "question": question,
        "answer": answer,
        "PassRate_32BTrained": 0.5,
        "PassRate_7BBase": -1.0,
        "category": "math",
        "source": "made",
        "qid": qid,
        "image": images,
    }


DAPO_ROWS = [
    *(dapo_row(f"What is {i} + \\frac{{1}}{{1}}?", str(i + 1), f"id-{i}") for i in range(20)),
    dapo_row("What is   3 + \\frac{1}{1}?\n", "4", "id-3b"),  # 3 again, spaced otherwise
    dapo_row("How many?", "5", "id-x"),
    dapo_row("How many?", "6", "id-y"),
    dapo_row(AIME.replace("minutes", "time in minutes"), "204", "id-near"),
    dapo_row(AIME.replace("nine", "Nine,"), "204", "id-same"),
]
VIRL_ROWS = [
    *(
        virl_row(f"<image>What is the side of square {i}?", f"\\boxed{{{i}}}", [f"images/{i}.png"], f"q{i}")
        for i in range(8)
    ),
    virl_row("<image>What is the side of square 0?", "\\boxed{0}", ["images/0-copy.png"], "q0-copy"),
    virl_row("<image>What is the side of square 0?", "\\boxed{1}", ["images/1.png"], "q0-other-image"),
    virl_row("Compare them.", "\\boxed{A}", ["images/1.png", "images/2.png"], "q-words-lost"),
    virl_row("<image>Compare them.", "\\boxed{A}", ["images/1.png", "images/2.png"], "q-word-lost"),
    virl_row("Without image.", "$\\boxed{\\frac{1}{2}}$", [], "q-text"),
]


def write_dapo(folder: Path, rows: list[dict[str, Any]] = DAPO_ROWS, times: int = 3) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows * times), folder / "data" / "dapo-math-17k.parquet")


def write_virl(folder: Path, rows: list[dict[str, Any]] = VIRL_ROWS, **files: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "39Krelease.parquet")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(8):
            archive.writestr(f"images/{i}.png", png(i))
        archive.writestr("images/0-copy.png", png(0))
        for name, content in files.items():
            archive.writestr(name, content)


def write_aime24(folder: Path) -> None:
    row = {"id": 60, "problem": AIME, "solution": "\\boxed{204}", "url": "u"}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row]), folder / "test-00000-of-00001.parquet")


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_dapo(tmp_path / "source")
    write_virl(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path / "assets"))
    return tmp_path / "assets"


def test_dapo_is_deduplicated_counted_and_split(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    card = prepare("dapo_math_17k", source, out, heldout=5)
    # 25 rows three times: 20 + the two about Aya are kept; "How many?" has two answers
    assert card["counts"] == {
        "dapo_math_17k": {
            "read": 75,
            "duplicates": 51,
            "dropped": {"several answers to one question": 2},
            "kept": 22,
            "image_words_added": 0,
            "blank_images": 0,
        }
    }
    splits = {split: rows_of(out, split) for split in ("train", "heldout")}
    assert [len(splits["train"]), len(splits["heldout"])] == [17, 5]
    indices = {split: {row["extra_info"]["index"] for row in rows} for split, rows in splits.items()}
    assert indices["train"] | indices["heldout"] == set(range(22))
    assert not indices["train"] & indices["heldout"]
    for split, rows in splits.items():
        for row in rows:
            assert row.keys() >= set(DATA_COLUMNS)
            assert row["extra_info"]["split"] == split
            assert row["prompt"] == [{"role": "user", "content": BEFORE + row["extra_info"]["question"] + AFTER}]
            if row["extra_info"]["index"] < 20:
                expected = DAPO_ROWS[row["extra_info"]["index"]]
                assert row["prompt"][0]["content"] == expected["prompt"][0]["content"]
                assert row["reward_model"]["ground_truth"] == expected["reward_model"]["ground_truth"]
                assert row["extra_info"]["row_id"] == expected["extra_info"]["index"]
    assert json.loads((out / "card.json").read_text()) == card


def test_the_same_source_gives_the_same_bytes_and_another_seed_other_heldout_questions(
    source: Path, tmp_path: Path
) -> None:
    folders = {key: tmp_path / key for key in ("one", "two", "other")}
    moved = Path(shutil.copytree(source, tmp_path / "moved"))
    cards = [
        prepare("virl39k_dapo", source, folders["one"], heldout=4),
        prepare("virl39k_dapo", moved, folders["two"], heldout=4),
        prepare("virl39k_dapo", source, folders["other"], heldout=4, seed=1),
    ]
    for file in ("train.parquet", "heldout.parquet", "card.json"):
        assert (folders["one"] / file).read_bytes() == (folders["two"] / file).read_bytes()
    assert cards[0]["content_hash"] != cards[2]["content_hash"]
    assert {file.name for file in tmp_path.iterdir()} == {"source", "moved", *folders}, "no draft is left"


def test_virl_has_its_images_where_its_questions_name_them(source: Path, tmp_path: Path) -> None:
    card = prepare("virl39k", source, tmp_path / "out", heldout=1)
    counts = card["counts"]["virl39k"]
    assert counts["read"] == 13
    assert counts["duplicates"] == 1, "the same question about the same picture under another name"
    assert counts["dropped"] == {"more or fewer <image> than images": 1}
    assert [counts["kept"], counts["image_words_added"], counts["blank_images"]] == [11, 1, 0]
    rows = {
        row["extra_info"]["row_id"]: row for split in ("train", "heldout") for row in rows_of(tmp_path / "out", split)
    }
    assert rows["q3"]["images"] == [{"bytes": png(3), "path": "images/3.png"}]
    assert rows["q3"]["reward_model"]["ground_truth"] == "3"
    assert rows["q-words-lost"]["extra_info"]["question"] == "<image><image>Compare them."
    assert [image["bytes"] for image in rows["q-words-lost"]["images"]] == [png(1), png(2)]
    assert rows["q-text"]["images"] == []
    assert rows["q-text"]["reward_model"]["ground_truth"] == "\\frac{1}{2}"
    system, user = rows["q3"]["prompt"]
    assert user == {"role": "user", "content": "<image>What is the side of square 3?"}
    assert all(
        tag in system["content"] for tag in ("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "$", "1+1")
    )


def test_the_mix_gives_each_text_question_a_blank_image_and_one_instruction(source: Path, tmp_path: Path) -> None:
    card = prepare("virl39k_dapo", source, tmp_path / "out", heldout=2)
    assert card["counts"]["dapo_math_17k"]["blank_images"] == card["counts"]["dapo_math_17k"]["kept"] == 22
    assert card["counts"]["virl39k"]["blank_images"] == 1
    rows = [row for split in ("train", "heldout") for row in rows_of(tmp_path / "out", split)]
    assert len({row["extra_info"]["index"] for row in rows}) == len(rows) == 33
    assert {row["data_source"] for row in rows} == {"virl39k", "dapo_math_17k"}
    for row in rows:
        assert row["prompt"][1]["content"].count("<image>") == len(row["images"]) >= 1
        assert "Answer:" not in row["prompt"][1]["content"], "the file's own instruction is off"
    blanks = [row["images"] for row in rows if row["data_source"] == "dapo_math_17k"]
    assert all([image["bytes"] for image in images] == [blank()] for images in blanks)
    with Image.open(BytesIO(blank())) as image:
        assert image.convert("RGB").getcolors() == [(image.width * image.height, (255, 255, 255))]


@pytest.mark.parametrize(
    ("name", "file", "row", "answer"),
    [
        ("aime25", "test.jsonl", {"problem": "P?", "answer": "70", "id": "0"}, "70"),
        (
            "math500",
            "test.jsonl",
            {"problem": "P?", "solution": "s", "answer": "\\frac{1}{2}", "unique_id": "t/1"},
            "\\frac{1}{2}",
        ),
        ("amc23", "test-00000-of-00001.parquet", {"id": 0, "question": "P?", "answer": "27", "url": "u"}, "27"),
        (
            "aime24",
            "test-00000-of-00001.parquet",
            {"id": 60, "problem": "P?", "solution": "\\boxed{204}", "url": "u"},
            "204",
        ),
    ],
)
def test_benchmarks(tmp_path: Path, name: str, file: str, row: dict[str, Any], answer: str) -> None:
    if file.endswith("jsonl"):
        (tmp_path / file).write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / file)
    prepare(name, tmp_path)
    (written,) = rows_of(prepared(name), "test")
    assert written["reward_model"]["ground_truth"] == answer
    assert written["prompt"] == [{"role": "user", "content": BEFORE + "P?" + AFTER}]
    assert written["extra_info"] == {"index": 0, "split": "test", "question": "P?", "row_id": str(row.get("id", "t/1"))}
    assert builders()[name](7) == folder_of(name)


def test_overlap_finds_what_was_planted_and_says_what_was_not_checked(source: Path, tmp_path: Path) -> None:
    write_aime24(tmp_path / "aime")
    prepare("aime24", tmp_path / "aime", tmp_path / "out" / "aime24")
    card = prepare("dapo_math_17k", source, tmp_path / "out" / "dapo", heldout=1, seed=3)
    train = {
        row["extra_info"]["row_id"]: row["extra_info"]["index"] for row in rows_of(tmp_path / "out" / "dapo", "train")
    }
    assert card["overlap"]["aime24"] == {
        "questions": 1,
        "same": 1,
        "shared_13_words": 2,
        "pairs": [[train["id-near"], 0], [train["id-same"], 0]],
    }
    assert card["overlap"]["math500"] == "not prepared"


def test_overlap_needs_thirteen_words_in_a_row() -> None:
    words = [f"word{i}" for i in range(14)]
    benchmark = {7: " ".join(words)}
    found = overlap({0: " ".join(words[:13]), 1: " ".join([*words[:12], "x", *words[12:]]), 2: "", 3: "?!"}, benchmark)
    assert found == {"questions": 1, "same": 0, "shared_13_words": 1, "pairs": [[0, 7]]}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 34 ", "34"),
        (27.0, "27.0"),
        (3, "3"),
        ("first \\boxed{\\frac{1}{2}}, so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2}", "1, 2"),
        ("\\boxed{\\left\\{x+y=1\\right.}", "\\left\\{x+y=1\\right."),
    ],
)
def test_final_answers(text: Any, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [None, "", " ", "\\boxed{}", "\\boxed{ }", "\\boxed{1", "\\boxed{\\{1\\}", "first \\boxed{1}, then \\boxed{2}."],
)
def test_answers_that_are_none(text: Any) -> None:
    with pytest.raises(InvalidRowError):
        final_answer(text)


def not_parquet(folder: Path) -> None:
    (folder / "39Krelease.parquet").write_bytes(b"PAR1 not")


def not_zip(folder: Path) -> None:
    (folder / "images.zip").write_bytes(b"no zip")


def without_column(folder: Path) -> None:
    pq.write_table(pa.table({"question": ["a"], "image": [["b"]], "qid": ["c"]}), folder / "39Krelease.parquet")


def without_answer(folder: Path) -> None:
    write_virl(folder, [*VIRL_ROWS, virl_row("<image>Q", "\\boxed{}", ["images/1.png"], "q")])


def without_image(folder: Path) -> None:
    write_virl(folder, [*VIRL_ROWS, virl_row("<image>Q", "\\boxed{1}", ["images/none.png"], "q")])


def outside_image(folder: Path) -> None:
    (folder / "images.png").write_bytes(png(1))
    write_virl(folder, [*VIRL_ROWS, virl_row("<image>Q", "\\boxed{1}", ["../source/images.png"], "q")])


def damaged_image(folder: Path) -> None:
    write_virl(
        folder, [*VIRL_ROWS, virl_row("<image>Q", "\\boxed{1}", ["bad.png"], "q")], **{"bad.png": png(1, 200)[:-40]}
    )


@pytest.mark.parametrize(
    ("damage", "message", "droppable"),
    [
        (not_parquet, "39Krelease.parquet: not a readable parquet file", False),
        (not_zip, "images.zip: not a readable zip file", False),
        (without_column, "no column answer; there are question, image, qid", False),
        (without_answer, "row 13 (from 0) has no answer", True),
        (without_image, "row 13 (from 0) has an image that the zip file lacks: images/none.png", True),
        (outside_image, "row 13 (from 0) has an image that the zip file lacks: ../source/images.png", True),
        (damaged_image, "row 13 (from 0) has an image that does not decode: bad.png", True),
    ],
)
def test_bad_input_is_one_line_and_leaves_what_was_there(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], message: str, droppable: bool
) -> None:
    out = tmp_path / "out"
    before = prepare("virl39k", source, out, heldout=1)
    damage(source)
    with pytest.raises(ConfigError) as refusal:
        prepare("virl39k", source, out, heldout=1)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert json.loads((out / "card.json").read_text()) == before
    assert {file.name for file in tmp_path.iterdir()} == {"source", "out"}
    if droppable:
        counts = prepare("virl39k", source, out, heldout=1, drop_invalid=True)["counts"]["virl39k"]
        assert counts["kept"] == before["counts"]["virl39k"]["kept"]
        assert counts["read"] == counts["kept"] + counts["duplicates"] + sum(counts["dropped"].values())


def test_rows_without_the_files_instruction_are_dropped_or_refused(tmp_path: Path) -> None:
    bare = [{**row, "prompt": [{"content": "What?", "role": "user"}]} for row in DAPO_ROWS[:2]]
    write_dapo(tmp_path / "source", [*DAPO_ROWS, bare[0]], times=1)
    counts = prepare("dapo_math_17k", tmp_path / "source", heldout=1)["counts"]["dapo_math_17k"]
    assert counts["dropped"]["not the instruction answer_line around the question"] == 1
    write_dapo(tmp_path / "source", bare)
    with pytest.raises(ConfigError, match="no usable question"):
        prepare("dapo_math_17k", tmp_path / "source", heldout=1)


def test_a_bad_line_of_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(b'{"problem": "P", "answer": "1", "id": "0"}\n{"prob\xff\n')
    with pytest.raises(ConfigError, match=r"test.jsonl: line 2 is not a JSON object"):
        prepare("aime25", tmp_path)


def test_missing_and_unreachable_files_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = r"images.zip of https://huggingface.co/datasets/TIGER-Lab/ViRL39K .*--source FOLDER$"
    with pytest.raises(ConfigError, match=f"^virl39k: .*39Krelease.parquet is missing; .*{remedy}"):
        prepare("virl39k", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))  # and HF_HUB_OFFLINE is set
    with pytest.raises(ConfigError, match=f"^virl39k: .*39Krelease.parquet cannot be downloaded .*{remedy}"):
        prepare("virl39k")


def test_a_hub_that_is_not_there_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not exist; the hub's own client is not asked, which would try again for half a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the client"))
    monkeypatch.setattr("harness.tasks.hub.sources.getproxies", dict)
    with pytest.raises(ConfigError, match=r"^aime24: https://hub.invalid cannot be reached .*--source FOLDER$"):
        prepare("aime24")


def test_other_refusals(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be from 1 to 21 .* not 22"):
        prepare("dapo_math_17k", source, heldout=22)
    with pytest.raises(ConfigError, match="neither a text file nor one of answer_line, boxed, think_answer"):
        prepare("dapo_math_17k", source, prompt="nope")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="is not a prepared data set"):
        prepare("dapo_math_17k", source, tmp_path / "mine", heldout=2)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with pytest.raises(ConfigError, match=r"python -m harness.data prepare amc23"):
        prepared("amc23")


def test_the_worked_example_of_the_papers_instruction_earns_the_format_reward() -> None:
    example = prompts.load("think_answer").text.splitlines()[-1]
    assert format_reward(Response(example, 40, finished=True)) == 0.5
    assert in_response(example) == "$2$"


@pytest.mark.parametrize("key", ["answer_line", "boxed"])
def test_a_question_can_be_taken_out_of_its_instruction_again(key: str) -> None:
    prompt = prompts.load(key)
    question = 'Is "{x}" in \\{question\\}?\n\nAnswer: maybe'
    (message,) = prompt.messages(question)
    assert prompt.question(message["content"]) == question
    assert prompt.question(question) is None


def test_another_text_can_take_the_place_of_the_instruction(source: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Be brief.\n")
    card = prepare("dapo_math_17k", source, tmp_path / "out", prompt=str(tmp_path / "own.txt"), heldout=1)
    assert card["prompt"] == {"key": "own", "text": "Be brief."}
    assert rows_of(tmp_path / "out", "train")[0]["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 0 + \\frac{1}{1}?"},
    ]


def test_the_command_line(source: Path, assets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert main(["prepare", "dapo_math_17k", "--source", str(source), "--heldout", "2"]) == 0
    said = capsys.readouterr().out
    assert "75 rows read, 51 duplicates, 2 dropped (several answers to one question), 22 kept" in said
    assert "train 20, heldout 2" in said
    assert "overlap with aime24: not prepared, so not checked" in said
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*DATA_SETS, "tiny_neutral", "chain_sum"))
    assert "heldout" in listed
    monkeypatch.setattr("harness.data.asset_builders", lambda: {"tiny": lambda seed: Path(f"built-{seed}")})
    assert main(["prepare", "tiny", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "built-3\n"
    for arguments in (["prepare", "tiny", "--source", "x"], ["prepare", "aime24", "--source", str(source)]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
