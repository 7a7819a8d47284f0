"""The rules of blocking queries, under every way in which Consul may misbehave."""

import asyncio
import contextvars
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from consulmesh.consul_api import ConsulApi, ConsulError, Query
from consulmesh.testing import FakeConsul, Fault
from consulmesh.watch import FORGIVEN, MAX_PACE, MIN_GAP, PACE, Change, Pace, Watch
from tests.consulmesh.consuls import ENDLESS, registration, tell, withdraw

QUERY = Query.health("watched")
PATH = "/v1/health/service/watched"
TELLING_FAULTS = [Fault.ERRORS, Fault.INDEX_ZERO, Fault.INDEX_BACKWARDS]


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time it shows."""
        return self.now


class Followed:
    """A running watch, and what it told so far."""

    def __init__(self, api: ConsulApi, *, wait: timedelta = ENDLESS) -> None:
        self.changes: list[Change] = []
        self._new = asyncio.Event()
        self.watch = Watch(api, QUERY, self._changed, wait=wait)
        self.watch.start()

    async def told(self, count: int, seconds: float = 20) -> Change:
        """Wait for the count-th change."""
        async with asyncio.timeout(seconds):
            while len(self.changes) < count:
                self._new.clear()
                await self._new.wait()
        return self.changes[count - 1]

    def _changed(self, change: Change) -> None:
        self.changes.append(change)
        self._new.set()


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    """A Consul of the test's own."""
    async with FakeConsul() as fake:
        yield fake


@pytest.fixture
async def api(fake: FakeConsul) -> AsyncIterator[ConsulApi]:
    """Access to it."""
    async with ConsulApi(fake.url) as api:
        yield api


@pytest.fixture
async def followed(api: ConsulApi) -> AsyncIterator[Followed]:
    """A watch that has its first answer."""
    async with following(api) as followed:
        yield followed


@asynccontextmanager
async def following(api: ConsulApi) -> AsyncIterator[Followed]:
    """A watch that has its first answer, for the block."""
    followed = Followed(api)
    await followed.told(1)
    try:
        yield followed
    finally:
        await followed.watch.aclose()


async def test_changes_are_told_without_a_pause(api: ConsulApi, followed: Followed) -> None:
    """A healthy Consul is followed as fast as it changes."""
    instance = registration("watched", 1)
    took: list[float] = []
    for count in range(2, 8):
        await (tell if count % 2 == 0 else withdraw)(api, instance)
        began = time.monotonic()
        await followed.told(count)
        took.append(time.monotonic() - began)

    assert statistics.median(took) < PACE / 2
    assert [len(change.data) for change in followed.changes] == [0, 1, 0, 1, 0, 1, 0]


async def test_an_answer_without_a_change_is_not_told(api: ConsulApi) -> None:
    """A query that returns because its wait is over says nothing new."""
    followed = Followed(api, wait=timedelta(milliseconds=50))
    await followed.told(1)
    async with asyncio.timeout(20):
        while followed.watch.state.requests < 5:  # noqa: ASYNC110 - nothing tells of a question
            await asyncio.sleep(0.01)
    await followed.watch.aclose()

    assert len(followed.changes) == 1
    assert followed.watch.resumed_at == float("-inf")


async def test_a_misbehaving_consul_is_asked_at_most_once_a_second() -> None:
    """Whatever is wrong, requests of one watch do not pile up, and nothing is told twice."""

    async def asked_during(fault: Fault) -> tuple[float, int]:
        """How many requests a second beyond the first, and how many changes."""
        async with (
            FakeConsul() as fake,
            ConsulApi(fake.url) as api,
            following(api) as followed,
        ):
            await tell(api, registration("watched", 1))
            await followed.told(2)
            await asyncio.sleep(0.1)  # the next query waits
            before = len(fake.requests_of(PATH))
            fake.fault = fault
            began = time.monotonic()
            await asyncio.sleep(2.5)
            asked = len(fake.requests_of(PATH)) - before
            took = time.monotonic() - began
            fake.fault = None
            return (asked - 1) / took, len(followed.changes)

    found = dict(zip(Fault, await asyncio.gather(*map(asked_during, Fault)), strict=True))

    assert {fault: rate for fault, (rate, _) in found.items() if rate > 1} == {}
    assert {fault: changes for fault, (_, changes) in found.items() if changes > 3} == {}


async def test_a_consul_that_is_down_is_asked_at_most_once_a_second(
    fake: FakeConsul, followed: Followed
) -> None:
    """Refused connections are counted by the watch itself."""
    await fake.stop()
    before, began = followed.watch.state.requests, time.monotonic()
    await asyncio.sleep(3.2)
    asked = followed.watch.state.requests - before

    assert 1 <= asked <= time.monotonic() - began + 1
    assert followed.watch.failing


