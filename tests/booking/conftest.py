from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.booking.system import System, booking_system


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """Fakes of pricing and schedule, and no instance of booking yet."""
    async with booking_system(tmp_path) as made:
        yield made
