"""Durable streams under kill -9, and at every cursor (S1, S2, S4)."""

import asyncio
import os
import random
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import pytest
from sqlalchemy import Connection

from consulmesh.testing.ports import free_port
from eventstream import Batch, Database
from eventstream.outbox import Stored
from flights.schedule.v1.schedule_pb2 import FlightEvent
from streams.v1.stream_pb2 import PHASE_EVENTS, PHASE_SNAPSHOT_STARTED, Cursor
from tests.chaos.figures import LONG, figure
from tests.chaos.stream_parties import (
    PATIENCE,
    Party,
    complete,
    digest,
    entries,
    followed,
    head_of,
    history,
    journal,
    left_over,
    parties,
    stand_at,
)
from tests.databases import Databases
from tests.eventstream import mirror
from tests.eventstream.test_follower import equal

SEED: Final = int(os.environ.get("FLIGHTMESH_SEED", "2013"))
EVENTS: Final = 100_000 if LONG else 2_000
KILLS: Final = 60 if LONG else 2
CURSORS: Final = 2_000
STEP: Final = 1 if LONG else 40

pytestmark = pytest.mark.timeout(2 * PATIENCE)


async def test_s1_nothing_is_lost_doubled_or_reordered(databases: Databases, engine: str) -> None:
    """Producer and consumer are killed at random: the journal is the outbox, event by event."""
    chance = random.Random(SEED)
    urls, port = (databases("source"), databases("copy")), free_port()
    async with mirror.source(urls[0]) as source, mirror.copy(urls[1]) as copy:
        await stand_at(copy, (await head_of(source)).epoch, 0)
        producer = Party("producer", urls[0], port, EVENTS, SEED)
        consumer = Party("witness", urls[1], port)
        with parties(producer, consumer):
            victims = [producer, consumer] * KILLS
            for victim in chance.sample(victims, KILLS):
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                await asyncio.to_thread(victim.kill)
                victim.start()
            await complete(source, copy, EVENTS, PATIENCE)
            kills = producer.kills, consumer.kills
        events, applied = await history(source), await copy.read(journal)
        states = digest(await source.read(mirror.state)), digest(await copy.read(mirror.copied))
    figure(
        "S1",
        f"{engine}: {len(events):,} events, kill -9 of the producer {kills[0]} times and of the "
        f"consumer {kills[1]} times, seed {SEED}: the journal is the outbox, state {states[1]}",
    )

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert applied == entries(events)
    assert states[0] == states[1]


async def test_s2_every_cursor_is_continued_exactly(databases: Databases, engine: str) -> None:
    """At each of them the next event is the next one, and no batch ends within a transaction."""
    chance = random.Random(SEED)
    async with mirror.source(databases("source")) as source:
        while (await head_of(source)).seq <= CURSORS:
            await source.write(partial(_change_some, chance=chance))
        writing = asyncio.create_task(_write_on(source, chance))
        epoch = (await head_of(source)).epoch
        cursors = [Cursor(epoch=epoch, seq=n) for n in range(0, CURSORS + 1, STEP)]
        firsts = [await _first(source, cursor) for cursor in cursors]
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        events = await history(source)
    wrong = [
        cursor.seq
        for cursor, batch in zip(cursors, firsts, strict=True)
        if not _continues(events, cursor, batch)
    ]
    figure(
        "S2",
        f"{engine}: {len(cursors):,} of the cursors 0 to {CURSORS:,} continued by the next event, "
        f"up to the end of a transaction, while the history grew to {len(events):,}",
    )

    assert wrong == []
    assert len(events) > CURSORS


def _change_some(connection: Connection, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 9)):
        mirror.put(connection, f"f{chance.randrange(100)}", chance.randrange(9_000))


async def _write_on(source: Database, chance: random.Random) -> None:
    while True:
        await source.write(partial(_change_some, chance=chance))
        await asyncio.sleep(0)


async def _first(source: Database, cursor: Cursor) -> Batch[FlightEvent]:
    async with aclosing(mirror.feed(source).watch(cursor)) as batches:
        return await anext(batches)


def _continues(events: Sequence[Stored], cursor: Cursor, batch: Batch[FlightEvent]) -> bool:
    """Whether a batch is what follows a cursor, up to the end of a unit."""
    assert batch.cursor is not None
    end = batch.cursor.seq
    ends_a_unit = end == len(events) or events[end].unit != events[end - 1].unit
    sent = [event.SerializeToString() for event in batch.events]
    stored = [event.payload for event in events[cursor.seq : end]]
    return batch.phase == PHASE_EVENTS and sent == stored and ends_a_unit


@pytest.mark.parametrize(
    ("epoch", "ahead"), [("another", 0), ("", 0), ("same", 1), ("same", 2**62), ("same", -100)]
)
async def test_s4_a_position_of_no_history_is_not_continued(
    databases: Databases, engine: str, epoch: str, ahead: int
) -> None:
    """Of another epoch, in the future, before the beginning: said, and a snapshot mends it."""
    async with mirror.source(databases("source")) as source, mirror.copy(databases("copy")) as copy:
        await source.write(lambda c: [mirror.put(c, f"f{n}", n) for n in range(20)])
        head = await head_of(source)
        cursor = Cursor(epoch=head.epoch if epoch == "same" else epoch, seq=head.seq + ahead)
        said = (await _first(source, cursor)).phase
        await stand_at(copy, cursor.epoch, cursor.seq)
        await copy.write(lambda c: mirror.apply(c, left_over()))
        async with followed(source, copy):
            same = await equal(source, copy, PATIENCE)
        position = await mirror.inbox(copy).position()
    figure("S4", f"{engine}: position {ahead:+} of epoch {epoch!r}: snapshot, equal")

    assert said == PHASE_SNAPSHOT_STARTED
    assert same
    assert position == Cursor(epoch=head.epoch, seq=head.seq)
