"""Every data set that can be prepared: where its files are, how their rows look, and what is made of them.

Repositories are dataset repositories of huggingface.co. A revision is a commit where one is known; ``sha256`` is that
of the published file, by which a copy in a folder is recognised. The layouts are those that public code reads: verl's
recipe/dapo and examples/data_preprocess, and for each benchmark scripts that pin its revision and columns.
"""

from dataclasses import dataclass

BUILT_HERE = ("tiny", "tiny_neutral", "chain_sum")  # harness.tasks.registry.asset_builders makes these from nothing


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset repository."""

    repo: str
    path: str
    revision: str = "main"
    sha256: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where a row keeps what: dotted paths, a number for a place in a list. The first name is the file's column.

    An answer inside ``\\boxed{}`` is taken out of it. ``instruction`` is the prompt around the question, if any;
    ``images`` a list of names in the zip file, for which the question has ``<image>`` in the same order.
    """

    question: str
    answer: str
    row_id: str
    images: str | None = None
    instruction: str | None = None

    @property
    def columns(self) -> list[str]:
        paths = (self.question, self.answer, self.row_id, self.images)
        return list(dict.fromkeys(path.partition(".")[0] for path in paths if path))


@dataclass(frozen=True)
class Part:
    """Rows of one file (parquet or JSON lines); ``name`` becomes their ``data_source``."""

    name: str
    rows: HubFile
    layout: Layout
    pictures: HubFile | None = None


@dataclass(frozen=True)
class DataSet:
    """What ``prepare`` makes. heldout: rows kept apart from training; None for a benchmark, all of whose rows are test.

    prompt: the instruction of all its rows. blank_image: a question without an image gets a blank one.
    """

    parts: tuple[Part, ...]
    prompt: str
    heldout: int | None = None
    blank_image: bool = False

    @property
    def files(self) -> list[HubFile]:
        return [file for part in self.parts for file in (part.rows, part.pictures) if file]

    @property
    def splits(self) -> tuple[str, ...]:
        return ("test",) if self.heldout is None else ("train", "heldout")


# 1,791,700 rows: 17,917 rows, each with an id of its own, 100 times over; some questions have several ids, and a few
# several answers. verl's recipe/dapo trains on this file.
DAPO = Part(
    "dapo_math_17k",
    HubFile(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "data/dapo-math-17k.parquet",
        "65877096c24ffa7abc4e4fa5edb95cf3413a5674",
        "534375d6bb8630d22ab46a56e11f2ffec1d288d8f7d04099bc82d68948705941",
    ),
    Layout("prompt.0.content", "reward_model.ground_truth", "extra_info.index", instruction="answer_line"),
)
# 38,870 rows; image names are relative ("images/<qid>-0.jpg"), answers boxed. In some questions <image> is missing.
VIRL = Part(
    "virl39k",
    HubFile("TIGER-Lab/ViRL39K", "39Krelease.parquet"),
    Layout("question", "answer", "qid", images="image"),
    pictures=HubFile("TIGER-Lab/ViRL39K", "images.zip"),
)


def _benchmark(name: str, file: HubFile, layout: Layout) -> DataSet:
    return DataSet((Part(name, file, layout),), prompt="answer_line")


DATA_SETS: dict[str, DataSet] = {
    "dapo_math_17k": DataSet((DAPO,), prompt="answer_line", heldout=128),
    "virl39k": DataSet((VIRL,), prompt="think_answer", heldout=256),
    "virl39k_dapo": DataSet((VIRL, DAPO), prompt="think_answer", heldout=256, blank_image=True),
    # 30 questions; "solution" holds nothing but the boxed answer.
    "aime24": _benchmark(
        "aime24",
        HubFile("math-ai/aime24", "test-00000-of-00001.parquet", "83a7f387baaa524a8bda0022eac0541582297103"),
        Layout("problem", "solution", "id"),
    ),
    "aime25": _benchmark(  # 30 questions
        "aime25",
        HubFile(
            "math-ai/aime25",
            "test.jsonl",
            "563bb8404243c5f09de6ec262f2db674fe5bce9b",
            "b4e273c02d3e7fe1b74b59eae768fc8230bfb0f79539890cb56f4361caac0331",
        ),
        Layout("problem", "answer", "id"),
    ),
    "amc23": _benchmark(  # 40 questions
        "amc23",
        HubFile("math-ai/amc23", "test-00000-of-00001.parquet", "80815d37005feb82cd7f8fbc6901d5d3eff43057"),
        Layout("question", "answer", "id"),
    ),
    "math500": _benchmark(  # 500 questions
        "math500",
        HubFile(
            "HuggingFaceH4/MATH-500",
            "test.jsonl",
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
        ),
        Layout("problem", "answer", "unique_id"),
    ),
}
BENCHMARKS = tuple(name for name, data_set in DATA_SETS.items() if data_set.heldout is None)
