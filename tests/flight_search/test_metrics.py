import asyncio
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from flight_search import metrics
from flight_search.domain import Position, SortOrder
from flight_search.metrics import MeasuredTimetable, count_for_ever
from flight_search.read_model import SCHEDULE, ReadModel
from tests.flight_search.systems import until
from tests.flight_search.timetables import direct, feed, flight, journey, prices, query

EIGHT = datetime(2026, 3, 8, 13, tzinfo=UTC)


async def test_flights_and_offers_are_counted(model: ReadModel) -> None:
    """The gauges are what the model knows: a cabin with a price is an offer."""
    feed(model, [flight(f"f{n}", "JFK", "LAX", EIGHT) for n in range(3)])
    feed(model, [prices(f"f{n}") for n in range(2)])
    job = asyncio.ensure_future(count_for_ever(model))
    await until(lambda: REGISTRY.get_sample_value("flight_search_offers") == 4)
    job.cancel()

    assert REGISTRY.get_sample_value("flight_search_flights") == 3


async def test_nothing_is_counted_again_without_news(
    model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timetable that stands still costs nothing; a change is counted."""
    counts: list[int] = []
    count = model.count

    def counted(after: int, width: int) -> tuple[int, int, int | None]:
        counts.append(after)
        return count(after, width)

    monkeypatch.setattr(metrics, "COUNT_EVERY", 0.0)
    monkeypatch.setattr(model, "count", counted)
    feed(model, [flight("a", "JFK", "LAX", EIGHT)])
    job = asyncio.ensure_future(count_for_ever(model))
    await until(lambda: bool(counts))
    await asyncio.sleep(0.02)
    quiet = len(counts)
    position = Position(source=SCHEDULE, epoch="e", seq=1)
    model.apply(SCHEDULE, [flight("b", "JFK", "LAX", EIGHT)], position)
    await until(lambda: len(counts) > quiet)
    job.cancel()

    assert quiet == 1
    assert REGISTRY.get_sample_value("flight_search_flights") == 2


def test_every_kind_of_query_is_timed(model: ReadModel) -> None:
    """A measured timetable answers as the one behind it, and counts its queries by kind."""

    def count(kind: str) -> float:
        name = "flight_search_query_duration_seconds_count"
        return REGISTRY.get_sample_value(name, {"kind": kind}) or 0.0

    feed(model, [flight("a", "JFK", "LAX", EIGHT), prices("a")])
    feed(model, [flight("b", "JFK", "FRA", EIGHT), flight("c", "FRA", "LAX", EIGHT)])
    kinds = ("direct", "one_stop", "two_stops")
    timetable, way = MeasuredTimetable(model), journey(query())
    before = [count(kind) for kind in kinds]
    answers = [timetable.find(way, SortOrder.PRICE, stops) for stops in (0, 1, 2)]

    assert answers == [model.find(way, SortOrder.PRICE, stops) for stops in (0, 1, 2)]
    assert [len(found) for found in answers] == [1, 0, 0]
    assert timetable.vias(way, 1) == ["FRA"]
    assert timetable.itineraries(way.cabin, answers[0]) == direct(model, query())
    assert timetable.served() == {"JFK", "LAX", "FRA"}
    assert [count(kind) for kind in kinds] == [number + 1 for number in before]
