import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from flights.schedule.v1.schedule_pb2 import (
    BatchGetFlightsRequest,
    FlightEvent,
    WatchFlightsRequest,
)
from gateway_bff.live import positions
from gateway_bff.live.hub import Hub, Missed
from gateway_bff.live.subscription import Subscription
from gateway_bff.live.topics import Flights
from gateway_bff.problems import Problem
from gateway_bff.telemetry import LiveMetrics
from streams.v1.stream_pb2 import Cursor
from tests.gateway_bff.event_source import Event, EventSource
from tests.gateway_bff.fakes import RefusalError
from tests.gateway_bff.owner import Owner, flights_of, schedule_owner

CAPACITY = 20
BUDGET = 5.0


class Watch:
    """A Watch RPC in this process."""

    def __init__(self, answers: AsyncIterator[Any]) -> None:
        self._answers = answers
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._answers

    def cancel(self) -> bool:
        """Give it up."""
        self.cancelled = True
        return True


class Stub:
    """The owner's RPCs in this process; `watches` are the streams that were begun."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.watches: list[Watch] = []
        self._asking = 0
        self.most_asking = 0

    def WatchFlights(self, request: WatchFlightsRequest, *, wait_for_ready: bool) -> Watch:
        """Follow."""
        assert wait_for_ready
        self.watches.append(Watch(self._owner.watch(request)))
        return self.watches[-1]

    async def BatchGetFlights(self, request: BatchGetFlightsRequest) -> Any:
        """Look."""
        self._asking += 1
        self.most_asking = max(self.most_asking, self._asking)
        await asyncio.sleep(0)
        try:
            return flights_of(self._owner, request)
        except RefusalError as error:
            none = grpc.aio.Metadata()
            code = grpc.StatusCode[type(error).__name__.removesuffix("RefusalError")]
            raise grpc.aio.AioRpcError(code, none, none) from error
        finally:
            self._asking -= 1


class World:
    """An owner and hubs of several gateways, which hear of it when a test says so."""

    def __init__(self, hubs: int = 1, capacity: int = CAPACITY) -> None:
        self.owner = schedule_owner()
        self.stub = Stub(self.owner)
        self.registry = CollectorRegistry()
        metrics = LiveMetrics(self.registry).of("schedule")
        topic = Flights(self.stub)  # type: ignore[arg-type]  # it has what is called
        self.hubs = [Hub(topic, metrics, capacity=capacity) for _ in range(hubs)]

    @property
    def hub(self) -> Hub[FlightEvent]:
        """The first one."""
        return self.hubs[0]

    async def tell(self, hub: Hub[FlightEvent] | None = None, most: int = 1_000) -> None:
        """Let a hub hear of the next events, as its follower would."""
        hub = hub or self.hub
        at = await hub.position()
        if at is None or not self.owner.keeps(at):
            await hub.start_snapshot()
            await hub.complete_snapshot(self.owner.cursor())
            return
        events = self.owner.history[at.seq : at.seq + most]
        await hub.apply(events, self.owner.cursor(at.seq + len(events)))

    async def joined(self, *flight_ids: str) -> tuple[Subscription[FlightEvent], EventSource]:
        """A client that was told the state, and what it knows."""
        subscription = self.hub.subscribe(flight_ids, 0)
        source = EventSource()
        state = await self.hub.state(subscription, forgiving=False, budget=BUDGET)
        source.feed(subscription.begin(subscription.origin, state))
        return subscription, source

    def metric(self, name: str, **labels: str) -> float | None:
        """What a metric says."""
        return self.registry.get_sample_value(name, {"source": "schedule", **labels})


def numbers(events: Sequence[Event]) -> list[tuple[str, int]]:
    """Flights and their numbers."""
    return [(event.data["flight_id"], event.data.get("distance_km", -1)) for event in events]


@pytest.fixture
async def world() -> World:
    """Two flights, and a hub that has reached their owner."""
    world = World()
    world.owner.put("flt_a", 1)
    world.owner.put("flt_b", 1)
    await world.tell()
    return world


async def test_a_client_is_told_of_its_flights_and_no_others(world: World) -> None:
    """The state, then each change of what it watches, in the order of the history."""
    world.owner.put("flt_c", 1)
    subscription, source = await world.joined("flt_b", "flt_a")
    for flight_id, number in (("flt_a", 2), ("flt_c", 2), ("flt_b", 2)):
        world.owner.put(flight_id, number)
    await world.tell()
    source.feed(subscription.take())

    assert numbers(source.events) == [("flt_b", 1), ("flt_a", 1), ("flt_a", 2), ("flt_b", 2)]
    assert positions.decode(source.last_event_id) == world.owner.cursor()


async def test_a_slow_client_is_owed_one_change_a_flight(world: World) -> None:
    """However much happens, the newest of each flight is all that waits, and it is in order."""
    subscription, source = await world.joined("flt_a", "flt_b")
    for number in range(1_000):
        world.owner.put("flt_a", number)
        world.owner.put("flt_b", number)
        await world.tell()
    waiting = len(subscription._pending)
    told = source.feed(subscription.take())

    assert waiting == 2
    assert numbers(told) == [("flt_a", 999), ("flt_b", 999)]
    assert world.metric("gateway_live_events_conflated_total") == 1_998


async def test_a_change_is_rendered_once_for_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred clients of a flight share the bytes of its change."""
    rendered: list[FlightEvent] = []
    render = Flights.shown

    def counted(self: Flights, event: FlightEvent, view: int) -> Any:
        rendered.append(event)
        return render(self, event, view)

    monkeypatch.setattr(Flights, "shown", counted)
    clients = [await world.joined("flt_a") for _ in range(100)]
    world.owner.put("flt_a", 2)
    await world.tell()
    taken = {subscription.take() for subscription, _ in clients}

    assert len(taken) == 1
    assert len(rendered) == 1


