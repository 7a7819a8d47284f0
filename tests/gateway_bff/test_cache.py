"""What the cache keeps, for how long, and how new the next answer has to be."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Final

import psutil
import pytest
from prometheus_client import CollectorRegistry

from consulmesh.wellknown import timestamp
from flights.schedule.v1 import schedule_pb2
from flights.search.v1 import search_pb2 as pb
from gateway_bff.cache.answers import Answer, Answers, Miss, Question
from gateway_bff.cache.changes import (
    PRICING,
    SCHEDULE,
    SOURCES,
    Changes,
    Concern,
    of_flight,
    of_prices,
)
from gateway_bff.telemetry import CacheMetrics
from streams.v1.stream_pb2 import Cursor
from tests.flight_search.owners import flight_event, flight_removed, price_event, prices_removed

NOON: Final = datetime(2026, 12, 1, 12, tzinfo=UTC)
DAY: Final = date(2026, 12, 2)
LEAVES: Final = datetime(2026, 12, 2, 15, tzinfo=UTC)
QUESTION: Final = Question(
    origin="JFK",
    destination="LAX",
    day=DAY,
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
OTHER: Final = QUESTION._replace(origin="SFO")
ONE, TWO = "one", "two"  # histories


class World:
    """The cache, at noon, where both streams have come to their 10th event."""

    def __init__(self, **bounds: int) -> None:
        self.now = NOON
        self.lags = dict.fromkeys(SOURCES, 0.1)
        self.changes = Changes()
        self.answers = Answers(
            self.changes,
            {source: partial(self.lags.__getitem__, source) for source in SOURCES},
            CacheMetrics(CollectorRegistry()),
            clock=lambda: self.now.timestamp(),  # noqa: PLW0108 - `now` is set anew
            **bounds,
        )
        for source in SOURCES:
            self.hear(source, 10)

    def hear(self, source: str, seq: int, *concerns: Concern | None, epoch: str = ONE) -> None:
        """A stream goes on to there."""
        self.changes.passed(source, concerns, Cursor(epoch=epoch, seq=seq))

    def give(self, schedule: int = 10, pricing: int = 10, **how: Any) -> bool:
        """Answer the question as of these positions; whether that is kept."""
        question = how.pop("question", QUESTION)
        self.answers.needed(question)
        return self.answers.given(question, response(schedule, pricing, **how), b"{}", '"etag"')

    def needed(self, question: Question = QUESTION) -> dict[str, tuple[str, int]]:
        """What the next answer must have read."""
        needed = self.answers.needed(question)
        return {each.source: (each.cursor.epoch, each.cursor.seq) for each in needed}


def response(
    schedule: int,
    pricing: int,
    *,
    epoch: str = ONE,
    leaves: Sequence[datetime] = (LEAVES,),
    basis: pb.PriceBasis.ValueType = pb.PRICE_BASIS_LIVE,
) -> pb.SearchItinerariesResponse:
    """A page of direct flights from JFK to LAX."""
    return pb.SearchItinerariesResponse(
        itineraries=[
            pb.Itinerary(segments=[pb.Segment(departure_time=timestamp(at))], price_basis=basis)
            for at in leaves
        ],
        positions=[
            pb.SourcePosition(source=SCHEDULE, cursor=Cursor(epoch=epoch, seq=schedule)),
            pb.SourcePosition(source=PRICING, cursor=Cursor(epoch=epoch, seq=pricing)),
        ],
        origins=["JFK"],
        destinations=["LAX"],
    )


def flying(origin: str, destination: str, published: datetime = LEAVES) -> Concern:
    """A change of a flight."""
    event = flight_event("flt_1", origin, destination, published)
    event.flight_changed.scheduled_departure_time.CopyFrom(timestamp(published))
    concern = of_flight(event)
    assert concern
    return concern


def test_an_answer_is_used_again_until_something_changes() -> None:
    """And what it claims to have read grows with the streams meanwhile."""
    world = World()

    assert world.answers.find(QUESTION) is Miss.ABSENT
    assert world.give()
    world.hear(SCHEDULE, 12, flying("ORD", "SFO"))
    answer = world.answers.find(QUESTION)
    assert isinstance(answer, Answer)
    claimed = {source: at.seq for source, at in world.answers.cursors(answer).items()}
    assert claimed == {SCHEDULE: 12, PRICING: 10}


@pytest.mark.parametrize(
    "concern",
    [
        pytest.param(flying("JFK", "LAX"), id="a direct flight"),
        pytest.param(flying("JFK", "ORD"), id="a first flight"),
        pytest.param(flying("ORD", "LAX"), id="a last flight"),
        pytest.param(flying("JFK", "ORD", LEAVES - timedelta(days=2)), id="one put off till then"),
        pytest.param(flying("NRT", "LAX", LEAVES + timedelta(hours=26)), id="a last one, next day"),
        pytest.param(None, id="nobody knows what"),
    ],
)
def test_what_could_concern_an_answer_ends_it(concern: Concern | None) -> None:
    """Whatever it was: nobody looks whether the answer would be another one."""
    world = World()
    world.give()

    world.hear(SCHEDULE, 11, concern)

    assert world.answers.find(QUESTION) is Miss.CHANGED
    assert world.needed()[SCHEDULE] == (ONE, 11)
    assert not world.give(10)
    assert world.give(11)


@pytest.mark.parametrize(
    "concern",
    [
        pytest.param(flying("LAX", "JFK"), id="the other way"),
        pytest.param(flying("JFK", "LAX", LEAVES + timedelta(days=3)), id="after its day"),
        pytest.param(flying("JFK", "LAX", LEAVES - timedelta(days=7)), id="long before"),
    ],
)
def test_what_can_not_concern_an_answer_leaves_it(concern: Concern) -> None:
    """A change of a flight that no itinerary of the question has."""
    world = World()
    world.give()

    world.hear(SCHEDULE, 11, concern)

    assert isinstance(world.answers.find(QUESTION), Answer)
    assert world.needed()[SCHEDULE] == (ONE, 10)


def test_events_say_what_they_concern() -> None:
    """One that leaves out where it flies may concern anything."""
    priced = price_event("flt_1")
    unknown = schedule_pb2.FlightEvent()

    assert of_prices(priced) is None  # of a release that did not say
    priced.prices_changed.origin, priced.prices_changed.destination = "JFK", "LAX"
    priced.prices_changed.departure_time.CopyFrom(timestamp(LEAVES))
    concern = of_prices(priced)
    assert concern
    assert (concern.origin, concern.destination) == ("JFK", "LAX")
    assert of_prices(prices_removed("flt_1")) is None
    assert of_flight(flight_removed("flt_1")) is None
    assert of_flight(unknown) is None


def test_an_answer_ends_when_the_first_of_its_flights_leaves() -> None:
    """No event says that: a flight that has left is no longer found."""
    world = World()
    world.give(leaves=[NOON + timedelta(minutes=5), NOON + timedelta(minutes=3)])

    world.now += timedelta(minutes=2)
    assert isinstance(world.answers.find(QUESTION), Answer)
    world.now += timedelta(minutes=1)
    assert world.answers.find(QUESTION) is Miss.CHANGED


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_used_again_while_a_source_is_silent(source: str) -> None:
    """A change may have happened. Once the stream has caught up, silence means that none has."""
    world = World()
    world.give()

    world.lags[source] = 3.0
    assert world.answers.find(QUESTION) is Miss.UNCERTAIN
    assert not world.give()
    world.lags[source] = 0.1
    assert world.give()


def test_an_answer_that_does_not_say_where_it_flies_is_not_kept() -> None:
    """As those of a search of an earlier release; the next one must have read everything, too."""
    world = World()
    said = response(12, 12)
    del said.origins[:]

    world.answers.needed(QUESTION)
    assert not world.answers.given(QUESTION, said, b"{}", '"etag"')
    assert world.answers.find(QUESTION) is Miss.ABSENT
    assert world.needed() == {SCHEDULE: (ONE, 12), PRICING: (ONE, 12)}


def test_indicative_prices_are_not_kept() -> None:
    """Search does not hear of changes then, and would not say so later."""
    assert not World().give(basis=pb.PRICE_BASIS_INDICATIVE)


def test_the_first_answer_to_a_question_must_have_read_all_that_the_gateway_has() -> None:
    """What of that concerns it is not known before an answer says where it flies."""
    world = World()

    assert world.needed() == {SCHEDULE: (ONE, 10), PRICING: (ONE, 10)}
    world.give(10, 9)
    world.hear(SCHEDULE, 20, flying("ORD", "SFO"))
    assert world.needed() == {SCHEDULE: (ONE, 10), PRICING: (ONE, 10)}


def test_no_answer_may_be_older_than_an_earlier_one() -> None:
    """One instance may have been ahead of the gateway, and its answer not kept."""
    world = World()
    world.give(10)

    world.give(15, basis=pb.PRICE_BASIS_INDICATIVE)
    assert world.answers.find(QUESTION) is Miss.ABSENT
    assert world.needed()[SCHEDULE] == (ONE, 15)
    assert not world.give(14)
    assert world.give(15)


def test_what_is_forgotten_is_remembered_for_all() -> None:
    """The next answer is not older, although its question is new to the cache."""
    world = World(most_questions=1)
    world.give(15)

    world.give(question=OTHER)

    assert world.needed()[SCHEDULE] == (ONE, 15)


def test_a_new_history_ends_everything() -> None:
    """Positions of two histories can't be compared."""
    world = World()
    world.give()

    world.changes.restarted(SCHEDULE, Cursor(epoch=TWO, seq=3))
    assert world.answers.find(QUESTION) is Miss.UNCERTAIN
    assert world.needed()[SCHEDULE] == (TWO, 3)
    assert not world.give()
    assert world.give(3, epoch=TWO) is False  # pricing goes on where it was
    assert world.needed()[SCHEDULE] == (TWO, 3)


