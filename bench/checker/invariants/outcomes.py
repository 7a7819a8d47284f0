"""I5: every request has no effect or one, and the same one at each of the three services."""

from collections import defaultdict
from collections.abc import Iterator

from bench.checker.case import Case
from bench.checker.facts import LIVE, Booking
from bench.checker.history import FAIL
from bench.checker.violation import Violation

_SOLD = LIVE | {"cancelled"}
"""States of a booking that once had its seats: the quote stays spent."""


def i5_no_effect_or_one(case: Case) -> Iterator[Violation]:
    """Every unknown outcome resolves to no effect or one.

    At booking: a finished saga has decided; a key whose attempts all had no effect has no booking.
    At schedule: exactly the live bookings have their seats, those and no others. At pricing: a
    quote has at most one live booking, and is free again where its booking was rejected.
    """
    yield from _refused(case)
    yield from _spent_twice(case)
    for booking_id, booking in case.finished():
        for what in _undecided(case, booking_id, booking):
            yield Violation("I5", what, (booking_id, booking.quote_id))


def _refused(case: Case) -> Iterator[Violation]:
    made = {(key.user, key.key): key.booking_id for key in case.facts.booking.keys}
    for name, calls in case.attempts.items():
        if name in made and all(call.phase == FAIL for call in calls):
            what = "every attempt was refused, and there is a booking"
            yield Violation("I5", what, (*name, made[name]))


def _spent_twice(case: Case) -> Iterator[Violation]:
    live = defaultdict[str, list[str]](list)
    for booking_id, booking in case.bookings.items():
        if booking.status in _SOLD:
            live[booking.quote_id].append(booking_id)
    for quote_id, bookings in live.items():
        if len(bookings) > 1:
            yield Violation("I5", "one quote sold to several bookings", (quote_id, *bookings))


def _undecided(case: Case, booking_id: str, booking: Booking) -> Iterator[str]:
    if booking.status == "pending":
        yield "its saga is finished, and it is pending"
        return
    yield from _at_schedule(case, booking_id, booking)
    quote = case.facts.pricing.quotes.get(booking.quote_id)
    if quote is not None and booking.status in _SOLD and quote.booking_id != booking_id:
        yield f"{booking.status}, and its quote is {quote.booking_id or 'nobody'}'s"
    if quote is not None and booking.status == "rejected" and quote.booking_id == booking_id:
        yield "rejected, and it still has its quote"


def _at_schedule(case: Case, booking_id: str, booking: Booking) -> Iterator[str]:
    hold = case.facts.schedule.holds.get(booking_id)
    state = "absent" if hold is None else hold.state
    if booking.status not in LIVE:
        if state not in {"absent", "released"}:
            yield f"{booking.status}, and its seats are {state}"
    elif hold is None or state != "confirmed":
        yield f"{booking.status}, and its seats are {state}"
    elif sorted(hold.seats) != sorted(booking.seats):
        yield "the seats that are sold are not those that are booked"