async def test_a_change_that_the_state_has_is_not_told_again(world: World) -> None:
    """What happened between subscribing and asking the owner is in the state."""
    subscription = world.hub.subscribe(["flt_a"], 0)
    world.owner.put("flt_a", 2)
    state = await world.hub.state(subscription, forgiving=False, budget=BUDGET)
    source = EventSource()
    source.feed(subscription.begin(subscription.origin, state))
    await world.tell()
    again = subscription.take()
    world.owner.put("flt_a", 3)
    await world.tell()
    source.feed(subscription.take())

    assert again == b""
    assert numbers(source.events) == [("flt_a", 2), ("flt_a", 3)]


async def test_an_unfinished_state_has_no_id(world: World) -> None:
    """A client that was cut off before the last flight starts anew, it can't go on in between."""
    subscription = world.hub.subscribe(["flt_a", "flt_b"], 0)
    state = await world.hub.state(subscription, forgiving=False, budget=BUDGET)
    blocks = subscription.begin(subscription.origin, state).split(b"\n\n")
    ids = [b"id:" in block for block in blocks if block]

    assert ids == [False, True]


async def test_a_client_that_comes_back_is_owed_what_it_missed(world: World) -> None:
    """The newest change of each of its flights after the id, and nothing that it has seen."""
    subscription, source = await world.joined("flt_a", "flt_b")
    subscription.close()
    for flight_id, number in (("flt_a", 2), ("flt_a", 3), ("flt_c", 1)):
        world.owner.put(flight_id, number)
    await world.tell()
    resumed = await world.hub.resume(["flt_a", "flt_b"], 0, source.last_event_id)
    assert isinstance(resumed, Subscription)
    missed = source.feed(resumed.take())

    assert numbers(missed) == [("flt_a", 3)]
    assert world.stub.watches == []


async def test_a_busy_flight_pushes_nothing_out(world: World) -> None:
    """However often one flight changes, a client can go on that has seen none of it."""
    _, source = await world.joined("flt_b")
    for number in range(10 * CAPACITY):
        world.owner.put("flt_a", number)
        await world.tell()
    world.owner.put("flt_b", 2)
    await world.tell()
    resumed = await world.hub.resume(["flt_b"], 0, source.last_event_id)
    assert isinstance(resumed, Subscription)

    assert numbers(source.feed(resumed.take())) == [("flt_b", 2)]


async def test_more_flights_than_there_is_room_for_are_a_gap(world: World) -> None:
    """Once another flight has taken the place of what a client missed it has to start anew."""
    _, source = await world.joined("flt_a")
    for n in range(CAPACITY + 1):
        world.owner.put(f"flt_{n}", 1)
    await world.tell()

    assert await world.hub.resume(["flt_a"], 0, source.last_event_id) is Missed.GAP
    assert world.stub.watches == []


