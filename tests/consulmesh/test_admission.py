from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)
from hypothesis import given
from hypothesis import strategies as st

from consulmesh.admission import ConcurrencyLimit, QueueAdmission, QueueTerms, StandingQueue
from consulmesh.config import MeshConfig
from consulmesh.context import CallContext, Criticality, use
from consulmesh.errors import Overloaded, Status
from consulmesh.propagation import CRITICALITY, TIMEOUT, Incoming
from consulmesh.testing import StaticMesh, channel_to, running
from tests.consulmesh.echo import SERVICE, Context, EchoStub, add_echo, text

TERMS = QueueTerms(target=timedelta(milliseconds=100), patience=timedelta(milliseconds=100), run=4)
LATE = 0.15
IMPORTANCE = list(reversed(Criticality))
NOW_OR_NEVER = QueueTerms(target=timedelta(milliseconds=10), patience=timedelta(0), run=2)
"""What a server with a handler of WORK_SECONDS cannot keep with a few calls at once."""
WORK_SECONDS = 0.02
BURST = 24


def queue(*waits: float, every: float = 0.05, terms: QueueTerms = TERMS) -> StandingQueue:
    """A queue that something left every so often since 0.0, after these waits."""
    made = StandingQueue(terms)
    for number, waited in enumerate(waits):
        made.left(waited, number * every)
    return made


def test_a_burst_after_a_pause_is_not_refused() -> None:
    """Many are late at once when a process was stopped for a moment; they are worked off."""
    burst = queue(*[5.0] * 100, every=0.0009)

    assert not burst.stands(0.09)
    assert not burst.refuses(Criticality.SHEDDABLE, 5.0, 0.09)


def test_a_few_late_calls_are_no_queue() -> None:
    """However long ago the first of them was."""
    few = queue(LATE, LATE, LATE)

    assert not few.stands(1000.0)


def test_a_queue_that_stays_is_refused() -> None:
    """Late calls, one after the other, for longer than the terms' patience."""
    staying = queue(LATE, LATE, LATE, LATE)

    assert staying.stands(0.15)
    assert staying.refuses(Criticality.SHEDDABLE, LATE, 0.15)
    assert staying.last == LATE


def test_a_single_early_one_ends_it() -> None:
    """Who found next to no queue proves that none stands; it takes a whole new run for another."""
    ended = queue(LATE, LATE, LATE, LATE, LATE, 0.04)
    once_more = queue(LATE, LATE, LATE, LATE, LATE, 0.04, LATE, LATE, LATE, LATE)

    assert not ended.stands(1.0)
    assert not once_more.stands(0.39)
    assert once_more.stands(0.45)


def test_what_waited_about_the_target_changes_nothing() -> None:
    """Between relief and target a queue that stands stays, and one that does not does not begin."""
    staying = queue(LATE, LATE, LATE, LATE, *[0.08] * 20)
    calm = queue(*[0.08] * 20)

    assert staying.stands(2.0)
    assert not calm.stands(2.0)


def test_what_is_in_time_is_served_while_a_queue_stands() -> None:
    """Only what waited longer than it may is refused."""
    staying = queue(LATE, LATE, LATE, LATE)

    assert not staying.refuses(Criticality.SHEDDABLE, 0.1, 1.0)
    assert staying.refuses(Criticality.SHEDDABLE, 0.101, 1.0)


@pytest.mark.parametrize(
    ("criticality", "limit"),
    [
        (Criticality.SHEDDABLE, 0.1),
        (Criticality.SHEDDABLE_PLUS, 0.2),
        (Criticality.CRITICAL, 0.5),
    ],
)
def test_the_more_important_may_wait_longer(criticality: Criticality, limit: float) -> None:
    """Up to its limit a call is done, beyond it is not."""
    staying = queue(LATE, LATE, LATE, LATE)

    assert not staying.refuses(criticality, limit, 1.0)
    assert staying.refuses(criticality, limit + 0.001, 1.0)


def test_what_must_not_be_shed_never_is() -> None:
    """However long it waited."""
    staying = queue(*[1e6] * 100)

    assert staying.stands(1e6)
    assert not staying.refuses(Criticality.CRITICAL_PLUS, 1e6, 1e6)


