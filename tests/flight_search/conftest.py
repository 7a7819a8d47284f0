from collections.abc import Iterator
from pathlib import Path

import pytest

from flight_search.read_model import ReadModel
from tests.flight_search.timetables import DIRECTORY


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ReadModel]:
    """An empty read model."""
    with ReadModel(tmp_path / "search.db", DIRECTORY) as opened:
        yield opened