@pytest.mark.parametrize("text", ["x", "!", "Cg", "a" * 300, "ä"])
async def test_an_id_that_is_none_is_malformed(world: World, text: str) -> None:
    """An EventSource can't mend its id, so it is told to start anew rather than refused."""
    assert await world.hub.resume(["flt_a"], 0, text) is Missed.MALFORMED


async def test_an_id_of_another_history_is_no_place_here(world: World) -> None:
    """A restored owner counts anew: the same number means something else."""
    _, source = await world.joined("flt_a")
    world.owner.restore("e2")
    await world.tell()

    assert await world.hub.resume(["flt_a"], 0, source.last_event_id) is Missed.HISTORY


async def test_an_id_of_a_gateway_that_is_ahead_is_waited_for(world: World) -> None:
    """What the client has seen at the other gateway is not told again; what follows it is."""
    ahead = positions.encode(world.owner.cursor(world.owner.seq + 1)).decode()
    source = EventSource(ahead)
    resumed = await world.hub.resume(["flt_a"], 0, ahead)
    assert isinstance(resumed, Subscription)
    source.feed(resumed.bookmark(world.owner.cursor()))
    stays = source.last_event_id
    world.owner.put("flt_a", 2)
    await world.tell()
    seen = resumed.take()
    world.owner.put("flt_a", 3)
    await world.tell()
    far = positions.encode(world.owner.cursor(world.owner.seq + CAPACITY + 1)).decode()

    assert stays == ahead
    assert seen == b""
    assert numbers(source.feed(resumed.take())) == [("flt_a", 3)]
    assert await world.hub.resume(["flt_a"], 0, far) is Missed.AHEAD


async def test_a_new_gateway_reads_back_once_for_all_who_come(world: World) -> None:
    """Clients of a gateway that was restarted go on; one stream reads the history for them all."""
    clients = [await world.joined("flt_a") for _ in range(50)]
    world.owner.put("flt_a", 2)
    restarted = World()
    restarted.owner, restarted.stub._owner = world.owner, world.owner
    await restarted.tell()
    world.owner.put("flt_b", 3)
    await restarted.tell()
    asked = [restarted.hub.resume(["flt_a"], 0, source.last_event_id) for _, source in clients]
    resumed = await asyncio.gather(*asked)
    told = [
        numbers(source.feed(subscription.take()))
        for subscription, (_, source) in zip(resumed, clients, strict=True)
        if isinstance(subscription, Subscription)
    ]

    assert told == [[("flt_a", 2)]] * 50
    assert [watch.cancelled for watch in restarted.stub.watches] == [True]
    assert restarted.metric("gateway_live_catch_ups_total") == 1


async def test_history_that_the_owner_has_trimmed_is_a_gap(world: World) -> None:
    """Where the owner itself can't go on the client has to start anew."""
    _, source = await world.joined("flt_a")
    for number in range(3):
        world.owner.put("flt_a", number)
    world.owner.trimmed = world.owner.seq - 1
    restarted = World()
    restarted.stub._owner = restarted.owner = world.owner
    await restarted.tell()

    assert await restarted.hub.resume(["flt_a"], 0, source.last_event_id) is Missed.GAP
    assert [watch.cancelled for watch in restarted.stub.watches] == [True]


async def test_a_source_that_lost_its_place_resets_everybody(world: World) -> None:
    """What is pending is dropped, even if newer, and the state is told before any change."""
    subscription, source = await world.joined("flt_a", "flt_b")
    backup = dict(world.owner.flights)
    world.owner.put("flt_a", 2)
    await world.tell()
    world.owner.flights = backup
    world.owner.restore("e2")
    await world.tell()
    lost = subscription.lost
    silent = world.hub.bookmark(subscription)
    state = await world.hub.state(subscription, forgiving=True, budget=BUDGET)
    source.feed(subscription.begin(subscription.origin, state))
    world.owner.put("flt_b", 7)
    await world.tell()
    changes = source.feed(subscription.take())

    assert lost
    assert b"id:" not in silent
    assert not subscription.lost
    assert numbers(source.events[2:4]) == [("flt_a", 1), ("flt_b", 1)]
    assert numbers(changes) == [("flt_b", 7)]
    assert positions.decode(source.last_event_id) == Cursor(epoch="e2", seq=1)


