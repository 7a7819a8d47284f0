import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from flight_search import freshness
from flights.search.v1 import search_pb2 as pb
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import EPOCH, flight_event, price_event
from tests.flight_search.systems import asking, at_least, running_search, until


async def test_a_new_instance_is_warm_after_both_snapshots(tmp_path: Path) -> None:
    """Half of the data is not enough: it serves once every owner has said all it has."""
    async with running_search(tmp_path / "search.db") as system:
        warm = asyncio.create_task(system.sources.warm())
        system.schedule.snapshot([flight_event("a")])
        system.schedule.bookmark()
        await system.followers["schedule"].caught_up.wait()
        system.pricing.start_snapshot()
        system.pricing.rows([price_event("a")])
        await until(lambda: system.model.count(0, 10)[:2] == (1, 1))
        early = warm.done()
        system.pricing.end()
        system.pricing.snapshot([price_event("a")])
        system.pricing.bookmark()
        await warm

    assert not early
    assert system.pricing.asked == [None, None]


async def test_a_restarted_instance_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a complete file it answers though the owners say nothing, and resumes their streams."""
    monkeypatch.setattr(freshness, "CATCH_UP", timedelta(milliseconds=20))
    path = tmp_path / "search.db"
    async with running_search(path) as system:
        await system.first_snapshots(flights=[flight_event("a")], prices=[price_event("a")])
        system.schedule.events([flight_event("b")], 1)
        system.pricing.events([price_event("b", 50)], 1)
        wanted = [at_least("schedule", 1), at_least("pricing", 1)]
        request = pb.SearchItinerariesRequest(query=asking(), min_positions=wanted)
        before = await system.stub.SearchItineraries(request, timeout=30)
    async with running_search(path) as system:
        await system.sources.warm()
        after = await system.stub.SearchItineraries(request, timeout=30)
        await system.schedule.asked_again.wait()
        await system.pricing.asked_again.wait()

    assert [i.itinerary_id for i in after.itineraries] == [
        i.itinerary_id for i in before.itineraries
    ]
    assert len(after.itineraries) == 2
    assert {i.price_basis for i in after.itineraries} == {pb.PRICE_BASIS_INDICATIVE}
    assert not after.positions[0].HasField("lag")
    assert system.schedule.asked == system.pricing.asked == [Cursor(epoch=EPOCH, seq=1)]


async def test_a_restarted_instance_waits_for_a_snapshot_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that an owner is about to replace is not served until it has."""
    monkeypatch.setattr(freshness, "CATCH_UP", timedelta(milliseconds=50))
    path = tmp_path / "search.db"
    async with running_search(path) as system:
        await system.first_snapshots(flights=[flight_event("a")], prices=[price_event("a")])
    async with running_search(path) as system:
        system.schedule.start_snapshot(3, epoch="new")
        system.schedule.rows([flight_event("b")])
        await until(lambda: not system.model.position("schedule"))
        warm = asyncio.create_task(system.sources.warm())
        await asyncio.sleep(0.1)
        early = warm.done()
        system.schedule.end()
        system.schedule.snapshot([flight_event("b")], 3, epoch="new")
        await warm

    assert not early


async def test_a_new_history_replaces_the_old_one(tmp_path: Path) -> None:
    """After an owner's restore from a backup, its snapshot overwrites what was newer before."""
    async with running_search(tmp_path / "search.db") as system:
        await system.first_snapshots(
            flights=[flight_event("a", seats=1, version=9), flight_event("b")],
            prices=[price_event("a"), price_event("b")],
        )
        system.schedule.end()
        system.schedule.snapshot([flight_event("a", seats=5, version=2)], 7, epoch="restored")
        wanted = [at_least("schedule", 7, epoch="restored")]
        request = pb.SearchItinerariesRequest(query=asking(), min_positions=wanted)
        await until(lambda: "restored" in [p.epoch for p in system.sources.positions()])
        answer = await system.stub.SearchItineraries(request, timeout=30)

    (itinerary,) = answer.itineraries
    assert [(s.flight_id, s.seats_available) for s in itinerary.segments] == [("a", 5)]
    assert system.schedule.asked[1] == Cursor(epoch=EPOCH, seq=0)