WAITS = st.floats(0, 10, allow_nan=False)
HISTORIES = st.lists(st.tuples(WAITS, st.floats(0, 1)), max_size=60)


def after(history: Iterable[tuple[float, float]]) -> tuple[StandingQueue, float]:
    """A queue with this history of waits and pauses, and what time it is then."""
    made, now = StandingQueue(TERMS), 0.0
    for waited, pause in history:
        now += pause
        made.left(waited, now)
    return made, now


@given(HISTORIES, WAITS)
def test_nothing_is_refused_before_what_is_less_important(
    history: list[tuple[float, float]], waited: float
) -> None:
    """Of calls that waited equally long, those that are refused are the least important."""
    made, now = after(history)
    refused = [made.refuses(criticality, waited, now) for criticality in IMPORTANCE]

    assert all(less or not more for less, more in pairwise(refused))
    assert not refused[-1]


@given(HISTORIES, WAITS, WAITS, st.sampled_from(Criticality))
def test_nothing_is_refused_that_waited_less_than_what_is_admitted(
    history: list[tuple[float, float]], one: float, other: float, criticality: Criticality
) -> None:
    """Of equally important calls, those that waited longer are refused first."""
    made, now = after(history)
    shorter, longer = sorted((one, other))

    assert made.refuses(criticality, longer, now) or not made.refuses(criticality, shorter, now)


@given(HISTORIES)
def test_a_queue_stands_as_its_history_says(history: list[tuple[float, float]]) -> None:
    """Since the last early one there were enough late ones, the first of them long enough ago."""
    made, now = after(history)
    late: list[float] = []
    moment = 0.0
    for waited, pause in history:
        moment += pause
        if waited < 0.05:
            late.clear()
        elif waited > 0.1:
            late.append(moment)

    assert made.stands(now) == (len(late) >= 4 and now - late[0] >= 0.1)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now


def incoming(waited: float | None, criticality: Criticality = Criticality.SHEDDABLE) -> Incoming:
    """A call with a timeout of 5 s that waited so long, or does not say."""
    said = () if waited is None else ((TIMEOUT, "5000"),)
    return Incoming(((CRITICALITY, criticality.value), *said), 5.0 - (waited or 0.0), 0.0)


def outcomes(calls: Iterable[Incoming], *, every: float = 0.05) -> list[bool]:
    """Which of these calls are admitted."""
    clock = Clock()
    admission = QueueAdmission(TERMS, clock)
    admitted = []
    for number, call in enumerate(calls):
        clock.now = number * every
        try:
            admission.admit("a.Service/Method", call)
        except Overloaded:
            admitted.append(False)
        else:
            admitted.append(True)
    return admitted


def test_calls_are_refused_once_the_queue_stands() -> None:
    """The call that completes the run is the first, the one that finds no queue is not."""
    calls = [incoming(LATE) for _ in range(6)] + [incoming(0.0), incoming(LATE)]

    assert outcomes(calls) == [True] * 3 + [False] * 3 + [True] * 2


def test_a_call_that_does_not_say_is_judged_by_the_one_before() -> None:
    """It neither makes a queue, nor ends one."""
    silent = [incoming(None)] * 3
    calls = [*silent, *[incoming(LATE)] * 3, *silent, incoming(LATE), *silent, incoming(0.0)]

    assert outcomes([*calls, *silent]) == [True] * 9 + [False] * 4 + [True] * 4


def test_an_admission_shows_the_last_wait() -> None:
    """As a person looks at a process."""
    admission = QueueAdmission(TERMS)
    admission.admit("a.Service/Method", incoming(0.25))

    assert repr(admission) == "<QueueAdmission last=0.250 s>"


def work() -> None:
    """Takes the loop's time."""
    time.sleep(WORK_SECONDS)


