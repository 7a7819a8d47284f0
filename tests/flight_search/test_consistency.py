"""What a reader of several instances may rely on, one test or more for each model that is claimed.

Instances are fed differently: what one has seen, another may be about to see.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flight_search.changes import Change
from flight_search.domain import Position, SortOrder
from flight_search.freshness import FollowedSources
from flight_search.read_model import PRICING, SCHEDULE, ReadModel
from flight_search.service import ItinerarySearch
from flight_search.upstreams import ReadModelInbox, flight_change
from flights.schedule.v1.schedule_pb2 import FlightEvent
from flights.search.v1 import search_pb2 as pb
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import flight_event, price_event
from tests.flight_search.systems import NOW, System, asking, at_least, running_search, until
from tests.flight_search.timetables import DIRECTORY, Oracle, feed, prices, query
from tests.flight_search.worlds import KEYS, Keys, World, keys, keys_of, new_model, searching

KEPT = frozenset(KEYS[:40])
"""Flights of which nothing is said while pages are turned."""


async def seats(
    system: System,
    *positions: pb.SourcePosition,
    preferred: Sequence[pb.SourcePosition] = (),
    within: float = 5,
) -> list[int]:
    """The seats of each flight that is found by an answer that has got so far."""
    request = pb.SearchItinerariesRequest(
        query=asking(), min_positions=positions, preferred_positions=preferred
    )
    answer = await system.stub.SearchItineraries(request, timeout=within)
    return [i.segments[0].seats_available for i in answer.itineraries]


async def begin(*systems: System) -> None:
    """All start with one flight of nine seats."""
    for system in systems:
        await system.first_snapshots(flights=[flight_event("a")], prices=[price_event("a")])


async def test_what_was_written_is_read_at_any_instance(tmp_path: Path) -> None:
    """Read your writes: an instance that has not heard of a write yet waits until it has."""
    written = at_least("schedule", 1)
    change = flight_event("a", seats=2, version=2)
    async with (
        running_search(tmp_path / "ahead.db") as ahead,
        running_search(tmp_path / "behind.db") as behind,
    ):
        await begin(ahead, behind)
        ahead.schedule.events([change], 1)
        there = await seats(ahead, written)
        waiting = asyncio.create_task(seats(behind, written))
        meanwhile = await seats(behind)
        early = waiting.done()
        behind.schedule.events([change], 1)
        here = await waiting

    assert (there, meanwhile, early, here) == ([2], [9], False, [2])


async def test_a_write_that_does_not_arrive_ends_at_the_deadline(tmp_path: Path) -> None:
    """An instance that is cut off says so in the caller's time, and nothing older in its place."""
    async with running_search(tmp_path / "search.db") as system:
        await begin(system)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await seats(system, at_least("schedule", 999), within=0.2)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_position_that_is_preferred_is_waited_for(tmp_path: Path) -> None:
    """As one that is needed, where it comes in a moment."""
    async with running_search(tmp_path / "search.db") as system:
        await begin(system)
        waiting = asyncio.create_task(seats(system, preferred=[at_least("schedule", 1)]))
        meanwhile = await seats(system)
        early = waiting.done()
        system.schedule.events([flight_event("a", seats=2, version=2)], 1)
        answer = await waiting

    assert (meanwhile, early, answer) == ([9], False, [2])


async def test_a_position_that_is_preferred_and_does_not_come_is_done_without(
    tmp_path: Path,
) -> None:
    """An instance that is cut off, or in a snapshot, answers after a moment with what it has."""
    async with running_search(tmp_path / "search.db") as system:
        await begin(system)
        found = await seats(system, preferred=[at_least("schedule", 999)])

    assert found == [9]


@pytest.mark.parametrize(
    "position", [at_least("schedule", 999, epoch="another"), at_least("weather", 999)]
)
async def test_positions_of_other_histories_are_ignored(
    tmp_path: Path, position: pb.SourcePosition
) -> None:
    """What can't be compared is no obstacle."""
    async with running_search(tmp_path / "search.db") as system:
        await begin(system)
        found = await seats(system, position)

    assert found == [9]


async def test_a_minimum_is_not_met_in_the_middle_of_a_snapshot(tmp_path: Path) -> None:
    """While a snapshot replaces the data, a caller with a minimum waits for its end."""
    rows = [flight_event("a", seats=4, version=2)]
    async with running_search(tmp_path / "search.db") as system:
        await begin(system)
        system.schedule.start_snapshot(5)
        system.schedule.rows(rows)
        await until(lambda: not system.model.position("schedule"))
        waiting = asyncio.create_task(seats(system, at_least("schedule", 3)))
        plain = await seats(system)
        early = waiting.done()
        system.schedule.end()
        system.schedule.snapshot(rows, 5)
        answer = await waiting

    assert len(plain) == 1
    assert not early
    assert answer == [4]


