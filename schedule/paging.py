"""Page tokens of ListFlights: where the last page ended, and what it was a page of."""

import base64
import binascii
import hashlib
import struct
from datetime import UTC, datetime, timedelta

from consulmesh.errors import InvalidArgument, Violation
from consulmesh.validation import identifier
from schedule.service import PageEnd, RouteDay

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
PADDING = b"\0"
LAYOUT = struct.Struct(">8sq20s")  # digest of the route and day, departure, flight


def token(of: RouteDay, end: PageEnd) -> str:
    """The token of the page after `end`."""
    departure = (end.departure_time - EPOCH) // MICROSECOND
    packed = LAYOUT.pack(_digest(of), departure, end.flight_id.encode())
    return base64.urlsafe_b64encode(packed).decode()


def page_end(of: RouteDay, page_token: str) -> PageEnd | None:
    """Where the page before ended; None for the first page.

    Raises InvalidArgument (INVALID_PAGE_TOKEN) for what is no token of that route and day.
    """
    if not page_token:
        return None
    try:
        packed = base64.b64decode(page_token.encode("ascii"), altchars=b"-_", validate=True)
        digest, departure, flight_id = LAYOUT.unpack(packed)
        end = PageEnd(
            departure_time=EPOCH + departure * MICROSECOND,
            flight_id=identifier(flight_id.rstrip(PADDING).decode("ascii")),
        )
    except (ValueError, binascii.Error, struct.error, OverflowError):
        raise _invalid("is not a token of ListFlights") from None
    if digest != _digest(of):
        raise _invalid("is of another route or day")
    return end


def _digest(of: RouteDay) -> bytes:
    content = f"{of.origin}|{of.destination}|{of.departure_date.isoformat()}".encode()
    return hashlib.blake2b(content, digest_size=8).digest()


def _invalid(description: str) -> InvalidArgument:
    violation = Violation(field="page_token", reason="INVALID_PAGE_TOKEN", description=description)
    return InvalidArgument([violation], reason="INVALID_PAGE_TOKEN")
