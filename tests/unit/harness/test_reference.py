"""The generated pages of docs are those that the generator writes now, and it reads conf as YAML does."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness import reference
from harness.paths import CONF, ROOT
from harness.rundir import EVAL_COLUMNS, ROUTING_COLUMNS, SEQUENCE_COLUMNS


@pytest.mark.parametrize(("path", "page"), reference.PAGES.items(), ids=lambda value: getattr(value, "name", ""))
def test_the_committed_page_is_the_generated_one(path: Path, page: Callable[[], str]) -> None:
    assert path.exists(), f"run `make docs`: {path.relative_to(ROOT)} is missing"
    assert path.read_text() == page(), f"run `make docs`: {path.relative_to(ROOT)} is not what the generator writes"


def test_every_setting_of_the_project_is_there_with_its_value() -> None:
    def leaves(of: dict[str, object], prefix: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in of.items():
            block = isinstance(value, dict) and name == "watch"
            found |= leaves(value, f"{prefix}{name}.") if block else {f"{prefix}{name}": value}  # type: ignore[arg-type]
        return found

    expected = leaves(yaml.safe_load(reference.MAIN.read_text())["harness"], "harness.")
    read = {one.key: yaml.safe_load(one.value) for one in reference.settings(reference.MAIN) if one.value}
    assert read == expected


def test_every_setting_says_what_it_means() -> None:
    assert [one.key for one in reference.settings(reference.MAIN) if not one.comment] == []


def test_every_option_of_every_group_is_there_and_says_what_it_is() -> None:
    folders = {str(file.parent.relative_to(CONF)) for file in CONF.rglob("*.yaml") if file.parent != CONF}
    assert set(reference.GROUPS) == folders
    options = [file for group in reference.GROUPS for file in (CONF / group).glob("*.yaml")]
    assert [str(file) for file in options if not reference.summary(file)] == []
    page = reference.configuration_page()
    assert [file.stem for file in options if f"| `{file.stem}`" not in page] == []


def test_defaults_are_those_of_the_main_file() -> None:
    usual = reference.defaults()
    assert usual["experiment"] == "tiny"
    assert usual["hydra/launcher"] == "local"
    assert "sweep" not in usual or usual["sweep"] == "null"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# @package _global_\n# Dr. GRPO, arXiv 2503.20783: two.\n# More.\nkey: 1\n",
            "Dr. GRPO, arXiv 2503.20783: two",
        ),
        ("# One line\n# goes on.\n", "One line goes on"),
        ("key: 1  # no header\n", ""),
    ],
)
def test_a_summary_is_the_first_sentence(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert reference.summary(file) == expected


def test_every_recorded_column_is_there() -> None:
    page = reference.records_page()
    for name in (*SEQUENCE_COLUMNS, *ROUTING_COLUMNS, *EVAL_COLUMNS):
        assert f"| `{name}` |" in page, name


def test_links_between_the_documents_lead_somewhere() -> None:
    files = [*reference.DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md"]
    for file in files:
        for link in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", file.read_text()):
            target = (file.parent / link[0]).resolve() if link[0] else file
            assert target.exists(), f"{file.name}: {link[0]}"
            if link[1] and target.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert link[1].removeprefix("#") in slugs, f"{file.name}: {link[0]}{link[1]}"
