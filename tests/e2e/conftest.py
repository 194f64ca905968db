"""All runs of a test session are forks of one process that has imported their packages, as in a sweep."""

from collections.abc import Iterator

import pytest

from harness.run import prefork


@pytest.fixture(autouse=True, scope="session")
def shared_imports() -> Iterator[None]:
    with prefork.standing():
        yield
