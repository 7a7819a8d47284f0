"""Changes race against reads over two search instances of different position.

The instances are real read models that follow two histories at their own pace, the gateway's
streams are at a third place in them, and a fourth model is the judge: it is brought to just where
an answer claims to be, and where it must be, and asked the same.
"""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry

from consulmesh.wellknown import date_message, timestamp
from flight_search.domain import Position, PriceBasis
from flight_search.read_model import ReadModel
from flight_search.service import ItinerarySearch
from flight_search.servicer import SearchServicer
from flight_search.upstreams import flight_change, price_change
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.search.v1 import search_pb2 as pb
from flights.type.v1 import cabin_pb2
from gateway_bff import translate
from gateway_bff.cache.answers import Answer, Answers, Question
from gateway_bff.cache.changes import PRICING, SCHEDULE, SOURCES, Changes, of_flight, of_prices
from gateway_bff.cache.conditional import etag
from gateway_bff.telemetry import CacheMetrics
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import flight_event, flight_removed, price_event, prices_removed
from tests.flight_search.timetables import DIRECTORY

EPOCH: Final = "one"
NOW: Final = datetime(2026, 3, 6, 12, tzinfo=UTC)
DAYS: Final = [date(2026, 3, 7), date(2026, 3, 8)]  # clocks change on the second
WAYS: Final = [
    *[("JFK", "LAX"), ("LGA", "LAX"), ("LAX", "SYD"), ("JFK", "FRA"), ("LGA", "FRA")],
    *[("FRA", "LAX"), ("FRA", "SYD"), ("LAX", "FRA"), ("SYD", "LAX")],
]
ENDS: Final = [("JFK", "LAX"), ("NYC", "LAX"), ("LAX", "SYD")]
STEPS: Final = 400
SEEDS: Final = 10
HITS: Final = 300
"""At least, of all seeds together: without them nothing would be shown."""

Event = schedule_pb2.FlightEvent | pricing_pb2.PriceEvent
Reached = dict[str, int]


@dataclass
class Owners:
    """The histories of schedule and pricing."""

    chance: random.Random
    histories: dict[str, list[Event]] = field(default_factory=lambda: {s: [] for s in SOURCES})
    flights: dict[str, tuple[str, str, datetime, int]] = field(default_factory=dict)
    versions: int = 0

    def change(self) -> None:
        """Something happens to a flight, often to a new one."""
        draw = self.chance
        if len(self.flights) < 40 or draw.random() < 0.05:
            origin, destination = draw.choice(WAYS)
            leaves = datetime(2026, 3, 6, 20, tzinfo=UTC) + timedelta(minutes=draw.randrange(3_600))
            key = f"flt_{self._version():04}"  # a flight keeps its route for ever
            self.flights[key] = (origin, destination, leaves, draw.choice((70, 300, 900)))
            self._fly(key)
            self._price(key)
            return
        key = draw.choice(list(self.flights))
        draw.choices((self._fly, self._price, self._remove), (10, 6, 3))[0](key)

    def _fly(self, key: str) -> None:
        origin, destination, published, minutes = self.flights[key]
        delay = timedelta(minutes=self.chance.choice((0, 0, 0, 25, 300, 1_500, 2_880)))
        event = flight_event(
            key,
            origin,
            destination,
            published + delay,
            minutes,
            seats=self.chance.choice((0, 1, 9, 9)),
            version=self._version(),
            status=self.chance.choice(
                (*[schedule_pb2.FLIGHT_STATUS_SCHEDULED] * 5, schedule_pb2.FLIGHT_STATUS_CANCELLED)
            ),
        )
        event.flight_changed.scheduled_departure_time.CopyFrom(timestamp(published))
        self.histories[SCHEDULE].append(event)

    def _price(self, key: str) -> None:
        origin, destination, published, _ = self.flights[key]
        event = price_event(key, self.chance.choice((100, 150, 200)), version=self._version())
        event.prices_changed.origin = origin
        event.prices_changed.destination = destination
        event.prices_changed.departure_time.CopyFrom(timestamp(published))
        self.histories[PRICING].append(event)

    def _remove(self, key: str) -> None:
        del self.flights[key]
        self.histories[SCHEDULE].append(flight_removed(key, self._version()))
        self.histories[PRICING].append(prices_removed(key, self._version()))

    def _version(self) -> int:
        self.versions += 1
        return self.versions


class Instance:
    """A search instance; whoever asks it for a position makes it read on."""

    def __init__(self, owners: Owners, model: ReadModel) -> None:
        self._owners = owners
        self._model = model
        self.reached: Reached = dict.fromkeys(SOURCES, 0)
        for source in SOURCES:
            model.start_snapshot(source)
            self._stand(source)
        self._servicer = SearchServicer(ItinerarySearch(model, DIRECTORY, self, lambda: NOW))

    def follow(self, source: str, seq: int) -> None:
        """Read a source up to there, or to its end."""
        read: dict[str, Callable[[Any], Any]] = {SCHEDULE: flight_change, PRICING: price_change}
        some = self._owners.histories[source][self.reached[source] : seq]
        for event in some:
            self._model.apply(source, [read[source](event)], None)
        self.reached[source] += len(some)
        self._stand(source)

    def is_before(self, positions: Reached) -> bool:
        """Whether it can be brought to these positions."""
        return all(self.reached[source] <= seq for source, seq in positions.items())

    async def ask(
        self, question: Question, needed: Sequence[pb.SourcePosition]
    ) -> pb.SearchItinerariesResponse:
        """A page."""
        request = pb.SearchItinerariesRequest(
            query=pb.ItineraryQuery(
                origin=question.origin,
                destination=question.destination,
                departure_date=date_message(question.day),
                passengers=question.passengers,
                cabin=cabin_pb2.CABIN_ECONOMY,
                max_stops=question.max_stops,
            ),
            page_size=question.page_size,
            preferred_positions=needed,
        )
        context: Any = None
        return await self._servicer.SearchItineraries(request, context)

    def positions(self) -> tuple[Position, ...]:
        """Where it stands."""
        return tuple(
            Position(source=source, epoch=EPOCH, seq=seq) for source, seq in self.reached.items()
        )

    def price_basis(self) -> PriceBasis:
        """Always live."""
        return PriceBasis.LIVE

    async def reach(self, at_least: Sequence[Position]) -> None:
        """Nobody asks for that here."""
        assert not at_least

    async def approach(self, preferred: Sequence[Position]) -> None:
        """Read on."""
        for each in preferred:
            self.follow(each.source, each.seq)

    def _stand(self, source: str) -> None:
        self._model.apply(
            source, (), Position(source=source, epoch=EPOCH, seq=self.reached[source])
        )


