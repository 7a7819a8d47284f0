import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.figures import LONG
from tests.chaos.whole_system.system import WholeSystem, whole_system
from tests.databases import ENGINES
from tests.loaded_timetable import LoadedTimetable

_ENGINES: Final = ENGINES if LONG else ("sqlite",)


@pytest.fixture(scope="package")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that is kept where a row fails: databases, history and logs are the evidence.

    Not one of pytest's: those are closed to PostgreSQL's user whenever another run begins.
    """
    made = Path(tempfile.mkdtemp(prefix="flightmesh-"))
    failed = request.session.testsfailed
    yield made
    if request.session.testsfailed == failed:
        shutil.rmtree(made)


@pytest.fixture(scope="package", params=_ENGINES)
async def system(
    request: pytest.FixtureRequest, folder: Path, loaded_timetable: LoadedTimetable
) -> AsyncIterator[WholeSystem]:
    """One system for all rows: what one leaves behind, the next one is judged by too."""
    own = folder / request.param
    own.mkdir()
    async with whole_system(own, request.param, loaded_timetable) as started:
        yield started
