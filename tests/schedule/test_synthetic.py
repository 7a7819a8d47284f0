from collections import Counter
from datetime import date, timedelta

import pytest

from schedule.timetable import Airports, Synthetic
from schedule.timetable.synthetic import HUBS, LONGEST_LEG, great_circle

MONDAY = date(2026, 12, 7)
WEEK = [MONDAY + timedelta(days=n) for n in range(7)]


@pytest.fixture(scope="module")
def airports() -> Airports:
    """All of them."""
    return Airports.load()


@pytest.mark.parametrize("flights", [3_000, 60_000])
def test_there_are_as_many_flights_as_asked_for(airports: Airports, flights: int) -> None:
    """Within two percent, in 30 days, each with an id of its own."""
    made = [each for _, day in Synthetic(airports, flights).days(WEEK) for each in day]

    assert len(made) / 7 * 30 == pytest.approx(flights, rel=0.02)
    assert len({each.flight_id for each in made}) == len(made)


def test_the_same_seed_makes_the_same_flights(airports: Airports) -> None:
    """Whichever days are asked for; another seed makes others."""
    whole = dict(Synthetic(airports, 6_000, seed=7).days(WEEK))
    (alone,) = Synthetic(airports, 6_000, seed=7).days([WEEK[3]])
    (other,) = Synthetic(airports, 6_000, seed=8).days([WEEK[3]])

    assert alone == (WEEK[3], whole[WEEK[3]])
    assert other[1] != alone[1]


def test_flights_make_sense(airports: Airports) -> None:
    """They leave on their day by the local clock, as far as an airliner goes, as fast as one."""
    ((day, flights),) = Synthetic(airports, 60_000).days([MONDAY])
    for flight in flights:
        origin, destination = airports.get(flight.origin), airports.get(flight.destination)
        assert origin is not None
        assert destination is not None
        hours = (flight.arrival_time - flight.departure_time) / timedelta(hours=1)
        assert flight.departure_time.astimezone(origin.zone).date() == day == flight.departure_date
        assert flight.distance_km == round(great_circle(origin, destination)) <= LONGEST_LEG
        assert 30 < flight.distance_km / hours < 900


def test_every_airport_can_be_left_and_reached(airports: Airports) -> None:
    """The network is one: airports hang on hubs, and hubs on each other, both ways."""
    flights = [each for _, day in Synthetic(airports, 60_000).days(WEEK) for each in day]
    routes = {(each.origin, each.destination) for each in flights}
    ends = Counter(end for route in routes for end in route)

    assert {(b, a) for a, b in routes} >= {route for route in routes if set(route) <= set(HUBS)}
    assert all(set(route) & set(HUBS) for route in routes)
    assert len(ends) > len(HUBS)


def test_less_than_a_flight_a_day_is_refused(airports: Airports) -> None:
    """It would be an empty timetable on most days."""
    with pytest.raises(ValueError, match="fewer than one a day"):
        Synthetic(airports, 29)