class Upstream:
    """Does work that holds its event loop up; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def unary(self, request: StringValue, _context: Context) -> StringValue:
        """Works."""
        self.asked.append(request.value)
        work()
        return request

    async def spread(self, request: StringValue, _context: Context) -> AsyncIterator[StringValue]:
        """Answers once."""
        self.asked.append(request.value)
        yield request

    def add_to(self, server: aio.Server) -> None:
        """Serve."""
        add_echo(unary=self.unary, spread=self.spread)(server)


@pytest.fixture
def upstream() -> Upstream:
    """Who is overloaded."""
    return Upstream()


@pytest.fixture
async def port(upstream: Upstream) -> AsyncIterator[int]:
    """Where it listens."""
    async with running(upstream.add_to, admission=QueueAdmission(NOW_OR_NEVER)) as (_, port):
        yield port


@pytest.fixture
async def stub(port: int) -> AsyncIterator[EchoStub]:
    """Its client, connected."""
    async with channel_to(port) as channel:
        await channel.channel_ready()
        yield EchoStub(channel)


def called(
    rpc: Callable[..., Any], criticality: Criticality, *, times: int = BURST, **how: Any
) -> list[Any]:
    """Calls that are made in one go."""
    with use(CallContext(request_id="r", criticality=criticality)):
        return [rpc(text(f"{criticality}"), **how) for _ in range(times)]


async def statuses(calls: Iterable[Any]) -> list[Status | None]:
    """What became of calls, None where they succeeded."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        assert isinstance(result, StringValue | aio.AioRpcError), result
    return [
        Status.of(result) if isinstance(result, aio.AioRpcError) else None for result in results
    ]


async def served_again(stub: EchoStub, criticality: Criticality) -> None:
    """Returns once a call is served; each that is refused was asked for after the one before."""
    async with asyncio.timeout(20):
        while (await statuses(called(stub.Unary, criticality, times=1)))[0] is not None:
            pass


async def test_an_overloaded_server_sheds_what_can_be_shed(
    upstream: Upstream, stub: EchoStub
) -> None:
    """The answer says why, and when to come again; the handler hears nothing of it."""
    outcome = await statuses(called(stub.Unary, Criticality.SHEDDABLE))
    refused = [status for status in outcome if status is not None]

    assert refused
    assert len(upstream.asked) == BURST - len(refused) >= 1
    assert set(map(repr, refused)) == {
        repr(
            Status(
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                message="There is too much to do.",
                reason="OVERLOADED",
                domain="tested",
                retry_after=timedelta(seconds=1),
            )
        )
    }


async def test_what_matters_most_is_served_under_any_load(stub: EchoStub) -> None:
    """While everything else is refused around it."""
    shed = called(stub.Unary, Criticality.SHEDDABLE)
    kept = called(stub.Unary, Criticality.CRITICAL_PLUS)
    outcomes = await asyncio.gather(statuses(shed), statuses(kept))

    assert any(outcomes[0])
    assert outcomes[1] == [None] * BURST


async def test_health_and_watches_are_admitted_under_any_load(upstream: Upstream) -> None:
    """A busy server is not taken for a dead one; a stream without end is no work that waits."""
    admission = QueueAdmission(NOW_OR_NEVER)
    for _ in range(NOW_OR_NEVER.run):
        admission.admit("a.Service/Method", incoming(4.0, Criticality.CRITICAL_PLUS))
    how = {"metadata": ((CRITICALITY, "sheddable"),)}  # who does not say is late as the one before
    async with (
        running(upstream.add_to, admission=admission) as (_, port),
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        plain = EchoStub(channel)
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE), **how
        )
        seen = await plain.Spread(text("watch"), **how).read()
        bounded = plain.Spread(text("stream"), timeout=30, **how)
        with pytest.raises(aio.AioRpcError) as caught:
            await bounded.read()
        (shed,) = await statuses([plain.Unary(text("call"), **how)])

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert seen == text("watch")
    assert Status.of(caught.value).reason == "OVERLOADED"  # a stream with an end is a call
    assert shed is not None


async def test_a_server_serves_again_when_the_queue_is_gone(port: int, stub: EchoStub) -> None:
    """The first call that finds no queue is served, and so are those after it."""
    outcome = await statuses(called(stub.Unary, Criticality.SHEDDABLE))
    async with channel_to(port) as channel:  # one that has not learnt to ask less
        await served_again(EchoStub(channel), Criticality.SHEDDABLE)

    assert any(outcome)


