from datetime import timedelta

import pytest

from schedule.domain import (
    Cabin,
    EtagMismatch,
    Flight,
    FlightCancelled,
    FlightDeparted,
    FlightStatus,
    Invalid,
    SeatsUnavailable,
    flight_id,
)
from tests.schedule.samples import NOW, TODAY, sample

HOUR = timedelta(hours=1)


def delayed(flight: Flight, delay: timedelta, reason: str = "weather") -> Flight:
    """The flight with a delay, at NOW, as if all airports were in Greenwich."""
    return flight.delayed(delay, reason, now=NOW, utc_offset=lambda _airport, _at: 0)


def test_an_id_depends_on_each_of_its_parts() -> None:
    """Two flights that differ in anything of their key differ in their id, which has one shape."""
    key = ("AA", "1", "JFK", "LAX", TODAY)
    others = [("BA", *key[1:]), ("AA", "1R", *key[2:]), (*key[:4], TODAY + timedelta(days=1))]

    assert flight_id(*key) == flight_id(*key)
    assert flight_id(*key) not in {flight_id(*other) for other in others}
    assert len(flight_id(*key)) == 20


def test_a_delay_moves_both_ends_and_counts() -> None:
    """Departure and arrival move by the delay, and version and etag change."""
    before = sample()
    after = delayed(before, HOUR)

    assert after.departure_time == before.departure_time + HOUR
    assert after.arrival_time == before.arrival_time + HOUR
    assert after.scheduled_departure_time == before.scheduled_departure_time
    assert (after.status, after.status_reason) == (FlightStatus.DELAYED, "weather")
    assert after.version == before.version + 1
    assert after.etag != before.etag
    assert after.departure_utc_offset_minutes == 0


def test_the_same_delay_again_changes_nothing() -> None:
    """A delay that is already so is the same flight, in the same version."""
    once = delayed(sample(), HOUR)

    assert delayed(once, HOUR) == once


def test_a_delay_is_taken_back() -> None:
    """No delay is the published time again, without a reason."""
    back = delayed(delayed(sample(), HOUR), timedelta())

    assert back.departure_time == back.scheduled_departure_time
    assert (back.status, back.status_reason) == (FlightStatus.SCHEDULED, "")
    assert back.version == 3


@pytest.mark.parametrize("delay", [-HOUR, 49 * HOUR])
def test_a_delay_has_limits(delay: timedelta) -> None:
    """A negative delay or one above 48 hours is refused."""
    with pytest.raises(Invalid, match="48 hours"):
        delayed(sample(), delay)


def test_a_delay_cannot_be_taken_back_into_the_past() -> None:
    """A flight whose published departure is over can't get it back."""
    late = delayed(sample(in_hours=0.5), HOUR)
    with pytest.raises(Invalid, match="departed already"):
        late.delayed(
            timedelta(), "", now=NOW + timedelta(minutes=45), utc_offset=lambda _airport, _at: 0
        )


def test_a_departed_flight_stays_as_it_is() -> None:
    """A flight that has left can be neither moved, nor cancelled, nor held."""
    gone = sample(in_hours=0)
    with pytest.raises(FlightDeparted):
        delayed(gone, HOUR)
    with pytest.raises(FlightDeparted):
        gone.cancelled("crew", now=NOW)
    with pytest.raises(FlightDeparted):
        gone.holding(Cabin.ECONOMY, 1, now=NOW)


def test_a_cancelled_flight_stays_cancelled() -> None:
    """Cancelling again changes nothing; moving, holding and selling are refused."""
    cancelled = sample().holding(Cabin.ECONOMY, 1, now=NOW).cancelled("crew", now=NOW)

    assert cancelled.status is FlightStatus.CANCELLED
    assert cancelled.cancelled("other", now=NOW) == cancelled
    with pytest.raises(FlightCancelled):
        delayed(cancelled, HOUR)
    with pytest.raises(FlightCancelled):
        cancelled.holding(Cabin.ECONOMY, 1, now=NOW)
    with pytest.raises(FlightCancelled):
        cancelled.selling(Cabin.ECONOMY, 1)


def test_seats_of_a_cancelled_flight_are_given_back() -> None:
    """What was held or sold on a flight returns to it whatever its status is."""
    held = sample().holding(Cabin.ECONOMY, 3, now=NOW)
    cancelled = held.selling(Cabin.ECONOMY, 1).cancelled("crew", now=NOW)
    free = cancelled.unselling(Cabin.ECONOMY, 1).unholding(Cabin.ECONOMY, 2)

    assert free.cabins == sample().cabins


def test_seats_change_the_version_and_not_the_etag() -> None:
    """Seats that are held make a new version; an etag is about times and status."""
    before = sample()
    after = before.holding(Cabin.ECONOMY, 4, now=NOW)

    assert (after.version, after.etag) == (before.version + 1, before.etag)
    assert after.cabins[0].available == 6


@pytest.mark.parametrize(("cabin", "available"), [(Cabin.ECONOMY, "10"), (Cabin.FIRST, "0")])
def test_seats_that_are_not_there(cabin: Cabin, available: str) -> None:
    """More seats than there are, or of a cabin that is not there, are refused with what is left."""
    with pytest.raises(SeatsUnavailable) as refused:
        sample().holding(cabin, 11, now=NOW)

    assert refused.value.metadata == {
        "flight_id": sample().flight_id,
        "cabin": cabin.name,
        "available": available,
    }


def test_an_etag_is_compared_where_it_is_given() -> None:
    """The flight's own etag and none are let through, another one is not."""
    flight = sample()
    flight.expect(flight.etag)
    flight.expect("")
    with pytest.raises(EtagMismatch):
        delayed(flight, HOUR).expect(flight.etag)
