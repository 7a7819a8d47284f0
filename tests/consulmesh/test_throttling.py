from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from consulmesh.channel import MeshChannel
from consulmesh.context import CallContext, Criticality, current, use
from consulmesh.errors import Overloaded, Status
from consulmesh.metrics import RpcMetrics
from consulmesh.testing import channel_to, running
from consulmesh.throttling import Throttle, throttles
from tests.consulmesh.echo import Context, EchoStub, add_echo, text

THROTTLED = (Criticality.SHEDDABLE, Criticality.SHEDDABLE_PLUS, Criticality.CRITICAL)
MANY = 400
LONG = 10.0  # seconds, after which nothing is remembered


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now


def throttle(
    outcomes: Iterable[bool] = (), *, chance: float = 0.0, clock: Clock | None = None
) -> Throttle:
    """One whose calls were refused (True) or not; at `chance` 0 it refuses whenever it may."""
    made = Throttle(clock or Clock(), lambda: chance)
    for refused in outcomes:
        made.ended(refused=refused)
    return made


def refusals(made: Throttle, calls: int) -> int:
    """How many of so many calls are not to be made."""
    return sum(made.refuses() for _ in range(calls))


def test_a_few_refusals_change_nothing() -> None:
    """Up to ten in a few seconds, though nothing was accepted: so few cost nobody anything."""
    assert not throttle([True] * 10).refuses()
    assert throttle([True] * 11).refuses()


def test_who_is_never_refused_is_always_asked() -> None:
    """And so is who was never asked."""
    assert not throttle().refuses()
    assert not throttle([False] * 1000).refuses()


@given(st.lists(st.booleans()))
def test_who_accepts_every_second_call_is_always_asked(outcomes: list[bool]) -> None:
    """Throttling begins where more is refused than accepted, so that what was free is found."""
    accepted_too = [each for refused in outcomes for each in (False, refused)]

    assert not throttle(accepted_too).refuses()


@given(st.integers(0, 200), st.floats(0, 1, exclude_max=True))
def test_some_calls_are_made_whatever_was_refused(refused: int, chance: float) -> None:
    """Else nobody would find out that the upstream can do more again; and never is it certain."""
    hopeless = throttle([True] * refused, chance=1 - 1 / (refused + 1))

    assert not hopeless.refuses()
    assert throttle([True] * 2000, chance=chance * 0.9).refuses()


def test_the_more_is_refused_the_less_is_asked() -> None:
    """In proportion to what is refused beyond what is accepted."""
    shares = []
    for accepted in (0, 100, 200, 300, 500):
        outcomes = [True] * (1000 - accepted) + [False] * accepted
        source = random.Random(7)
        refused = 0
        for _ in range(500):
            made = Throttle(Clock(), source.random)
            for each in outcomes:
                made.ended(refused=each)
            refused += made.refuses()
        shares.append(refused / 500)

    assert shares == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.0], abs=0.08)


def test_what_was_not_asked_counts_as_refused() -> None:
    """The upstream would have refused it; it is told from others by nobody."""
    made = throttle([True] * 100)
    refused = refusals(made, 5)

    assert refused == 5
    assert repr(made) == "<Throttle ended=105 refused=105>"


def test_it_ends_when_the_upstream_accepts_again() -> None:
    """As soon as as many were accepted as refused."""
    made = throttle([True] * 100)
    before = made.refuses()
    for _ in range(200):
        made.ended(refused=False)

    assert before
    assert not made.refuses()


def test_it_ends_after_its_windows() -> None:
    """What nobody asked for a while is not known to be overloaded."""
    clock = Clock()
    made = throttle([True] * 100, clock=clock)
    clock.now = 3.9
    within = made.refuses()
    clock.now += LONG
    after = made.refuses()

    assert within
    assert not after
    assert repr(made) == "<Throttle ended=0 refused=0>"


