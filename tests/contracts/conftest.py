"""Each suite runs against the fake that booking is tested with, and against the real service."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.pricing_parties import PricingParty, fake_pricing, real_pricing
from tests.contracts.schedule_parties import ScheduleParty, fake_schedule, real_schedule

PRICING = {"fake": fake_pricing, "real": real_pricing}
SCHEDULE = {"fake": fake_schedule, "real": real_schedule}


@pytest.fixture(params=PRICING)
async def pricing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PricingParty]:
    """Pricing with two flights for sale."""
    async with PRICING[request.param](tmp_path) as party:
        yield party


@pytest.fixture(params=SCHEDULE)
async def schedule(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ScheduleParty]:
    """Schedule with an empty timetable."""
    async with SCHEDULE[request.param](tmp_path) as party:
        yield party