@contextmanager
def instances(owners: Owners) -> Iterator[Callable[[], Instance]]:
    """Makes instances that are closed with the block."""
    with ExitStack() as stack:

        def make() -> Instance:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            return Instance(
                owners, stack.enter_context(ReadModel(Path(folder) / "model.db", DIRECTORY))
            )

        yield make


class Gateway:
    """The cache, its streams, and the instances it asks."""

    def __init__(self, owners: Owners, behind: Sequence[Instance]) -> None:
        self.heard: Reached = dict.fromkeys(SOURCES, 0)
        self.hits = 0
        self._owners = owners
        self._behind = behind
        self._changes = Changes(owners.chance.choice((6, 1_000)))
        self._answers = Answers(
            self._changes,
            dict.fromkeys(SOURCES, float),
            CacheMetrics(CollectorRegistry()),
            clock=NOW.timestamp,
            most_bytes=owners.chance.choice((5_000, 1_000_000)),
            most_questions=owners.chance.choice((2, 1_000)),
        )
        for source in SOURCES:
            self.hear(source, 0)

    def hear(self, source: str, events: int) -> None:
        """Read some more of a stream."""
        concern: dict[str, Callable[[Any], Any]] = {SCHEDULE: of_flight, PRICING: of_prices}
        before = self.heard[source]
        some = self._owners.histories[source][before : before + events]
        self.heard[source] += len(some)
        cursor = Cursor(epoch=EPOCH, seq=self.heard[source])
        self._changes.passed(source, map(concern[source], some), cursor)

    async def ask(self, question: Question) -> tuple[bytes, Reached]:
        """An answer, and the positions that it claims; now and then for one who has seen more."""
        draw = self._owners.chance
        found = self._answers.find(question)
        if isinstance(found, Answer) and draw.random() < 0.9:
            self.hits += 1
            cursors = self._answers.cursors(found)
            return found.body, {source: cursor.seq for source, cursor in cursors.items()}
        response = await draw.choice(self._behind).ask(question, self._answers.needed(question))
        for source in SOURCES:  # the streams do not wait for an answer
            self.hear(source, draw.choice((0, 3)))
        body = translate.itineraries(response, cabin_pb2.CABIN_ECONOMY)
        self._answers.given(question, response, body, etag(body))
        return body, reached(response.positions)


def reached(positions: Sequence[pb.SourcePosition]) -> Reached:
    """The numbers of positions."""
    return {each.source: each.cursor.seq for each in positions}


def newest(*positions: Reached) -> Reached:
    """The newest of each source."""
    return {source: max(each.get(source, 0) for each in positions) for source in SOURCES}


async def race(seed: int) -> int:
    """Let changes race against reads; how many answers came from the cache."""
    owners = Owners(random.Random(seed))
    draw = owners.chance
    earlier: dict[Question, Reached] = {}
    with instances(owners) as new:
        behind, judges = [new(), new()], list[Instance]()
        gateway = Gateway(owners, behind)
        for _ in range(60):
            owners.change()
        for step in range(STEPS):
            match draw.choices(("change", "follow", "hear", "ask"), (4, 2, 4, 12))[0]:
                case "change":
                    owners.change()
                case "follow":
                    instance, source = draw.choice(behind), draw.choice(SOURCES)
                    instance.follow(source, instance.reached[source] + draw.randrange(8))
                case "hear":
                    gateway.hear(draw.choice(SOURCES), draw.randrange(8))
                case _:
                    question = some_question(draw)
                    must = newest(gateway.heard, earlier.get(question, {}))
                    body, claimed = await gateway.ask(question)
                    earlier[question] = newest(claimed, must)
                    judge = next((one for one in judges if one.is_before(earlier[question])), None)
                    if judge is None:
                        judges.append(judge := new())

                    assert body == await told(judge, question, earlier[question]), (seed, step)
        return gateway.hits


async def told(judge: Instance, question: Question, positions: Reached) -> bytes:
    """What a read model says that is just there."""
    for source, seq in positions.items():
        judge.follow(source, seq)
    return translate.itineraries(await judge.ask(question, ()), cabin_pb2.CABIN_ECONOMY)


def some_question(draw: random.Random) -> Question:
    """One of not so many questions."""
    origin, destination = draw.choice(ENDS)
    return Question(
        origin=origin,
        destination=destination,
        day=draw.choice(DAYS),
        passengers=1,
        cabin="economy",
        max_stops=1,
        carriers=(),
        departs_from=None,
        departs_before=None,
        sort="price",
        page_size=20,
        page_token="",
    )


@pytest.mark.timeout(600)
async def test_no_answer_is_older_than_the_streams_or_an_earlier_answer() -> None:
    """Nor is it other than a search at the position that it claims."""
    hits = [await race(seed) for seed in range(SEEDS)]

    assert sum(hits) > HITS, hits
