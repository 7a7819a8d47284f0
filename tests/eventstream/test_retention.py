import asyncio
from datetime import timedelta

from eventstream import Database, Retention, trim_forever
from tests.eventstream.conftest import NOW, OUTBOX


async def test_an_outbox_is_kept_within_its_bounds(db: Database) -> None:
    """Of many events the newest are left, however many units it takes; time after time."""
    rows = [(str(n), b"", NOW) for n in range(12_000)]
    await db.write(lambda c: OUTBOX.append_many(c, rows))
    retention = Retention(keep=100, age=timedelta(days=1), every=timedelta(milliseconds=10))
    trimming = asyncio.create_task(trim_forever(db, OUTBOX, retention, clock=lambda: NOW))
    first = await _left(db, 100)
    await db.write(lambda c: OUTBOX.append_many(c, rows[:50]))
    second = await _left(db, 100)
    trimming.cancel()
    await asyncio.gather(trimming, return_exceptions=True)

    assert first == list(range(11_901, 12_001))
    assert second == list(range(11_951, 12_051))


async def _left(db: Database, count: int) -> list[int]:
    """Wait until so many events are left and return their numbers."""
    async with asyncio.timeout(60):
        while True:
            seen = db.version
            events = await db.read(lambda c: OUTBOX.after(c, 0, 100_000))
            if len(events) == count:
                return [event.seq for event in events]
            await db.changed(seen)
