"""Whatever happens to a stream, the copy ends up equal to the source."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from eventstream import Database, Follower
from flights.schedule.v1.schedule_pb2 import FlightEvent, WatchFlightsResponse
from streams.v1.stream_pb2 import Cursor
from tests.databases import Databases
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW
from tests.eventstream.test_follower import equal, following

Step: TypeAlias = tuple[str, int]

NUMBERS = count()
KEYS = st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS),
        st.tuples(st.just("put three"), KEYS),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("trim"), st.integers(0, 5)),
        st.tuples(st.just("epoch"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("pause"), st.just(0)),
    ),
    max_size=25,
)


def change(connection: Connection, step: Step, number: int) -> None:
    """Do one step at the source."""
    match step:
        case "put", key:
            mirror.put(connection, f"f{key}", number)
        case "put three", key:
            for n in range(key, key + 3):
                mirror.put(connection, f"f{n}", number)
        case "remove", key:
            mirror.remove(connection, f"f{key}")
        case "trim", keep:
            mirror.OUTBOX.trim(connection, keep=keep, before=NOW)
        case "epoch", _:
            mirror.OUTBOX.start_epoch(connection)
        case _:
            pass


@pytest.mark.parametrize("batch", [2])
@given(steps=STEPS, cuts=st.lists(st.integers(0, 6), max_size=6))
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_interleaving_ends_in_the_same_state(
    monkeypatch: pytest.MonkeyPatch,
    databases: Databases,
    batch: int,
    steps: list[Step],
    cuts: list[int],
) -> None:
    """Changes, trimming, new epochs, cut streams and restarted consumers, in any order."""
    monkeypatch.setattr("eventstream.feed.BATCH", batch)
    monkeypatch.setattr("eventstream.follower._FIRST_PAUSE", 0.001)
    number = next(NUMBERS)
    async with (
        mirror.source(databases(f"source_{number}")) as source,
        mirror.copy(databases(f"copy_{number}")) as copy,
    ):
        await play(source, copy, steps, cuts)
        async with following(consumer(source, copy, [])):
            same = await equal(source, copy, within=30)

    assert same


async def play(source: Database, copy: Database, steps: list[Step], cuts: list[int]) -> None:
    """Do the steps while a consumer follows, restarted where a step says so."""
    left = list(cuts)
    todo = list(enumerate(steps))
    while todo:
        async with following(consumer(source, copy, left)):
            while todo:
                number, step = todo.pop(0)
                await source.write(lambda c, s=step, n=number: change(c, s, n))  # type: ignore[misc]  # mypy can't infer it
                if step[0] == "pause":
                    await asyncio.sleep(0.01)
                if step[0] == "restart":
                    break


def consumer(source: Database, copy: Database, cuts: list[int]) -> Follower[FlightEvent]:
    """Return a consumer whose first streams end after as many responses as `cuts` say."""

    async def watch(cursor: Cursor | None) -> AsyncIterator[WatchFlightsResponse]:
        length = cuts.pop(0) if cuts else None
        async with aclosing(mirror.feed(source).watch(cursor)) as batches:
            async for batch in batches:
                if length == 0:
                    return
                length = None if length is None else length - 1
                yield mirror.answer(batch)

    return Follower("f", watch, mirror.inbox(copy))
