"""From questions to ``<out>/<split>.parquet`` in verl's schema and ``card.json``, which says how they came about."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import ConfigError
from harness.paths import assets_dir, python
from harness.rundir import write_json
from harness.tasks.hub import prompts, sources
from harness.tasks.hub.contamination import overlap
from harness.tasks.hub.images import BLANK, Pictures, blank
from harness.tasks.hub.questions import Question, collect
from harness.tasks.hub.table import BENCHMARKS, DATA_SETS, DataSet

CARD = "card.json"
ROWS = 128  # of a row group: what is in memory at a time, images included


def folder_of(name: str) -> Path:
    """Where a data set is prepared unless told otherwise: ``data/<name>`` beside the assets that are built here."""
    return assets_dir() / "data" / name


def prepared(name: str, seed: int = 0) -> Path:
    """The folder of a prepared data set, for ``asset:<name>/<split>.parquet``; ``ConfigError`` if it is not there.

    ``seed`` is that of assets that are built here, and has no part in this.
    """
    folder = folder_of(name)
    if not (folder / CARD).is_file():
        raise ConfigError(f"{name} is not prepared in {folder}; run `{python()} -m harness.data prepare {name}`")
    return folder


def builders() -> dict[str, Callable[[int], Path]]:
    """``prepared`` of every data set, as ``harness.tasks.registry.asset_builders`` has them."""
    return {name: partial(prepared, name) for name in DATA_SETS}


def card_of(folder: Path) -> dict[str, Any] | None:
    """The card of a prepared folder, None where there is none."""
    path = folder / CARD
    return json.loads(path.read_text()) if path.is_file() else None


def prepare(
    name: str,
    source: Path | None = None,
    out: Path | None = None,
    prompt: str | None = None,
    seed: int = 0,
    heldout: int | None = None,
    drop_invalid: bool = False,
) -> dict[str, Any]:
    """Make the folder of one data set anew, and return its card. The same files and settings give the same bytes.

    source: a folder with the table's files, else they are downloaded; prompt: a key or a file in place of the table's;
    seed: of the choice of the held-out questions; heldout: their number. ``extra_info.index`` is a question's place
    among all questions that were kept. Raises ``ConfigError``; then ``out`` is as it was.
    """
    if name not in DATA_SETS:
        raise ConfigError(f"no data set {name}; there are {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[name]
    instruction = prompts.load(prompt or data_set.prompt)
    out = (out or folder_of(name)).absolute()
    if out.exists() and not (out / CARD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not a prepared data set; give another --out, or move it away")
    files = sources.find(name, data_set, source)
    with ExitStack() as stack:
        pictures = {
            part.name: stack.enter_context(Pictures(files[part.pictures].path))
            for part in data_set.parts
            if part.pictures
        }
        questions, counts = collect(data_set, files, pictures, drop_invalid)
        splits = split(name, data_set, len(questions), seed, heldout)
        draft = stack.enter_context(_draft(out))
        hashes = {}
        for one, indices in splits.items():
            path = draft / f"{one}.parquet"
            _write(path, one, indices, questions, pictures, instruction)
            hashes[one] = {"rows": len(indices), "sha256": _sha256(path)}
        card = {
            "name": name,
            "counts": {part: count.card() for part, count in counts.items()},
            "splits": hashes,
            "content_hash": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
            "prompt": {"key": instruction.key, "text": instruction.text},
            "seed": seed,
            "sources": [files[file].card() for file in dict.fromkeys(data_set.files)],
            "overlap": _overlaps(out.parent, splits["train"], questions) if "train" in splits else {},
        }
        write_json(draft / CARD, card)
    return card


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A folder that takes the place of ``out`` if all goes well, and else leaves nothing behind."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".draft", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp's is for one user alone
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def split(name: str, data_set: DataSet, n: int, seed: int, heldout: int | None) -> dict[str, list[int]]:
    """The indices 0..n-1 by split, each in rising order; the held-out ones are drawn by ``seed``. ``ConfigError``."""
    if seed < 0:
        raise ConfigError(f"{name}: --seed must not be negative, and is {seed}")
    if data_set.heldout is None:
        if heldout is not None:
            raise ConfigError(f"{name} is a benchmark: all of its rows are test rows, so it takes no --heldout")
        return {"test": list(range(n))}
    size = data_set.heldout if heldout is None else heldout
    if not 1 <= size < n:
        raise ConfigError(f"{name}: --heldout must be from 1 to {n - 1} (one less than its questions), not {size}")
    chosen = {int(index) for index in np.random.default_rng(seed).permutation(n)[:size]}
    return {"train": [index for index in range(n) if index not in chosen], "heldout": sorted(chosen)}


def _write(
    path: Path,
    split_name: str,
    indices: Sequence[int],
    questions: Sequence[Question],
    pictures: Mapping[str, Pictures],
    instruction: prompts.Prompt,
) -> None:
    schema = _schema(bool(pictures))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(indices):
            rows = []
            for index in batch:
                question = questions[index]
                row = _row(index, split_name, question, instruction)
                if pictures:
                    row["images"] = [
                        {"bytes": blank() if name == BLANK else pictures[question.data_source].read(name), "path": name}
                        for name in question.images
                    ]
                rows.append(row)
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _batches(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    return (indices[start : start + ROWS] for start in range(0, len(indices), ROWS))


def _row(index: int, split_name: str, question: Question, instruction: prompts.Prompt) -> dict[str, Any]:
    return {
        "data_source": question.data_source,
        "prompt": instruction.messages(question.text),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": question.answer},
        "extra_info": {
            "index": index,
            "split": split_name,
            "question": question.text,
            "row_id": question.row_id,
        },
    }


def _schema(images: bool) -> pa.Schema:
    """verl's columns. An image is its encoded bytes, which verl's RLHFDataset opens."""
    text = pa.string()
    fields: dict[str, pa.DataType] = {
        "data_source": text,
        "prompt": pa.list_(pa.struct({"role": text, "content": text})),
        "ability": text,
        "reward_model": pa.struct({"style": text, "ground_truth": text}),
        "extra_info": pa.struct({"index": pa.int64(), "split": text, "question": text, "row_id": text}),
    }
    if images:
        fields["images"] = pa.list_(pa.struct({"bytes": pa.binary(), "path": text}))
    return pa.schema(fields)


def _overlaps(beside: Path, train: Iterable[int], questions: Sequence[Question]) -> dict[str, Any]:
    """Of the training questions with each benchmark that is prepared beside them; "not prepared" for the others."""
    asked = {index: questions[index].text for index in train}
    return {
        name: overlap(asked, asked_in(beside / name / "test.parquet"))
        if (beside / name / CARD).is_file()
        else "not prepared"
        for name in BENCHMARKS
    }


def asked_in(path: Path) -> dict[int, str]:
    """``{index: question}`` of a prepared file."""
    column = pq.read_table(path, columns=["extra_info"]).column("extra_info").to_pylist()
    return {row["index"]: row["question"] for row in column}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
