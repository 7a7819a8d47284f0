"""I4: nothing happens that nobody asked for. The history must be of everybody who asked."""

from collections.abc import Iterator

from bench.checker.case import Case
from bench.checker.facts import Booking
from bench.checker.violation import Violation


def i4_nothing_unasked(case: Case) -> Iterator[Violation]:
    """Each booking, cancellation, hold and claim goes back to somebody's request.

    An affected booking has a flight that is cancelled.
    """
    for key in case.facts.booking.keys:
        if (key.user, key.key) not in case.attempts:
            ids = key.booking_id, key.user, key.key
            yield Violation("I4", "a booking that nobody asked for", ids)
    cancelled = {call.booking_id for call in case.history.calls if call.op == "cancel"}
    for booking_id, booking in case.bookings.items():
        if booking.status == "cancelled" and booking_id not in cancelled:
            yield Violation("I4", "cancelled, and nobody asked for that", (booking_id,))
        if booking.status == "affected" and not _flight_cancelled(case, booking):
            yield Violation("I4", "affected, and all of its flights fly", (booking_id,))
    for booking_id in case.facts.schedule.holds.keys() - case.bookings.keys():
        yield Violation("I4", "a hold of no booking", (booking_id,))
    for quote_id, booking_id in case.facts.pricing.claims:
        booking_ = case.bookings.get(booking_id)
        if booking_ is None or booking_.quote_id != quote_id:
            yield Violation("I4", "a claim that no booking made", (quote_id, booking_id))


def _flight_cancelled(case: Case, booking: Booking) -> bool:
    flights = case.facts.schedule.flights
    known = [flights.get(flight_id) for flight_id, *_ in booking.segments]
    return any(flight is None or flight.cancelled for flight in known)
