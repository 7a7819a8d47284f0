from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedule.domain import Cabin, Flight
from schedule.timetable import (
    Airports,
    MalformedTimetableError,
    Replay,
    Report,
    Source,
    shipped,
    source_day,
    window,
)
from schedule.timetable.aircraft import cabins_of, seats_of
from schedule.timetable.source import HEADER

MONDAY_2027 = date(2027, 1, 18)  # flown as Monday 2013-01-21


def replayed(
    airports: Airports, day: date, *rows: str, header: str = HEADER
) -> tuple[list[Flight], Report]:
    """The flights of a day out of rows that name the month and day of their source as `@`."""
    source = source_day(day)
    lines = [header, *(row.replace("@", f"{source.month},{source.day}") for row in rows)]
    replay = Replay(airports)
    flights = [flight for _, found in replay.days(Source(lines), [day]) for flight in found]
    return flights, replay.report


def local(flight: Flight, zone: str) -> tuple[str, str]:
    """Local departure, and the arrival as a clock of the given zone shows it."""
    departure = flight.departure_time + timedelta(minutes=flight.departure_utc_offset_minutes)
    arrival = flight.arrival_time.astimezone(ZoneInfo(zone))
    return f"{departure:%Y-%m-%d %H:%M}", f"{arrival:%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("start", "flights", "pairs"),
    [
        (date(2026, 11, 20), 54_332, 412),
        (date(2026, 12, 20), 52_178, 414),
    ],
)
def test_a_window_has_the_known_number_of_flights(
    airports: Airports, start: date, flights: int, pairs: int
) -> None:
    """Thirty days have as many flights and pairs as were counted by other means, all distinct."""
    replay = Replay(airports)
    with shipped() as lines:
        days = replay.days(Source(lines), window(start, 30))
        found = [(f.flight_id, f.origin, f.destination) for _, day in days for f in day]

    assert len(found) == len({flight_id for flight_id, *_ in found}) == flights
    assert len({tuple(pair) for _, *pair in found}) == pairs
    assert replay.report.read == 336_776
    assert replay.report.kept * 2 == replay.report.flights == flights
    assert replay.report.elsewhere + replay.report.kept == replay.report.read


@given(st.dates(min_value=date(2013, 1, 1), max_value=date(2100, 12, 31)))
def test_a_day_is_flown_as_a_near_day_of_the_same_weekday(day: date) -> None:
    """The source day is in 2013, of the same weekday, and in the same season."""
    source = source_day(day)
    apart = abs((source - date(2013, 1, 1)).days + 1 - day.timetuple().tm_yday)

    assert source.year == 2013
    assert source.weekday() == day.weekday()
    assert min(apart, 365 - apart) <= 4


def test_a_westbound_flight_and_its_return(airports: Airports) -> None:
    """Times are local to each end; the return leaves an hour later and is faster eastward."""
    (outbound, back), _ = replayed(
        airports, MONDAY_2027, "@,900,1215,0,0,AA,1,JFK,LAX,2475,767-223,255"
    )

    assert local(outbound, "America/Los_Angeles") == ("2027-01-18 09:00", "2027-01-18 12:15")
    assert (outbound.number, back.number) == ("1", "1R")
    assert (back.origin, back.destination, back.inferred) == ("LAX", "JFK", True)
    assert back.departure_time - outbound.arrival_time == timedelta(hours=1)
    assert back.arrival_time - back.departure_time == timedelta(minutes=375 - 64)
    assert outbound.distance_km == 3983
    assert outbound.flight_id != back.flight_id


def test_an_arrival_before_the_departure_is_on_the_next_day(airports: Airports) -> None:
    """A flight over midnight arrives the day after, and its return leaves on that day."""
    (outbound, back), _ = replayed(
        airports, MONDAY_2027, "@,2250,135,0,0,B6,97,JFK,MIA,1089,A320-232,200"
    )

    assert local(outbound, "America/New_York") == ("2027-01-18 22:50", "2027-01-19 01:35")
    assert outbound.departure_date == MONDAY_2027
    assert back.departure_date == MONDAY_2027 + timedelta(days=1)


