"""Loads a timetable ahead of time: `python -m schedule.load synthetic flights=1000000`.

Fills the window of schedule's database (DATABASE_URL, else the file of `make up`) as the service
would on its first start, and names the source there: from then on the service rolls its window on
with the same. What is there already stays, so an interrupted load goes on where it stopped.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, timedelta
from typing import Final

import structlog

from consulmesh import MeshConfig
from consulmesh.config import ConfigError
from eventstream import Database, Lease, StorageUnavailableError, database_url
from schedule import __version__
from schedule.clock import SystemClock
from schedule.domain import Flight
from schedule.sources import SOURCES, Report, TimetableSource, UnknownSourceError, source_of
from schedule.tables import leases
from schedule.timetable import Airports, MalformedTimetableError
from schedule.window import DAYS, HOME, Window
from schedule.window_store import WINDOW_LEASE, OtherSourceError, SqlWindowStore

TAKEOVER: Final = timedelta(seconds=4)
BAR: Final = 30


class BusyError(Exception):
    """Another process keeps this timetable."""


class Progress:
    """A source that draws a bar of the days that have been stored, on a terminal or not."""

    def __init__(self, source: TimetableSource) -> None:
        self._source = source

    def __call__(self, days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        """The days of the source; whoever asks for the next one has stored the one before."""
        flights = 0
        for done, (day, found) in enumerate(self._source(days)):
            self._draw(done, len(days), flights, f"storing {day}")
            yield day, found
            flights += len(found)
        self._draw(len(days), len(days), flights, "stored")
        print(file=sys.stderr)  # noqa: T201 - a command

    def _draw(self, done: int, of: int, flights: int, doing: str) -> None:
        bar = "#" * (BAR * done // of)
        line = f"[{bar:<{BAR}}] {done}/{of} days, {flights:,} flights, {doing}"
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"{line:<90}", end=end, file=sys.stderr, flush=True)  # noqa: T201 - a command


async def load(url: str, name: str, *, patience: timedelta = 2 * TAKEOVER) -> Report:
    """Load what is missing of the window that begins today, and return what became of it.

    Raises `UnknownSourceError`, `OtherSourceError` where the database has days of another source,
    `MalformedTimetableError`, `BusyError`, and what `Database.open` raises.
    """
    airports = await asyncio.to_thread(Airports.load)
    source = source_of(name, airports)
    async with Database.open(url, migrations="schedule:migrations") as db:
        lease = Lease(db, leases, WINDOW_LEASE, f"load-{os.getpid()}", TAKEOVER)
        store = SqlWindowStore(db, lease.check, source=name)
        await store.check_source()
        clock = SystemClock()
        window = Window(store, Progress(source), clock)
        begun, loaded = asyncio.Event(), asyncio.Event()

        async def job() -> None:
            begun.set()
            await window.roll(clock.now().astimezone(HOME).date())
            loaded.set()

        leading = asyncio.create_task(lease.lead(job))
        try:
            await _first(leading, begun, patience)
            await _first(leading, loaded, None)
        finally:
            leading.cancel()
            with suppress(asyncio.CancelledError):
                await leading
    return source.report()


async def _first(
    leading: asyncio.Task[None], event: asyncio.Event, patience: timedelta | None
) -> None:
    """Wait for an event, or for what made it impossible."""
    waiting = asyncio.create_task(event.wait())
    timeout = patience.total_seconds() if patience else None
    done, _ = await asyncio.wait(
        {leading, waiting}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
    )
    waiting.cancel()
    if leading in done:
        leading.result()
    if not done:
        raise BusyError("a schedule service keeps this timetable: stop it first")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m schedule.load",
        description="Load a timetable ahead of time: the window of "
        f"{DAYS} days from today on. An interrupted load goes on where it stopped.",
    )
    parser.add_argument("source", choices=SOURCES, help="where the flights come from")
    parser.add_argument("options", nargs="*", help="of synthetic: flights=1000000 seed=1")
    given = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        config = MeshConfig.from_env(os.environ, version=__version__)
        url = database_url(os.environ, "schedule", config.state_dir)
        report = asyncio.run(load(url, " ".join([given.source, *given.options])))
    except (
        BusyError,
        ConfigError,
        MalformedTimetableError,
        OtherSourceError,
        StorageUnavailableError,
        UnknownSourceError,
    ) as error:
        sys.exit(f"not loaded: {error}")
    for what, count in report.items():
        print(f"{what:<28} {count:>12,}")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
