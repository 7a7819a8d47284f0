"""What the fault rows share: figures that are printed whatever pytest captures, and processes."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos import figures
from tests.chaos.processes import Zygote, zygote


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if (lines := figures.untold()) and capture is not None:
        with capture.global_and_fixture_disabled():
            print(*("", *lines), sep="\n", flush=True)


@pytest.fixture(scope="session")
async def forks() -> AsyncIterator[Zygote]:
    """A process that has everything imported, and forks services within a moment."""
    async with zygote() as started:
        yield started
