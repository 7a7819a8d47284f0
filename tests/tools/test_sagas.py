from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.booking.system import System, booking_system
from tests.fakes.faults import Fault, Gate
from tools.sagas import HEADINGS, show, span, unfinished


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """Fakes of pricing and schedule, and no instance of booking yet."""
    async with booking_system(tmp_path, f"sqlite:///{tmp_path}/booking.db") as made:
        yield made


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(milliseconds=850), "850ms"),
        (timedelta(seconds=12.34), "12.3s"),
        (timedelta(minutes=2, seconds=5), "2m05s"),
        (timedelta(days=1, hours=1, minutes=7), "25h07m"),
        (-timedelta(seconds=3), "0ms"),
    ],
    ids=str,
)
def test_span(length: timedelta, said: str) -> None:
    """Time spans are short, and never negative."""
    assert span(length) == said


async def test_rows(system: System) -> None:
    """Unfinished sagas fill a table over several pages, and whether there are more is known."""
    instance = await system.start()
    gates = [Gate() for _ in range(3)]
    system.schedule.faults.plan("HoldSeats", *(Fault(gate=gate) for gate in gates))
    calls = [
        instance.stub.CreateBooking(await system.request(1), metadata=system.user()) for _ in gates
    ]
    for gate in gates:
        await gate.reached.wait()

    token = system.user("olga", "operator")[0][1].removeprefix("Bearer ")
    some, more = await unfinished(instance.stub, token, 2)
    rows, no_more = await unfinished(instance.stub, token, 3)
    for gate in gates:
        gate.open()
    for call in calls:
        await call

    assert (len(some), more, no_more) == (2, True, False)
    assert rows[:2] != rows[1:]
    assert {len(row) for row in rows} == {len(HEADINGS)}
    assert {row[1] for row in rows} == {"hold_seats"}
    assert await unfinished(instance.stub, token, 3) == ([], False)


async def test_nobody_there() -> None:
    """An instance that does not answer is named, with what came instead."""
    with pytest.raises(SystemExit, match="booking at localhost:1 says UNAVAILABLE"):
        await show("localhost:1", "token", 10)
