"""I6: what is charged is what was quoted."""

from collections.abc import Iterable, Iterator
from decimal import Decimal

from bench.checker.case import Case
from bench.checker.facts import Booking
from bench.checker.history import Priced
from bench.checker.violation import Violation


def i6_charged_as_quoted(case: Case) -> Iterator[Violation]:
    """A booking that has a price has that of its quote, which was valid when it was accepted.

    The quote is what pricing has stored, and what the client was told when it was made.
    """
    for booking_id, booking in case.bookings.items():
        if booking.total is not None:
            for what in dict.fromkeys(_differences(case, booking)):
                yield Violation("I6", what, (booking_id, booking.quote_id))


def _differences(case: Case, booking: Booking) -> Iterator[str]:
    party = len(booking.passengers)
    if booking.total != total(booking.segments, party):
        yield "the total is not the sum of its flights"
    if quote := case.facts.pricing.quotes.get(booking.quote_id):
        if quote.segments != booking.segments:
            yield "other flights or fares than quoted"
        if quote.passengers != party:
            yield "another party than quoted"
        if booking.create_time >= quote.expire_time:
            yield "the quote had run out"
    offer = case.history.offers.get(booking.quote_id)
    if offer and (offer.total, offer.segments) != (booking.total, booking.segments):
        yield "another price than the client was told"


def total(segments: Iterable[Priced], party: int) -> Decimal:
    """What a party pays for its flights."""
    return sum((fare + taxes for _, _, fare, taxes in segments), Decimal(0)) * party
