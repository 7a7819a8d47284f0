"""Bookings and their saga: values, rules and errors; standard library only."""

from booking.domain.answers import Answer, Refused, Superseded, Unanswered
from booking.domain.booking import (
    NEXT_STATUSES,
    Booking,
    Cabin,
    Quote,
    Rejection,
    Segment,
    Status,
)
from booking.domain.errors import (
    BookingError,
    BookingNotFound,
    IllegalTransition,
    InvalidPageToken,
    InvalidRequest,
    NotCancellable,
    PassengerCountMismatch,
    QuoteNotFound,
    ReferenceTaken,
    RequestIdReused,
    Violation,
)
from booking.domain.idempotency import RequestKey
from booking.domain.identifiers import new_booking_id, new_reference
from booking.domain.party import MAX_PASSENGERS, BookingRequest, Passenger, User
from booking.domain.saga import TRANSITIONS, Event, Saga, Step, UnfinishedSaga

__all__ = [
    "MAX_PASSENGERS",
    "NEXT_STATUSES",
    "TRANSITIONS",
    "Answer",
    "Booking",
    "BookingError",
    "BookingNotFound",
    "BookingRequest",
    "Cabin",
    "Event",
    "IllegalTransition",
    "InvalidPageToken",
    "InvalidRequest",
    "NotCancellable",
    "Passenger",
    "PassengerCountMismatch",
    "Quote",
    "QuoteNotFound",
    "ReferenceTaken",
    "Refused",
    "Rejection",
    "RequestIdReused",
    "RequestKey",
    "Saga",
    "Segment",
    "Status",
    "Step",
    "Superseded",
    "Unanswered",
    "UnfinishedSaga",
    "User",
    "Violation",
    "new_booking_id",
    "new_reference",
]