class Caught:
    """A stream that is never late."""

    def __init__(self) -> None:
        self.caught_up = asyncio.Event()

    def lag(self) -> float:
        """None."""
        return 0.0


class Instance:
    """One instance that is told of one history of schedule, at its own pace."""

    def __init__(self, model: ReadModel, history: Sequence[FlightEvent]) -> None:
        sources = FollowedSources(model, {SCHEDULE: Caught(), PRICING: Caught()})
        self.search = ItinerarySearch(model, DIRECTORY, sources, lambda: NOW)
        self._inbox = ReadModelInbox(model, SCHEDULE, flight_change)
        self._history = history
        feed(model, [prices(flight) for flight in FLIGHTS])

    async def follow(self, draw: random.Random) -> None:
        """Hears of everything, in batches of any size."""
        await self._inbox.start_snapshot()
        await self._inbox.complete_snapshot(Cursor(epoch="e", seq=0))
        heard = 0
        while heard < len(self._history):
            batch = self._history[heard : heard + draw.randint(1, 300)]
            heard += len(batch)
            await self._inbox.apply(batch, Cursor(epoch="e", seq=heard))
            for _ in range(draw.randint(0, 6)):
                await asyncio.sleep(0)


FLIGHTS = ("a", "b", "c")


@pytest.mark.parametrize("seed", range(8))
async def test_who_sends_positions_along_never_goes_back(seed: int, tmp_path: Path) -> None:
    """Monotonic reads: whichever instance answers, nothing is older than what was seen before."""
    draw = random.Random(seed)
    history = [
        flight_event(draw.choice(FLIGHTS), seats=version, version=version)
        for version in range(1, 1500)
    ]
    with ExitStack() as stack:
        models = [stack.enter_context(ReadModel(tmp_path / f"{n}.db", DIRECTORY)) for n in range(2)]
        instances = [Instance(model, history) for model in models]
        following = [asyncio.create_task(each.follow(draw)) for each in instances]
        careful, careless = await asyncio.gather(
            *(reading(instances, following, draw, at_least) for at_least in (True, False))
        )

    assert careful == [sorted(seen) for seen in careful]
    assert careless != [sorted(seen) for seen in careless]  # or the test would show nothing


async def reading(
    instances: Sequence[Instance],
    following: Sequence[asyncio.Task[None]],
    draw: random.Random,
    minimum: bool,  # noqa: FBT001 - two readers that differ in this
) -> list[list[int]]:
    """The versions of each flight that a reader is shown, until nothing changes any more."""
    seen: dict[str, list[int]] = {flight: [] for flight in FLIGHTS}
    positions: Sequence[Position] = ()
    while not all(each.done() for each in following):
        search = draw.choice(instances).search
        page = await search.page(query(), at_least=positions if minimum else ())
        positions = page.positions
        for itinerary in page.itineraries:
            (segment,) = itinerary.segments
            seen[segment.flight_id].append(segment.seats_available)
        await asyncio.sleep(0)
    return list(seen.values())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), order=st.sampled_from(SortOrder), size=st.sampled_from([1, 2, 5])
)
def test_pages_are_whole_while_others_change_and_on_any_instance(
    seed: int, order: SortOrder, size: int
) -> None:
    """What is there all along is shown once, though the next page is another instance's.

    Each of the two hears of other changes between pages.
    """
    world, oracle = World(seed), Oracle()
    beginning = world.changes()
    for change in beginning:
        oracle.hear(change)
    places = oracle.find(world.asked, order, world.now)
    with new_model() as one, new_model() as other:
        feed(one, beginning)
        feed(other, beginning)
        shown = asyncio.run(turned(world, [one, other], order, size))

    assert [each for each in shown if KEPT.issuperset(each)] == [
        keys_of(place) for place in places if KEPT.issuperset(keys_of(place))
    ]


async def turned(
    world: World, models: Sequence[ReadModel], order: SortOrder, size: int
) -> list[Keys]:
    """The flights on all pages, each from the next instance, which has changed since."""
    searches = [searching(model, world.now) for model in models]
    shown: list[Keys] = []
    token, number = "", 0
    while True:
        page = await searches[number % 2].page(
            world.asked, order=order, page_size=size, token=token
        )
        shown += map(keys, page.itineraries)
        if not (token := page.next_page_token):
            return shown
        number += 1
        feed(models[number % 2], others_change(world, number))


def others_change(world: World, number: int) -> list[Change]:
    """News of flights that are not kept."""
    return [
        change._replace(version=number + 10)
        for change in world.changes()
        if change.flight_id not in KEPT
    ]
