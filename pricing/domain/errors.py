"""What can be wrong with a request, as plain exceptions; `reason` is what callers branch on."""
# ruff: noqa: N818 - named after what is wrong, as their reasons on the wire are

from collections.abc import Mapping
from typing import Self


class PricingError(Exception):
    """Any error of this domain."""

    reason = "PRICING_ERROR"
    metadata: Mapping[str, str] = {}


class NotFound(PricingError):
    """What the request names does not exist."""


class FlightNotFound(NotFound):
    """There is no such flight in the timetable."""

    reason = "FLIGHT_NOT_FOUND"

    def __init__(self, flight_id: str) -> None:
        super().__init__(f"There is no flight {flight_id}.")
        self.metadata = {"flight_id": flight_id}


class RouteNotFound(NotFound):
    """No flight of the timetable flies this route."""

    reason = "ROUTE_NOT_FOUND"


class QuoteNotFound(NotFound):
    """There is no such quote."""

    reason = "QUOTE_NOT_FOUND"


class Refused(PricingError):
    """The request is well formed, but the state of things forbids it."""


class SeatsUnavailable(Refused):
    """The cabin has fewer seats left than the party needs."""

    reason = "SEATS_UNAVAILABLE"


class FlightCancelled(Refused):
    """The flight does not fly."""

    reason = "FLIGHT_CANCELLED"


class FlightDeparted(Refused):
    """The flight has left."""

    reason = "FLIGHT_DEPARTED"


class QuoteExpired(Refused):
    """The booking was accepted after the quote had run out.

    Metadata: `fresh_quote_id`, or `fresh_quote_refused` with the reason why there is none.
    """

    reason = "QUOTE_EXPIRED"

    def __init__(self, message: str = "The quote has expired.", **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata

    @classmethod
    def with_fresh(cls, quote_id: str) -> Self:
        """It has; this quote is offered in its place."""
        return cls(fresh_quote_id=quote_id)

    @classmethod
    def without_fresh(cls, refused: PricingError) -> Self:
        """It has, and for this reason no other can be offered."""
        message = f"The quote has expired, and there is no other: {refused}"
        return cls(message, fresh_quote_refused=refused.reason)


class QuoteRedeemed(Refused):
    """Another booking has the quote."""

    reason = "QUOTE_REDEEMED"


class QuoteReleased(Refused):
    """This booking gave the quote back; it can't have it again."""

    reason = "QUOTE_RELEASED"


class StaleEpoch(Refused):
    """Somebody else drives this saga now."""

    reason = "STALE_EPOCH"


class EtagMismatch(PricingError):
    """What was looked at has changed since."""

    reason = "ETAG_MISMATCH"


class RequestIdReused(PricingError):
    """The same request id came before, with other content."""

    reason = "REQUEST_ID_REUSED"