def test_what_is_older_than_two_windows_does_not_count() -> None:
    """Also while calls go on."""
    clock = Clock()
    made = throttle([True] * 100, clock=clock)
    for clock.now in (1.0, 3.0, 5.0, 7.0):
        made.ended(refused=False)

    assert not made.refuses()


def test_what_must_not_be_shed_has_no_throttle() -> None:
    """Each other criticality has one of its own."""
    made = throttles()

    assert set(made) == set(THROTTLED)
    assert len({id(each) for each in made.values()}) == len(THROTTLED)


class Upstream:
    """Refuses calls of some criticalities for its load; counts what it was asked."""

    def __init__(self) -> None:
        self.refused: set[Criticality] = set(Criticality)
        self.asked: Counter[Criticality] = Counter()

    async def unary(self, request: StringValue, _context: Context) -> StringValue:
        """Answers, or refuses."""
        self._admit()
        return request

    async def spread(self, request: StringValue, _context: Context) -> AsyncIterator[StringValue]:
        """Answers once, or refuses."""
        self._admit()
        yield request

    def _admit(self) -> None:
        criticality = current().criticality
        self.asked[criticality] += 1
        if criticality in self.refused:
            raise Overloaded


@pytest.fixture
def clock() -> Clock:
    """Of the throttles."""
    return Clock()


@pytest.fixture
def upstream() -> Upstream:
    """Who is called."""
    return Upstream()


@pytest.fixture
def registry() -> CollectorRegistry:
    """Of the channel's metrics."""
    return CollectorRegistry()


@pytest.fixture
async def channel(
    upstream: Upstream, clock: Clock, registry: CollectorRegistry
) -> AsyncIterator[MeshChannel]:
    """A way to it, whose throttles have a clock and chances that are the same in each run."""
    async with (
        running(add_echo(unary=upstream.unary, spread=upstream.spread)) as (_, port),
        channel_to(port, metrics=RpcMetrics(registry)) as channel,
    ):
        source = random.Random(7)
        channel._throttles = {each: Throttle(clock, source.random) for each in throttles()}
        yield channel


@pytest.fixture
def stub(channel: MeshChannel) -> EchoStub:
    """Its client."""
    return EchoStub(channel)


async def failed(
    rpc: Callable[..., Any], criticality: Criticality, times: int, **how: Any
) -> list[aio.AioRpcError]:
    """The errors of calls that are made one after the other."""
    errors = []
    context = CallContext(request_id="r", criticality=criticality)
    for _ in range(times):
        try:
            with use(context):
                call = rpc(text("x"), **how)
                if isinstance(call, aio.UnaryStreamCall):
                    await call.read()
                else:
                    await call
        except aio.AioRpcError as error:
            errors.append(error)
    return errors


def was_sent(error: aio.AioRpcError) -> bool:
    """Whether it is the upstream that refused."""
    return "mesh-instance" in dict(error.trailing_metadata() or ())


