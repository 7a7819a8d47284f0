"""I1 and I9: what clients were told is there."""

from collections.abc import Iterator
from unicodedata import normalize

from bench.checker.case import Case, kept
from bench.checker.facts import Booking
from bench.checker.history import Call, Request, Told
from bench.checker.violation import Violation


def i1_acknowledged_is_there(case: Case) -> Iterator[Violation]:
    """Every acknowledged booking is there, with the content that was asked for and told.

    What was told before something was killed is I9's, if it is lost.
    """
    for booking_id, calls in case.answers.items():
        booking = case.bookings.get(booking_id)
        if booking is None:
            if all(_ended(call) > case.history.last_kill for call in calls):
                yield Violation("I1", "an acknowledged booking is not there", (booking_id,))
            continue
        for what in dict.fromkeys(what for call in calls for what in _differences(call, booking)):
            yield Violation("I1", what, (booking_id,))


def i9_survives_a_kill(case: Case) -> Iterator[Violation]:
    """What was acknowledged before a kill is there at the end, as it was told or further on."""
    for booking_id, calls in case.answers.items():
        before = [call for call in calls if _ended(call) < case.history.last_kill]
        booking = case.bookings.get(booking_id)
        if before and booking is None:
            yield Violation("I9", "an acknowledged booking did not survive a kill", (booking_id,))
        elif booking and (lost := [call.told for call in before if not _kept(call, booking)]):
            states = sorted({told.status for told in lost if told})
            what = f"told {', '.join(states)} before a kill, {booking.status} at the end"
            yield Violation("I9", what, (booking_id,))


def _kept(call: Call, booking: Booking) -> bool:
    return call.told is None or kept(call.told, booking)


def _ended(call: Call) -> int:
    return -1 if call.ended is None else call.ended


def _differences(call: Call, booking: Booking) -> Iterator[str]:
    if call.request is not None:
        yield from _from_request(call.request, booking)
    if call.told is not None:
        yield from _from_told(call.told, booking)
    if call.user != booking.user:
        yield f"told to {call.user}, it is {booking.user}'s"


def _from_request(asked: Request, booking: Booking) -> Iterator[str]:
    if asked.quote_id != booking.quote_id:
        yield "another quote than was asked for"
    if tuple((_typed(a), _typed(b)) for a, b in asked.passengers) != booking.passengers:
        yield "other passengers than were asked for"
    if _typed(asked.email) != booking.email:
        yield "another contact than was asked for"


def _from_told(told: Told, booking: Booking) -> Iterator[str]:
    told_and_stored = {
        "reference": (told.reference, booking.reference),
        "quote": (told.quote_id, booking.quote_id),
        "total": (told.total, booking.total),
        "flights": (told.segments, booking.segments),
        "passengers": (told.passengers, booking.passengers),
        "contact": (told.email, booking.email),
    }
    for what, (said, stored) in told_and_stored.items():
        if said is not None and said != stored:
            yield f"the {what} that was told is not the one that is stored"


def _typed(text: str) -> str:
    """As booking keeps what people type, by the contract: NFC, no outer white space."""
    return normalize("NFC", text).strip()
