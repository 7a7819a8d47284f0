from collections.abc import Iterator
from pathlib import Path

import pytest

from flight_search.read_model import ReadModel


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ReadModel]:
    """An empty read model."""
    with ReadModel(tmp_path / "search.db") as opened:
        yield opened
