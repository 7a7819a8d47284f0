import asyncio
import csv
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from schedule.domain import FlightStatus
from schedule.replay import REASON, Disruptor, Pace, replay
from schedule.tables import outbox
from schedule.timetable import Airports, Disruption, Replay, Source, shipped, source_day
from tests.schedule.conftest import System
from tests.schedule.samples import NOW, sample

DAY = date(2027, 2, 5)
"""Flown as 8 February 2013: a blizzard."""
HOUR = timedelta(hours=1)


def disruptions_of(airports: Airports, day: date) -> list[Disruption]:
    """What goes wrong on a day."""
    with shipped() as lines:
        return Replay(airports).disruptions(Source(lines), day)


def counted_by_hand(day: date) -> Counter[str]:
    """What the source says of a day, read without the code under test."""
    flown = source_day(day)
    counts: Counter[str] = Counter()
    with shipped() as lines:
        for row in csv.DictReader(lines):
            if (int(row["month"]), int(row["day"])) != (flown.month, flown.day):
                continue
            counts["cancelled"] += 2 * (row["dep_delay"] == "")
            counts["late out"] += row["dep_delay"] != "" and int(row["dep_delay"]) >= 15
            late = row["dep_delay"] != "" and int(row["arr_delay"] or 0) >= 35
            counts["late back"] += late
    return counts


@pytest.mark.parametrize("day", [DAY, date(2027, 5, 1)])
def test_what_goes_wrong_is_what_went_wrong(airports: Airports, day: date) -> None:
    """As many delays and cancellations as the source has, in the order in which they are known."""
    found = disruptions_of(airports, day)
    expected = counted_by_hand(day)
    kinds = Counter("cancelled" if each.delay is None else "late" for each in found)

    assert kinds["cancelled"] == expected["cancelled"]
    assert kinds["late"] == expected["late out"] + expected["late back"] > 50
    assert [each.at for each in found] == sorted(each.at for each in found)
    assert all(each.delay is None or each.delay >= timedelta(minutes=15) for each in found)


async def test_flights_are_disrupted_once(system: System, airports: Airports) -> None:
    """Those that are there become late or are cancelled; a second replay changes nothing."""
    found = disruptions_of(airports, DAY)
    with shipped() as lines:
        ((_, flights),) = Replay(airports).days(Source(lines), [DAY])
    await system.add(*flights)
    first = await replay(system.stub, [DAY], speed=1e9)
    seq = await system.db.read(outbox.head)
    again = await replay(system.stub, [DAY], speed=1e9)
    now = await system.flights()
    wrong = {each.flight_id: each.delay for each in found}

    assert first == again
    assert min(first["delayed"], first["cancelled"]) > 100
    assert first["delayed"] + first["cancelled"] == len(found)
    assert await system.db.read(outbox.head) == seq
    for flight in now.values():
        if flight.flight_id not in wrong:
            assert flight.status is FlightStatus.SCHEDULED
        elif (delay := wrong[flight.flight_id]) is None:
            assert (flight.status, flight.status_reason) == (FlightStatus.CANCELLED, REASON)
        else:
            assert flight.departure_time - flight.scheduled_departure_time == delay


async def test_flights_that_are_not_there_are_counted(system: System) -> None:
    """Another timetable, or flights that have left, are no reason to stop."""
    left = sample(1, in_hours=-1)
    await system.add(left)
    disruptor = Disruptor(system.stub)
    for flight_id, delay in ((left.flight_id, HOUR), ("flt_unknown", HOUR), ("flt_gone", None)):
        await disruptor.tell(Disruption(at=NOW, flight_id=flight_id, delay=delay))

    assert disruptor.told == {"refused: FLIGHT_DEPARTED": 1, "refused: FLIGHT_NOT_FOUND": 2}


@pytest.mark.parametrize("speed", [36_000.0, 360_000.0])
async def test_time_passes_so_many_times_faster(speed: float) -> None:
    """What is due an hour later comes that much earlier, what is over at once."""
    start = datetime(2026, 12, 1, tzinfo=UTC)
    clock = asyncio.get_running_loop().time
    began = clock()
    pace = Pace(start, speed)
    await pace.reach(start - HOUR)
    await pace.reach(start + HOUR)

    assert clock() - began >= 3600 / speed
