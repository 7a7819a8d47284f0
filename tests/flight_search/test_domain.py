from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_search.domain import (
    HUBS,
    InvalidQueryError,
    ItineraryQuery,
    admit,
    admit_return,
    midnight,
    shortest_connection,
)
from tests.flight_search.timetables import DIRECTORY, NOON, query


def refused(asked: ItineraryQuery, now: datetime = NOON) -> tuple[str, list[tuple[str, str]]]:
    """The reason of a refusal, and each violation's field and reason."""
    with pytest.raises(InvalidQueryError) as caught:
        admit(asked, DIRECTORY, now)
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
        (query(max_stops=3), "VALIDATION_FAILED", ("query.max_stops", "OUT_OF_RANGE")),
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
        admit(query(origin, "FRA", day), DIRECTORY, now)
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
    asked = admit(query(origin, "FRA", day), DIRECTORY, NOON)

    assert asked.end - asked.start == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("day", "start", "end", "minutes"),
    [
        (date(2026, 3, 7), time(6), time(12), 360),
        (date(2026, 3, 7), time(22), None, 120),
        (date(2026, 3, 7), None, time(1), 60),
        (date(2026, 3, 8), time(1), time(4), 120),  # the clock skips two to three
        (date(2026, 3, 8), time(2, 30), time(3, 30), 0),  # half past two is half past three
        (date(2026, 11, 1), time(1), time(2), 120),  # the clock shows one to two twice
    ],
)
def test_a_window_is_what_the_clock_shows(
    day: date, start: time | None, end: time | None, minutes: int
) -> None:
    """Departures are asked for by the clock at the origin, also when clocks change."""
    asked = admit(query(day=day, departs_from=start, departs_before=end), DIRECTORY, NOON)

    assert asked.end - asked.start == timedelta(minutes=minutes)


def test_an_area_is_all_of_its_airports() -> None:
    """Both ends may be areas; their day is that of their common zone."""
    asked = admit(query("LON", "NYC"), DIRECTORY, NOON)

    assert asked.origins == ("LCY", "LGW", "LHR", "LTN", "STN")
    assert asked.destinations == ("EWR", "JFK", "LGA")
    assert asked.start == datetime(2026, 3, 8, tzinfo=UTC)


def test_a_way_back_is_the_other_way_round() -> None:
    """From the destination on the day of return, at any time of it, by the same carriers."""
    there = query(carriers=("B6",), departs_from=time(6), departs_before=time(7), passengers=3)
    back = admit_return(there, date(2026, 3, 8), DIRECTORY, NOON)

    assert (back.origins, back.destinations) == (("LAX",), ("JFK",))
    assert back.end - back.start == timedelta(hours=23)
    assert (back.carriers, back.passengers) == (("B6",), 3)


def test_whoever_flies_east_over_the_date_line_may_return_on_the_day_before() -> None:
    """Auckland to Los Angeles arrives before it departs; two days before is too early."""
    there = query("AKL", "LAX", date(2026, 3, 9))

    assert admit_return(there, date(2026, 3, 8), DIRECTORY, NOON).origins == ("LAX",)
    with pytest.raises(InvalidQueryError) as caught:
        admit_return(there, date(2026, 3, 7), DIRECTORY, NOON)
    assert [(v.field, v.reason) for v in caught.value.violations] == [
        ("return_date", "BEFORE_DEPARTURE")
    ]


def test_borders_and_hubs_make_connections_longer() -> None:
    """Coming from abroad takes longer than going there; a hub takes a quarter of an hour more."""
    minutes = {
        (from_abroad, going_abroad): shortest_connection(
            from_abroad=from_abroad, going_abroad=going_abroad, at_hub=False
        )
        // timedelta(minutes=1)
        for from_abroad, going_abroad in product((False, True), repeat=2)
    }
    at_hub = shortest_connection(from_abroad=False, going_abroad=False, at_hub=True)

    assert minutes == {
        (False, False): 45,
        (False, True): 60,
        (True, True): 75,
        (True, False): 90,
    }
    assert at_hub == timedelta(hours=1)
    assert all(DIRECTORY.airports(code) == (code,) for code in HUBS)


def test_flights_that_have_left_are_not_looked_for() -> None:
    """Today starts now."""
    asked = admit(query(day=date(2026, 3, 6)), DIRECTORY, NOON)

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
