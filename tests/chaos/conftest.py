"""What the fault rows share: processes."""

from collections.abc import AsyncIterator

import pytest

from tests.chaos.processes import Zygote, zygote


@pytest.fixture(scope="session")
async def forks() -> AsyncIterator[Zygote]:
    """A process that has everything imported, and forks services within a moment."""
    async with zygote() as started:
        yield started