async def test_clients_that_are_all_reset_do_not_ask_the_owner_at_once(world: World) -> None:
    """So many questions are under way at most, and each client gets its answer."""
    clients = [(await world.joined("flt_a"))[0] for _ in range(100)]
    world.owner.restore("e2")
    await world.tell()
    asked = [world.hub.state(client, forgiving=True, budget=BUDGET) for client in clients]
    states = await asyncio.gather(*asked)

    assert world.stub.most_asking == 16
    assert {len(state) for state in states} == {1}


async def test_a_place_in_silence_is_never_ahead_of_what_was_told(world: World) -> None:
    """A bookmark says the hub's place once nothing is pending for the client up to there."""
    subscription, source = await world.joined("flt_a")
    world.owner.put("flt_a", 2)
    world.owner.put("flt_b", 2)
    await world.tell()
    early = world.hub.bookmark(subscription)
    source.feed(subscription.take())
    told = positions.decode(source.last_event_id).seq
    source.feed(world.hub.bookmark(subscription))

    assert early == b":\n\n"
    assert told == world.owner.seq - 1
    assert positions.decode(source.last_event_id) == world.owner.cursor()


async def test_a_client_that_leaves_leaves_nothing_behind(world: World) -> None:
    """Ended subscriptions stand nowhere, and are not told of anything."""
    subscriptions = [(await world.joined("flt_a", "flt_b"))[0] for _ in range(10)]
    open_ones = world.metric("gateway_live_subscribers")
    for subscription in subscriptions:
        subscription.close()
        subscription.close()

    assert open_ones == 10
    assert world.metric("gateway_live_subscribers") == 0
    assert world.hub._subscriptions == set()
    assert world.hub._watching == {}


async def test_nobody_is_served_before_the_owner_was_reached() -> None:
    """Without a position there is nothing to go on from."""
    with pytest.raises(Problem) as refused:
        World().hub.subscribe(["flt_a"], 0)

    assert refused.value.code == "UPSTREAM_UNAVAILABLE"


class Client:
    """An EventSource over hubs; what it is told of a flight on one connection never goes back.

    On the next one it may, once, where its state had been ahead of a gateway that is still behind.
    """

    def __init__(self, world: World, flight_ids: Sequence[str]) -> None:
        self._world = world
        self._flight_ids = flight_ids
        self._source = EventSource()
        self._hub = world.hub
        self._subscription: Subscription[FlightEvent] | None = None
        self._state: tuple[Cursor, Any] | None = None
        self._told: dict[str, int] = {}
        self.known: dict[str, int] = {}

    async def connect(self, hub: Hub[FlightEvent]) -> None:
        """Go on where it was, or subscribe, at any gateway."""
        self.leave(self._hub)
        self._hub = hub
        self._told.clear()
        if self._source.last_event_id:
            found = await hub.resume(self._flight_ids, 0, self._source.last_event_id)
            if isinstance(found, Subscription):
                self._subscription = found
                return
        self._subscription = hub.subscribe(self._flight_ids, 0)

    async def step(self) -> None:
        """Ask for the state where that is due, be told it a step later, or take what is pending."""
        subscription = self._subscription
        if subscription is None:
            return
        if subscription.lost and self._state is None:
            state = await self._hub.state(subscription, forgiving=True, budget=BUDGET)
            self._state = subscription.origin, state
        elif self._state is not None:
            text = subscription.begin(*self._state)
            self._state = None
            self._told.clear()
            self._believe(text)
        else:
            self._believe(subscription.take())

    def bookmark(self) -> None:
        """Hear of nothing for a while."""
        if self._subscription is not None:
            self._believe(self._hub.bookmark(self._subscription))

    def leave(self, hub: Hub[FlightEvent]) -> None:
        """Lose the connection where it is to this gateway."""
        if self._subscription is not None and self._hub is hub:
            self._subscription.close()
            self._subscription = self._state = None

    def _believe(self, text: bytes) -> None:
        for event in self._source.feed(text):
            flight_id = event.data["flight_id"]
            version = event.data.get("version", self._told.get(flight_id, 0))
            assert version >= self._told.get(flight_id, 0), "went back"
            self._told[flight_id] = version
            self.known[flight_id] = -1 if event.name == "removed" else version


