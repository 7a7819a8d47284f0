"""Which changes could make the answer to a question another one, and where they were in a history.

A search with at most one stop finds flights that leave its origin on its day and flights that
arrive at its destination within some days of it: any other flight leaves its answer as it is. So
each end of a question, with its day, is a topic, and a change touches a handful of them.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple

from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1.schedule_pb2 import FlightEvent
from streams.v1.stream_pb2 import Cursor

SCHEDULE: Final = "schedule"
PRICING: Final = "pricing"
SOURCES: Final = (SCHEDULE, PRICING)

MOST_TOPICS: Final = 65_536
MOST_STOPS: Final = 1
"""Of a question whose ends are all that its answer depends on."""

_HOUR: Final = 3_600
_DAY: Final = 24 * _HOUR
_LONGEST_DELAY: Final = 48 * _HOUR
"""By how much schedule may put a flight off; what is on sale has moved by that at most."""
_LONGEST_BEFORE: Final = 30 * _HOUR
"""Between the departures of the first and the last of two flights: a flight and a connection."""
_CLOCKS: Final = (-12 * _HOUR, 14 * _HOUR)
"""How far local clocks are from UTC."""
_EPOCH: Final = date(1970, 1, 1).toordinal()


class End(NamedTuple):
    """One end of a question on one day, which is a number of `date.toordinal`."""

    arrives: bool
    airport: str
    day: int


class Concern(NamedTuple):
    """What a change is about: the ends of a flight, and when it may have been to leave.

    Times are epoch seconds.
    """

    origin: str
    destination: str
    earliest: int
    latest: int

    def ends(self) -> Iterable[End]:
        """The ends of the questions that could find the flight."""
        for day in _days(self.earliest, self.latest):
            yield End(arrives=False, airport=self.origin, day=day)
        for day in _days(self.earliest - _LONGEST_BEFORE, self.latest):
            yield End(arrives=True, airport=self.destination, day=day)


class Topic:
    """An end that is asked about; `changed` has the newest change that touched it, by source.

    A topic that nobody keeps up to date any more was changed in the infinitely far future.
    """

    __slots__ = ("changed",)

    def __init__(self, changed: Mapping[str, float]) -> None:
        self.changed = dict(changed)

    def forget(self) -> None:
        """Nobody keeps it up to date from here on."""
        self.changed = dict.fromkeys(SOURCES, math.inf)


def ends_of(origins: Iterable[str], destinations: Iterable[str], day: date) -> list[End]:
    """The ends of a question about these airports."""
    ordinal = day.toordinal()
    return [
        *(End(arrives=False, airport=code, day=ordinal) for code in origins),
        *(End(arrives=True, airport=code, day=ordinal) for code in destinations),
    ]


def of_flight(event: FlightEvent) -> Concern | None:
    """What schedule's event is about; None where that may be anything."""
    if event.WhichOneof("change") != "flight_changed":
        return None
    flight = event.flight_changed
    published = flight.scheduled_departure_time.seconds
    return Concern(flight.origin, flight.destination, published, published + _LONGEST_DELAY)


def of_prices(event: PriceEvent) -> Concern | None:
    """What pricing's event is about; None where that may be anything."""
    if event.WhichOneof("change") != "prices_changed" or not event.prices_changed.origin:
        return None
    prices = event.prices_changed
    leaves = prices.departure_time.seconds
    return Concern(
        prices.origin, prices.destination, leaves - _LONGEST_DELAY, leaves + _LONGEST_DELAY
    )


class Changes:
    """Where the gateway's streams stand, and what they have said about the topics in use.

    State: `_cursors`, by source, are there once the source was reached; `_anything` is the newest
    change that may concern any question; `_topics`, the least recently used one first.
    """

    def __init__(self, most_topics: int = MOST_TOPICS) -> None:
        self._most_topics = most_topics
        self._cursors: dict[str, Cursor] = {}
        self._anything: dict[str, float] = {}
        self._topics: OrderedDict[End, Topic] = OrderedDict()

    def cursor(self, source: str) -> Cursor | None:
        """Where the gateway stands in a source's history; None before it was reached."""
        return self._cursors.get(source)

    def passed(self, source: str, concerns: Iterable[Concern | None], cursor: Cursor) -> None:
        """Changes were announced, the last of them at the cursor."""
        for concern in concerns if self._topics else ():
            # Each counts as the last of them: who has read some but not all has to read on.
            if concern is None:
                self._anything[source] = cursor.seq
            else:
                self._touch(source, concern, cursor.seq)
        self._cursors[source] = cursor

    def restarted(self, source: str, cursor: Cursor) -> None:
        """Changes were missed, or the source has begun another history."""
        self._cursors[source] = cursor
        self._anything[source] = cursor.seq
        for topic in self._topics.values():
            topic.forget()
        self._topics.clear()

    def topics(self, ends: Iterable[End]) -> tuple[Topic, ...]:
        """The topics of a question, to be kept up to date from now on."""
        return tuple(map(self._topic, ends))

    def changed(self, source: str, topics: Sequence[Topic]) -> float:
        """The newest change at the source that could concern a question of these topics."""
        return max(
            self._anything.get(source, 0), *(topic.changed.get(source, 0) for topic in topics)
        )

    def _topic(self, end: End) -> Topic:
        topic = self._topics.get(end)
        if topic is not None:
            self._topics.move_to_end(end)
            return topic
        # What has touched it before is not known: it may have been the newest change.
        topic = Topic({source: cursor.seq for source, cursor in self._cursors.items()})
        self._topics[end] = topic
        if len(self._topics) > self._most_topics:
            _, forgotten = self._topics.popitem(last=False)
            forgotten.forget()
        return topic

    def _touch(self, source: str, concern: Concern, seq: int) -> None:
        for end in concern.ends():
            topic = self._topics.get(end)
            if topic is not None:
                topic.changed[source] = seq


def _days(earliest: int, latest: int) -> Iterable[int]:
    """The calendar days, anywhere, of the instants between two."""
    behind, ahead = _CLOCKS
    return range(_EPOCH + (earliest + behind) // _DAY, _EPOCH + (latest + ahead) // _DAY + 1)