def test_after_a_gap_nothing_is_used_again() -> None:
    """What was missed is not known."""
    world = World()
    world.give()

    world.changes.restarted(PRICING, Cursor(epoch=ONE, seq=50))

    assert world.answers.find(QUESTION) is Miss.CHANGED
    assert world.needed()[PRICING] == (ONE, 50)


def test_bytes_are_bounded() -> None:
    """The answer that was not used for the longest time goes."""
    world = World(most_bytes=4)
    questions = [QUESTION._replace(passengers=n) for n in (1, 2, 3)]

    for question in questions[:2]:
        world.give(question=question)
    world.answers.find(questions[0])
    world.give(question=questions[2])

    kept = [isinstance(world.answers.find(question), Answer) for question in questions]
    assert kept == [True, False, True]


def test_topics_are_bounded() -> None:
    """An answer whose topics nobody keeps up to date is not used again."""
    world = World()
    world.changes = Changes(most_topics=1)
    world.answers = Answers(
        world.changes,
        dict.fromkeys(SOURCES, float),
        CacheMetrics(CollectorRegistry()),
        clock=NOON.timestamp,
    )
    for source in SOURCES:
        world.hear(source, 10)

    assert not world.give()
    assert world.needed() == {SCHEDULE: (ONE, 10), PRICING: (ONE, 10)}


def test_an_answer_with_two_stops_is_not_kept() -> None:
    """A flight in its middle leaves neither from its origin nor for its destination."""
    world = World()
    kept = world.give(question=QUESTION._replace(max_stops=2))

    assert not kept
    assert world.give()


def test_a_question_does_not_hold_on_to_the_message_of_its_answer() -> None:
    """Of 200 answers of a megabyte, what stays is what is kept of them."""
    world = World(most_bytes=1)
    page = response(10, 10)
    page.next_page_token = "x" * 1_000_000
    wire = page.SerializeToString()
    process = psutil.Process()

    before = process.memory_info().rss
    for number in range(200):
        question = QUESTION._replace(page_token=str(number))
        world.answers.needed(question)
        world.answers.given(question, pb.SearchItinerariesResponse.FromString(wire), b"{}", "")
    grown = process.memory_info().rss - before

    assert grown < 100_000_000
