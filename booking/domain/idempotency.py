"""Idempotency keys: which repetition is meant, and whether it asks for the same thing."""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from booking.domain.errors import RequestIdReused
from booking.domain.party import BookingRequest, User, checked_request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """A request id in its scope (user and operation), with the hash of the canonical content."""

    user: User
    operation: str
    request_id: str
    content_hash: str

    @classmethod
    def of_booking(cls, user: User, request: BookingRequest) -> Self:
        """The key of CreateBooking."""
        names = [[one.given_name, one.family_name] for one in request.passengers]
        content = json.dumps([request.quote_id, names, request.email])
        return cls._of(user, "CreateBooking", request.request_id, content)

    @classmethod
    def of_cancellation(cls, user: User, request_id: str, booking_id: str) -> Self:
        """The key of CancelBooking; `InvalidRequest` when the request id is no good."""
        return cls._of(user, "CancelBooking", checked_request_id(request_id), booking_id)

    def check(self, content_hash: str) -> None:
        """`RequestIdReused` unless the request that came first had the same content."""
        if content_hash != self.content_hash:
            raise RequestIdReused("this request_id was used for other content")

    @classmethod
    def _of(cls, user: User, operation: str, request_id: str, canonical: str) -> Self:
        return cls(
            user=user,
            operation=operation,
            request_id=request_id,
            content_hash=hashlib.sha256(canonical.encode()).hexdigest(),
        )
