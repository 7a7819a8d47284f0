from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.booking.system import System, booking_system


@pytest.fixture
def booking_url(tmp_path: Path) -> str:
    """Where instances keep their bookings; a module that is about storage says: on each engine."""
    return f"sqlite:///{tmp_path}/booking.db"


@pytest.fixture
async def system(tmp_path: Path, booking_url: str) -> AsyncIterator[System]:
    """Fakes of pricing and schedule, and no instance of booking yet."""
    async with booking_system(tmp_path, booking_url) as made:
        yield made
