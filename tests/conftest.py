"""What all tests may use."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.chaos import figures
from tests.databases import database_url, databases, durable_postgres, engine, postgres
from tests.loaded_timetable import loaded_timetable

__all__ = [
    "database_url",
    "databases",
    "durable_postgres",
    "engine",
    "loaded_timetable",
    "postgres",
]

# a slow machine breaks no property
settings.register_profile("flightmesh", deadline=None)
settings.load_profile("flightmesh")


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the figures of a test whatever pytest captures."""
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if (lines := figures.untold()) and capture is not None:
        with capture.global_and_fixture_disabled():
            print(*("", *lines), sep="\n", flush=True)
