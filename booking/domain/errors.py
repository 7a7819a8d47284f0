"""What can be wrong with a request, as plain exceptions.

`reason` is what callers branch on (`google.rpc.ErrorInfo.reason`); the message is for developers
and carries no personal data.
"""
# ruff: noqa: N818 - named after what is wrong, as their reasons on the wire are

from collections.abc import Sequence
from dataclasses import dataclass


class BookingError(Exception):
    """Any error of this domain."""

    reason = "BOOKING_ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One field that is wrong, and why."""

    field: str
    reason: str
    description: str


class InvalidRequest(BookingError):
    """Fields of the request are wrong; `violations` names each."""

    reason = "VALIDATION_FAILED"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{one.field}: {one.description}" for one in violations))
        self.violations = tuple(violations)


class InvalidPageToken(BookingError):
    """The page token was not made by this service."""

    reason = "INVALID_PAGE_TOKEN"


class RequestIdReused(BookingError):
    """The same request id came before, with other content."""

    reason = "REQUEST_ID_REUSED"


class QuoteNotFound(BookingError):
    """There is no such quote."""

    reason = "QUOTE_NOT_FOUND"


class PassengerCountMismatch(BookingError):
    """The quote is for another number of passengers."""

    reason = "PASSENGER_COUNT_MISMATCH"


class BookingNotFound(BookingError):
    """The user has no such booking."""

    reason = "BOOKING_NOT_FOUND"


class NotCancellable(BookingError):
    """Only a confirmed or affected booking can be cancelled."""

    reason = "BOOKING_NOT_CANCELLABLE"


class ReferenceTaken(BookingError):
    """Another booking has this reference already: draw another."""


class IllegalTransition(BookingError):
    """The saga was told something that can't happen in its step: a bug, never a request's fault."""
