"""Versions of prices, over snapshots, other histories of schedule's, and flights that come back."""

from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise

from sqlalchemy import Connection

from pricing import tables
from pricing.store import snapshot
from tests.pricing.conftest import World
from tests.pricing.timetable import flight, removed


async def version(world: World, flight_id: str = "flt_a") -> int:
    """Of the prices of a flight."""
    return (await world.pricing.prices([flight_id]))[0].version


async def known(world: World) -> list[str]:
    """The flights that have prices, as a snapshot sends them in pages of two."""
    keys: list[str] = []
    while page := await world.database.read(partial(after, keys)):
        keys += page
    return keys


def after(keys: list[str], connection: Connection) -> list[str]:
    """The next two ids after the last of these."""
    return [key for key, _ in snapshot(connection, keys[-1] if keys else None, 2)]


async def test_a_flight_that_comes_back_goes_on_with_higher_versions(world: World) -> None:
    """Neither of its prices nor of a cabin's is a version used again, whatever happened between."""
    seen: list[tuple[int, ...]] = []
    for available in (100, 50):
        await world.fly(flight(available=available), flight("flt_b"))
        await world.fly(flight(version=2, available=available - 30))
        (priced,) = await world.pricing.prices(["flt_a"])
        seen.append((priced.version, *(price.version for price in priced.prices)))
        await world.apply(removed("flt_a"))
    await world.fly(flight("flt_a"))
    (priced,) = await world.pricing.prices(["flt_a"])
    seen.append((priced.version, *(price.version for price in priced.prices)))
    head = await world.database.read(tables.outbox.head)

    assert all(
        later > before
        for first, second in pairwise(seen)
        for before, later in zip(first, second, strict=True)
    )
    assert head is not None
    assert seen[-1][0] == head.seq


async def test_a_snapshot_of_another_history_replaces_what_was_there(world: World) -> None:
    """Schedule was restored: its versions are lower now, and its flights are sold all the same."""
    await world.fly(flight(version=9, available=10), flight("flt_b", version=9))
    before = await version(world)
    await world.snapshot_starts()
    await world.fly(flight(version=2, available=90))
    await world.fly(flight(version=1, available=50))  # older within the new history
    await world.snapshot_ends()
    (priced,) = await world.pricing.prices(["flt_a"])

    assert await known(world) == ["flt_a"]
    assert (priced.state.version, priced.state.cabins[0].available) == (2, 90)
    assert priced.version == before + 1


async def test_repricing_during_a_snapshot_keeps_nobody_alive(world: World) -> None:
    """A flight that schedule no longer has goes, also where its price came due meanwhile."""
    await world.fly(flight("flt_a"), flight("flt_b"))
    await world.snapshot_starts()
    await world.pricing.update_fare("r", "JFK", "LAX", Decimal(300), None)
    followed = await world.pricing.follow_fare()
    await world.fly(flight("flt_b"))
    await world.snapshot_ends()

    assert followed
    assert await known(world) == ["flt_b"]


async def test_snapshots_go_through_ids_by_their_bytes(world: World) -> None:
    """Whatever the locale of the database: each once, in one order."""
    ids = ["flt_a", "flt_B", "flt-c", "flt_Z", "flt.d", "FLT_a", "flt_ab", "flt_a1", "~", "_"]
    await world.fly(*map(flight, ids))
    world.clock.forward(timedelta(seconds=1))

    assert await known(world) == sorted(ids)