@pytest.mark.parametrize("criticality", THROTTLED)
async def test_an_upstream_that_refuses_is_asked_less_and_less(
    upstream: Upstream, stub: EchoStub, criticality: Criticality
) -> None:
    """Every call fails, but few of them cost the upstream anything."""
    asked = [0]
    for _ in range(4):
        errors = await failed(stub.Unary, criticality, MANY // 4)
        asked.append(upstream.asked[criticality])
        assert len(errors) == MANY // 4
    first, *_, last = (after - before for before, after in pairwise(asked))

    assert last < first / 2
    assert asked[-1] < MANY / 2


async def test_a_call_that_is_not_made_fails_as_the_upstream_would_refuse_it(
    stub: EchoStub, registry: CollectorRegistry
) -> None:
    """Callers branch on code and reason, and need not know who said no; metrics count both."""
    errors = await failed(stub.Unary, Criticality.SHEDDABLE, MANY)
    kinds = {was_sent(error): Status.of(error) for error in errors}
    theirs, ours = kinds[True], kinds[False]
    counted = registry.get_sample_value(
        "rpc_client_call_duration_seconds_count",
        {
            "server_address": "tested",
            "rpc_method": "test.v1.EchoService/Unary",
            "rpc_response_status_code": "RESOURCE_EXHAUSTED",
        },
    )

    assert theirs.code is ours.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert theirs.reason == ours.reason == "OVERLOADED"
    assert theirs.domain == ours.domain == "tested"
    assert theirs.retry_after == ours.retry_after == timedelta(seconds=1)
    assert ours.message == "tested has too much to do."
    assert counted == MANY


async def test_what_matters_most_is_always_asked(upstream: Upstream, stub: EchoStub) -> None:
    """Even of an upstream that has refused everything so far, this too."""
    await failed(stub.Unary, Criticality.SHEDDABLE, MANY)
    await failed(stub.Unary, Criticality.CRITICAL_PLUS, MANY)

    assert upstream.asked[Criticality.SHEDDABLE] < MANY / 2
    assert upstream.asked[Criticality.CRITICAL_PLUS] == MANY


async def test_other_criticalities_are_not_affected(upstream: Upstream, stub: EchoStub) -> None:
    """An upstream that sheds searches is asked for all bookings."""
    upstream.refused = {Criticality.SHEDDABLE}
    shed = await failed(stub.Unary, Criticality.SHEDDABLE, MANY)
    kept = [
        await failed(stub.Unary, criticality, 50)
        for criticality in Criticality
        if criticality is not Criticality.SHEDDABLE
    ]

    assert len(shed) == MANY
    assert kept == [[], [], []]


async def test_calls_outside_any_context_are_critical(upstream: Upstream, stub: EchoStub) -> None:
    """As their receiver takes them, so their throttle is that of critical ones."""
    upstream.refused = {Criticality.CRITICAL}
    for _ in range(MANY):
        with pytest.raises(aio.AioRpcError):
            await stub.Unary(text("x"))
    asked = upstream.asked[Criticality.CRITICAL]
    kept = [await failed(stub.Unary, each, 50) for each in THROTTLED[:2]]

    assert asked < MANY / 2
    assert kept == [[], []]


async def test_an_upstream_that_serves_again_is_asked_for_everything_again(
    upstream: Upstream, clock: Clock, stub: EchoStub
) -> None:
    """A few calls find out while the others still fail; in the end none does."""
    await failed(stub.Unary, Criticality.SHEDDABLE, MANY)
    upstream.refused.clear()
    errors: list[int] = []
    async with asyncio.timeout(60):
        while found := await failed(stub.Unary, Criticality.SHEDDABLE, 50):
            errors.append(len(found))
            clock.now += 0.5

    assert errors[0] > 25
    assert await failed(stub.Unary, Criticality.SHEDDABLE, 50) == []


async def test_after_a_while_everything_is_asked_again(
    upstream: Upstream, clock: Clock, stub: EchoStub
) -> None:
    """What an upstream refused long ago says nothing about now."""
    await failed(stub.Unary, Criticality.SHEDDABLE, MANY)
    upstream.refused.clear()
    clock.now += LONG

    assert await failed(stub.Unary, Criticality.SHEDDABLE, 50) == []


async def test_a_stream_without_end_is_never_throttled(upstream: Upstream, stub: EchoStub) -> None:
    """It is made once and lasts; one with a timeout is a call as any other."""
    await failed(stub.Unary, Criticality.SHEDDABLE, MANY)
    before = upstream.asked[Criticality.SHEDDABLE]
    watches = await failed(stub.Spread, Criticality.SHEDDABLE, 20)
    between = upstream.asked[Criticality.SHEDDABLE]
    bounded = await failed(stub.Spread, Criticality.SHEDDABLE, 20, timeout=30)

    assert len(watches) == between - before == 20
    assert all(map(was_sent, watches))
    assert len(bounded) == 20
    assert upstream.asked[Criticality.SHEDDABLE] - between < 10