@pytest.mark.parametrize(
    ("day", "offset", "elapsed"),
    [(date(2027, 3, 13), -300, 24 * 60 - 60), (date(2026, 10, 31), -240, 24 * 60 + 60)],
)
def test_the_days_on_which_clocks_change(
    airports: Airports, day: date, offset: int, elapsed: int
) -> None:
    """The same local time on both sides of a clock change is 23 or 25 hours apart."""
    row = "@,1200,1415,0,0,DL,5,JFK,ATL,760,MD-88,142"
    (before, _), _ = replayed(airports, day, row)
    (after, _), _ = replayed(airports, day + timedelta(days=1), row)

    assert before.departure_utc_offset_minutes == offset
    assert after.departure_time - before.departure_time == timedelta(minutes=elapsed)
    assert after.arrival_time - after.departure_time == timedelta(minutes=135)


def test_a_flight_in_the_hour_that_does_not_exist(airports: Airports) -> None:
    """A published time inside the hour that is skipped in spring is an hour later."""
    (flight, _), _ = replayed(
        airports, date(2027, 3, 14), "@,230,445,0,0,DL,5,JFK,ATL,760,MD-88,142"
    )

    assert flight.departure_time == datetime(2027, 3, 14, 7, 30, tzinfo=UTC)


def test_rows_that_cannot_be_flown_are_dropped_and_counted(airports: Airports) -> None:
    """An unknown airport or an implausible duration drops the row; the report says why."""
    _, report = replayed(
        airports,
        MONDAY_2027,
        "@,106,245,,,US,1632,EWR,LGA,17,,",
        "@,900,1000,0,0,AA,1,JFK,QQQ,500,,",
        "@,1200,1415,0,0,DL,5,JFK,ATL,760,,",
    )

    assert report.dropped == {"implausible_duration": 1, "unknown_airport": 1}
    assert (report.read, report.kept, report.flights, report.estimated_seats) == (3, 1, 2, 1)


@pytest.mark.parametrize(
    "row",
    [
        "@,900,1215,0,0,AA,1,JFK,LAX,2475,767-223",
        "@,2400,1215,0,0,AA,1,JFK,LAX,2475,767-223,255",
        "@,961,1215,0,0,AA,1,JFK,LAX,2475,767-223,255",
        "@,nine,1215,0,0,AA,1,JFK,LAX,2475,767-223,255",
        "@,900,1215,0,0,aa,1,JFK,LAX,2475,767-223,255",
        "@,900,1215,0,0,AA,0,JFK,LAX,2475,767-223,255",
        "@,900,1215,0,0,AA,1,JFK,LAX,2475,767-223,many",
    ],
)
def test_a_malformed_row_stops_the_load(airports: Airports, row: str) -> None:
    """A row that can't be read is an error that names its line, not a flight less."""
    with pytest.raises(MalformedTimetableError, match="line 2"):
        replayed(airports, MONDAY_2027, row)


def test_a_foreign_file_stops_the_load(airports: Airports) -> None:
    """A file with another header is refused."""
    with pytest.raises(MalformedTimetableError, match="header"):
        replayed(airports, MONDAY_2027, header="year,month,day")


def test_days_out_of_order_stop_the_load(airports: Airports) -> None:
    """A day that comes back after another one is refused: it would be loaded twice."""
    rows = [f"1,{day},1200,1415,0,0,DL,5,JFK,ATL,760,MD-88,142" for day in (22, 21)]
    source = Source([HEADER, *rows])
    with pytest.raises(MalformedTimetableError, match="line 3"):
        list(Replay(airports).days(source, window(MONDAY_2027, 2)))


@given(st.integers(min_value=1, max_value=900))
def test_cabins_share_out_every_seat(seats: int) -> None:
    """The cabins have all seats of the aircraft, none is empty, and economy is the largest."""
    cabins = cabins_of(seats)

    assert sum(c.capacity for c in cabins) == seats
    assert [c.cabin for c in cabins] == sorted(c.cabin for c in cabins)
    assert cabins[0] == max(cabins, key=lambda c: c.capacity)
    assert all(c.capacity > 0 and c.available == c.capacity for c in cabins)
    assert cabins[0].cabin is Cabin.ECONOMY


def test_seats_that_are_not_believed() -> None:
    """Light aircraft and missing registrations fall back by carrier, wrong models are corrected."""
    assert seats_of("MQ", "A185F", 6) == ("", 55, False)
    assert seats_of("AA", "", None) == ("", 172, False)
    assert seats_of("XX", "", None) == ("", 150, False)
    assert seats_of("B6", "ERJ 190-100 IGW", 20) == ("ERJ 190-100 IGW", 100, True)
    assert seats_of("UA", "737-824", 149) == ("737-824", 149, True)