async def test_a_healed_consul_is_followed_again() -> None:
    """After an error or a lost index the watch asks afresh and says when it resumed."""

    async def change_after(fault: Fault) -> tuple[int, bool, bool]:
        """How many instances it has, whether it resumed since the fault began, and still fails."""
        async with (
            FakeConsul() as fake,
            ConsulApi(fake.url) as api,
            following(api) as followed,
        ):
            began = time.monotonic()
            fake.fault = fault
            await asyncio.sleep(1.2)
            fake.fault = None
            await tell(api, registration("watched", 1))
            change = await followed.told(2)
            return len(change.data), change.resumed_at >= began, followed.watch.failing

    found = await asyncio.gather(*map(change_after, TELLING_FAULTS))

    assert dict(zip(TELLING_FAULTS, found, strict=True)) == dict.fromkeys(
        TELLING_FAULTS, (1, True, False)
    )


async def test_an_agent_that_lost_its_state_is_believed_with_a_lower_index(
    fake: FakeConsul, api: ConsulApi, followed: Followed
) -> None:
    """An index from before is not used again: it would block until the wait is over."""
    await tell(api, registration("watched", 1))
    await followed.told(2)
    index = followed.watch.state.index
    await asyncio.sleep(0.1)  # the next query waits
    await fake.stop()
    await fake.start(empty=True)
    change = await followed.told(3)

    assert change.data == []
    assert change.resumed_at > float("-inf")
    assert followed.watch.state.index < index


async def test_a_question_whose_connection_breaks_is_not_repeated_unseen() -> None:
    """Its index may be from before an agent's restart, so the watch decides how to ask again."""
    asked = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ConsulApi(f"http://127.0.0.1:{port}") as api:
        with pytest.raises(ConsulError):
            await api.ask(QUERY, index=7, wait=timedelta(seconds=9))

    assert asked == 1


async def test_a_failing_callback_is_counted_and_ends_nothing(api: ConsulApi) -> None:
    """A bug in a subscriber costs it one change, not the watch."""
    told = asyncio.Event()

    def fail(change: Change) -> None:
        if not change.data:
            raise KeyError("Weight")
        told.set()

    watch = Watch(api, QUERY, fail)
    watch.start()
    await tell(api, registration("watched", 1))
    await asyncio.wait_for(told.wait(), 20)
    state = watch.state
    await watch.aclose()

    assert state.callback_errors <= 1
    assert state.error is None


async def test_the_state_says_what_is_wrong(fake: FakeConsul, followed: Followed) -> None:
    """For a person who looks: the query, its last error, its counters."""
    await asyncio.sleep(0.1)  # the next query waits
    fake.fault = Fault.ERRORS
    async with asyncio.timeout(20):
        while not followed.watch.failing:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    state = followed.watch.state

    assert state.query == PATH
    assert state.error == "500 rpc error getting client: No cluster leader"
    assert (state.changes, state.errors, state.index) == (1, 1, 0)
    assert "No cluster leader" in repr(followed.watch)


async def test_a_watch_has_a_context_of_its_own(api: ConsulApi) -> None:
    """A watch that a request happens to start inherits nothing from it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="fresh")
    variable.set("request")
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    watch = Watch(api, QUERY, lambda _: seen.set_result(variable.get()))
    watch.start()
    value = await asyncio.wait_for(seen, 20)
    await watch.aclose()

    assert value == "fresh"


async def test_a_stopped_watch_tells_nothing_more(api: ConsulApi, followed: Followed) -> None:
    """Closing waits until the request in flight is gone, and may be repeated."""
    await followed.watch.aclose()
    await tell(api, registration("watched", 1))
    await followed.watch.aclose()

    assert len(followed.changes) == 1


def pace(clock: Clock) -> Pace:
    """A pace without chance."""
    return Pace(clock, lambda low, _: low)


def test_news_are_followed_by_the_next_request_at_once() -> None:
    """After a change that took its time there is no pause, between two at once a short one."""
    clock = Clock()
    paced = pace(clock)
    paced.begin()
    at_once = paced.progress()
    clock.now += 1
    later = paced.progress()

    assert at_once == pytest.approx(MIN_GAP)
    assert later == 0


def test_errors_pause_longer_each_time_up_to_a_bound() -> None:
    """Backoff grows, stays short enough to notice a return within 5 s, and is forgotten."""
    clock = Clock()
    paced = pace(clock)
    pauses = []
    for _ in range(6):
        paced.begin()
        pauses.append(paced.failure())
    paced.begin()
    paced.progress()
    paced.begin()
    after = paced.failure()

    assert pauses == pytest.approx([1.0, 1.5, 2.25, 3.0, 3.0, 3.0])
    assert MAX_PACE * 1.3 < 5
    assert after == pytest.approx(PACE)


def test_a_few_idle_wake_ups_with_a_growing_index_are_forgiven() -> None:
    """Consul may wake a watch for a neighbour's change; not again and again."""
    clock = Clock()
    paced = pace(clock)
    pauses = []
    for _ in range(int(FORGIVEN) + 1):
        paced.begin()
        pauses.append(paced.nothing(advanced=True))

    assert pauses[:-1] == pytest.approx([MIN_GAP] * int(FORGIVEN))
    assert pauses[-1] == pytest.approx(PACE)


def test_an_idle_wake_up_without_a_new_index_is_not_forgiven() -> None:
    """A query that returns early with nothing is a fault."""
    clock = Clock()
    paced = pace(clock)
    paced.begin()

    assert paced.nothing(advanced=False) == pytest.approx(PACE)