async def test_another_client_is_judged_by_the_call_before(upstream: Upstream, port: int) -> None:
    """Who does not say what timeout it sent is refused when one that does would be."""
    said = ((CRITICALITY, "sheddable"), (TIMEOUT, "9000"))
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        plain = EchoStub(channel)
        lone = await statuses([plain.Unary(text("lone"), timeout=9, metadata=said[:1])])
        ours = [plain.Unary(text("ours"), timeout=9, metadata=said) for _ in range(BURST)]
        others = [plain.Unary(text("other"), timeout=9, metadata=said[:1]) for _ in range(4)]
        critical = plain.Unary(text("plus"), metadata=((CRITICALITY, "critical_plus"),))
        outcome = await statuses([*ours, *others])
        kept = await statuses([critical])

    refused = [status.reason if status else "" for status in outcome]
    assert lone == kept == [None]
    assert refused[BURST:] == ["OVERLOADED"] * 4
    assert Counter(upstream.asked) == {"lone": 1, "ours": refused.count(""), "plus": 1}


@pytest.mark.parametrize("terms", [NOW_OR_NEVER, None])
async def test_a_member_sheds_as_its_configuration_says(
    upstream: Upstream, terms: QueueTerms | None
) -> None:
    """The server that a member makes has the terms of MESH_QUEUE_TARGET, or none."""
    config = MeshConfig(version="1", metrics_port=None, queue=terms)
    async with StaticMesh("member", {}, config=config) as mesh:
        server = mesh.server(status_codes={})
        upstream.add_to(server)
        serving = asyncio.create_task(mesh.serve(server))
        await mesh.serving.wait()
        async with channel_to(int(mesh.address.rpartition(":")[2])) as channel:
            await channel.channel_ready()
            calls = called(EchoStub(channel).Unary, Criticality.SHEDDABLE)
            outcome = await statuses(calls)
        mesh.draining.set()
        await serving

    assert any(outcome) == (terms is not None)


def limit(clock: Clock, *, least: int = 2, most: int = 20) -> ConcurrencyLimit:
    """A limit on what may take 100 ms."""
    return ConcurrencyLimit(timedelta(milliseconds=100), least=least, most=most, clock=clock)


def test_a_limit_falls_when_something_was_late() -> None:
    """By a tenth, at once; what is under way counts, not what might have been."""
    clock = Clock()
    full, idle = limit(clock), limit(clock)
    full.done(0.2, 20)
    idle.done(0.2, 9)

    assert full.limit == pytest.approx(18)
    assert idle.limit == pytest.approx(9)
    assert full.admits(17)
    assert not full.admits(18)


def test_a_limit_falls_once_in_a_target() -> None:
    """Those that are late together were late for one reason."""
    clock = Clock()
    made = limit(clock)
    for clock.now in (0.0, 0.01, 0.099, 0.1, 0.15):
        made.done(0.2, 20)

    assert made.limit == pytest.approx(20 * 0.9 * 0.9)


def test_a_limit_rises_only_when_it_is_used() -> None:
    """Quick answers of an idle system say nothing about a busy one."""
    clock = Clock()
    made = limit(clock)
    made.done(0.2, 9)
    for _ in range(100):
        made.done(0.01, 4)
    unused = made.limit
    for _ in range(9):
        made.done(0.1, 5)

    assert unused == pytest.approx(9)
    assert 9.9 < made.limit <= 10


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.floats(0, 0.3)), max_size=300),
    st.integers(1, 5),
    st.integers(5, 30),
)
def test_a_limit_keeps_its_bounds(
    history: list[tuple[float, int, float]], least: int, most: int
) -> None:
    """Whatever happens, so that always one may begin, and never more than the most."""
    clock = Clock()
    made = limit(clock, least=least, most=most)
    for seconds, under_way, pause in history:
        clock.now += pause
        made.done(seconds, under_way)

        assert least <= made.limit <= most
    assert made.admits(least - 1)
    assert not made.admits(most)
