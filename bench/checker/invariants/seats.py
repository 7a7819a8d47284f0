"""I3 and I8: seats."""

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from bench.checker.case import Case
from bench.checker.facts import LIVE
from bench.checker.violation import Violation

CabinOf: TypeAlias = tuple[str, str]


def i3_never_oversold(case: Case) -> Iterator[Violation]:
    """`0 ≤ sold + held ≤ capacity` of every cabin, and no more seats booked than there are."""
    booked: Counter[CabinOf] = Counter()
    for booking in case.bookings.values():
        if booking.status in LIVE:
            for flight_id, cabin, seats in booking.seats:
                booked[flight_id, cabin] += seats
    for flight_id, flight in case.facts.schedule.flights.items():
        for name, seats_of in flight.cabins.items():
            if min(seats_of.held, seats_of.sold, seats_of.available) < 0:
                what = f"{seats_of.held} held and {seats_of.sold} sold of {seats_of.capacity}"
                yield Violation("I3", what, (flight_id, name))
            elif booked[flight_id, name] > seats_of.capacity:
                what = f"{booked[flight_id, name]} seats booked of {seats_of.capacity}"
                yield Violation("I3", what, (flight_id, name))


def i8_seats_come_back(case: Case) -> Iterator[Violation]:
    """The seats held and sold of a cabin are those of the holds in that state, to the seat.

    So what a released or expired hold had is for sale again, no more and no less.
    """
    held, sold = _of_holds(case, "held"), _of_holds(case, "confirmed")
    for flight_id, flight in case.facts.schedule.flights.items():
        for name, cabin in flight.cabins.items():
            of = flight_id, name
            if (cabin.held, cabin.sold) != (held[of], sold[of]):
                what = f"{cabin.held} held and {cabin.sold} sold; holds say {held[of]}, {sold[of]}"
                yield Violation("I8", what, of)


def _of_holds(case: Case, state: str) -> Counter[CabinOf]:
    seats: Counter[CabinOf] = Counter()
    for hold in case.facts.schedule.holds.values():
        if hold.state == state:
            for flight_id, cabin, count in hold.seats:
                seats[flight_id, cabin] += count
    return seats
