from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_search.domain import InvalidQueryError, ItineraryQuery, admit, midnight
from tests.flight_search.timetables import NOON, ZONES, query


def refused(asked: ItineraryQuery, now: datetime = NOON) -> tuple[str, list[tuple[str, str]]]:
    """The reason of a refusal, and each violation's field and reason."""
    with pytest.raises(InvalidQueryError) as caught:
        admit(asked, ZONES.get, now)
    return caught.value.reason, [(v.field, v.reason) for v in caught.value.violations]


@pytest.mark.parametrize(
    ("asked", "reason", "violation"),
    [
        (query(""), "VALIDATION_FAILED", ("query.origin", "REQUIRED")),
        (query(destination=""), "VALIDATION_FAILED", ("query.destination", "REQUIRED")),
        (query("XXX"), "UNKNOWN_AIRPORT", ("query.origin", "UNKNOWN_AIRPORT")),
        (query("jfk"), "UNKNOWN_AIRPORT", ("query.origin", "UNKNOWN_AIRPORT")),
        (query(destination="XXX"), "UNKNOWN_AIRPORT", ("query.destination", "UNKNOWN_AIRPORT")),
        (query("LAX", "LAX"), "VALIDATION_FAILED", ("query.destination", "SAME_AS_ORIGIN")),
        (query(day=None), "VALIDATION_FAILED", ("query.departure_date", "INVALID_DATE")),
        (
            query(day=date(2026, 3, 5)),
            "DATE_OUT_OF_RANGE",
            ("query.departure_date", "DATE_OUT_OF_RANGE"),
        ),
        (
            query(day=date(2027, 3, 7)),
            "DATE_OUT_OF_RANGE",
            ("query.departure_date", "DATE_OUT_OF_RANGE"),
        ),
        (
            query(day=date.max),
            "DATE_OUT_OF_RANGE",
            ("query.departure_date", "DATE_OUT_OF_RANGE"),
        ),
        (query(passengers=0), "VALIDATION_FAILED", ("query.passengers", "OUT_OF_RANGE")),
        (query(passengers=10), "VALIDATION_FAILED", ("query.passengers", "OUT_OF_RANGE")),
        (query(cabin=None), "VALIDATION_FAILED", ("query.cabin", "INVALID_CABIN")),
        (query(max_stops=2), "VALIDATION_FAILED", ("query.max_stops", "OUT_OF_RANGE")),
        (query(max_stops=-1), "VALIDATION_FAILED", ("query.max_stops", "OUT_OF_RANGE")),
    ],
)
def test_a_wrong_query_is_refused_by_field(
    asked: ItineraryQuery, reason: str, violation: tuple[str, str]
) -> None:
    """Each rule has its field and its reason."""
    assert refused(asked) == (reason, [violation])


def test_everything_wrong_is_said_at_once() -> None:
    """A query with several faults names them all, under the most telling reason."""
    reason, violations = refused(query("XXX", "", None, passengers=0, cabin=None, max_stops=9))

    assert reason == "UNKNOWN_AIRPORT"
    assert [field for field, _ in violations] == [
        "query.origin",
        "query.destination",
        "query.departure_date",
        "query.passengers",
        "query.cabin",
        "query.max_stops",
    ]


@pytest.mark.parametrize(
    ("origin", "now", "first"),
    [
        ("LAX", datetime(2026, 3, 6, 7, tzinfo=UTC), date(2026, 3, 5)),
        ("SYD", datetime(2026, 3, 6, 14, tzinfo=UTC), date(2026, 3, 7)),
    ],
)
def test_today_is_the_origins(origin: str, now: datetime, first: date) -> None:
    """The first day that can be asked for is the local day at the origin, the last a year on."""
    for day in (first, first + timedelta(days=365)):
        admit(query(origin, "FRA", day), ZONES.get, now)
    for day in (first - timedelta(days=1), first + timedelta(days=366)):
        assert refused(query(origin, "FRA", day), now)[0] == "DATE_OUT_OF_RANGE"


@pytest.mark.parametrize(
    ("origin", "day", "hours"),
    [
        ("JFK", date(2026, 3, 7), 24),
        ("JFK", date(2026, 3, 8), 23),
        ("JFK", date(2026, 11, 1), 25),
        ("SYD", date(2026, 4, 5), 25),
        ("SYD", date(2026, 10, 4), 23),
    ],
)
def test_a_day_is_as_long_as_the_clocks_say(origin: str, day: date, hours: int) -> None:
    """Days on which the clocks change have 23 or 25 hours."""
    asked = admit(query(origin, "FRA", day), ZONES.get, NOON)

    assert asked.end - asked.start == timedelta(hours=hours)


def test_flights_that_have_left_are_not_looked_for() -> None:
    """Today starts now."""
    asked = admit(query(day=date(2026, 3, 6)), ZONES.get, NOON)

    assert asked.start == NOON
    assert asked.end == datetime(2026, 3, 7, 5, tzinfo=UTC)


@given(
    st.integers(631_152_000, 2_145_916_800),
    st.sampled_from(["America/Havana", "America/Sao_Paulo", "Asia/Beirut", "Africa/Cairo"]),
)
def test_every_instant_belongs_to_its_local_day(second: int, name: str) -> None:
    """Also where clocks change at midnight, a day holds exactly the instants of its date."""
    zone = ZoneInfo(name)
    moment = datetime.fromtimestamp(second, UTC)
    day = moment.astimezone(zone).date()

    assert midnight(day, zone) <= moment < midnight(day + timedelta(days=1), zone)