FLIGHTS = ["flt_0", "flt_1", "flt_2"]
ROOM = 3  # for the newest changes of five flights
HUBS = st.sampled_from([0, 0, 1])
KINDS = {
    "put": (st.sampled_from([0, 0, 0, 1, 2, 3, 4]), st.just(0)),
    "tell": (HUBS, st.sampled_from([1, 1, 2, 4])),
    "connect": (st.integers(0, 1), HUBS),
    "step": (st.integers(0, 1), st.just(0)),
    "bookmark": (st.integers(0, 1), st.just(0)),
    "remove": (st.integers(0, 4), st.just(0)),
    "trim": (st.integers(0, 3), st.just(0)),
    "restart": (st.integers(0, 1), st.just(0)),
    "restore": (st.just(0), st.just(0)),
}
USUAL = ("put", "put", "tell", "tell", "connect", "step", "step", "step", "bookmark")
STEPS = st.lists(
    st.sampled_from([*USUAL, *USUAL, *USUAL, *KINDS]).flatmap(
        lambda kind: st.tuples(st.just(kind), *KINDS[kind])
    ),
    min_size=30,
    max_size=80,
)


async def play(world: World, clients: Sequence[Client], step: tuple[str, int, int]) -> None:
    """Do one step."""
    match step:
        case "put", n, _:
            world.owner.put(f"flt_{n}", 0)
        case "remove", n, _:
            world.owner.remove(f"flt_{n}")
        case "restore", _, _:
            world.owner.restore(f"{world.owner.epoch}+")
        case "trim", keep, _:
            world.owner.trimmed = max(world.owner.trimmed, world.owner.seq - keep)
        case "tell", n, most:
            await world.tell(world.hubs[n], most)
        case "restart", n, _:
            for client in clients:
                client.leave(world.hubs[n])
            world.hubs[n] = Hub(world.hub.topic, world.hub.metrics, capacity=ROOM)
            await world.tell(world.hubs[n])
        case _:
            await connection(world, clients, step)


async def connection(world: World, clients: Sequence[Client], step: tuple[str, int, int]) -> None:
    """Do one step of a client."""
    match step:
        case "connect", n, hub:
            await clients[n].connect(world.hubs[hub])
        case "step", n, _:
            await clients[n].step()
        case "bookmark", n, _:
            clients[n].bookmark()


@given(steps=STEPS, last=HUBS)
@settings(max_examples=200, deadline=None)
async def test_any_interleaving_ends_with_every_client_at_the_newest_state(
    steps: list[tuple[str, int, int]], last: int
) -> None:
    """Changes, joins, reconnects to gateways ahead or behind, restarts, trimmed history."""
    world = World(hubs=2, capacity=ROOM)
    for flight_id in FLIGHTS:
        world.owner.put(flight_id, 0)
    for hub in world.hubs:
        await world.tell(hub)
    clients = [Client(world, FLIGHTS[: n + 2]) for n in range(2)]
    for client in clients:
        await client.connect(world.hub)
    for step in steps:
        await play(world, clients, step)
    for client in clients:
        await client.connect(world.hubs[last])
    await world.tell(world.hubs[last])
    for client in clients:
        for _ in range(4):
            await client.step()
    newest = {key: version for key, (version, _) in world.owner.flights.items()}
    wrong = [
        (client.known, flight_id)
        for client in clients
        for flight_id in client._flight_ids
        if client.known.get(flight_id, -1) != newest.get(flight_id, -1)
    ]

    assert wrong == []


@given(
    changes=st.lists(st.integers(0, 2), max_size=30),
    joins=st.integers(0, 30),
    cuts=st.sets(st.integers(0, 30)),
)
@settings(max_examples=100, deadline=None)
async def test_a_client_that_is_not_slow_sees_every_change(
    changes: list[int], joins: int, cuts: set[int]
) -> None:
    """From the state on none is left out, also across reconnects before the next change."""
    world = World()
    for flight_id in FLIGHTS:
        world.owner.put(flight_id, 0)
    await world.tell()
    subscription, source = None, EventSource()
    for n, change in enumerate(changes):
        if n == joins:
            subscription, source = await world.joined(*FLIGHTS)
        world.owner.put(FLIGHTS[change], n)
        await world.tell()
        if subscription is not None:
            if n in cuts:
                subscription.close()
                found = await world.hub.resume(FLIGHTS, 0, source.last_event_id)
                assert isinstance(found, Subscription)
                subscription = found
            source.feed(subscription.take())
    seen = [event.data["distance_km"] for event in source.events[len(FLIGHTS) :]]

    assert seen == list(range(joins, len(changes)))
