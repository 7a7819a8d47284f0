"""Problem details (RFC 9457): the one shape of every error of the public API.

`CODES` is the whole vocabulary: each code has its status and its title, and its `type` is the code
as a URI. What an upstream said becomes one of them in `failures`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consulmesh.context import current

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "https://flightmesh.dev/problems/"

TITLES: dict[int, dict[str, str]] = {
    400: {
        "VALIDATION_FAILED": "The request is not valid",
        "UNKNOWN_AIRPORT": "There is no such airport",
        "DATE_OUT_OF_RANGE": "The date is outside the timetable",
        "INVALID_PAGE_TOKEN": "The page token does not belong to this request",
        "IDEMPOTENCY_KEY_MISSING": "An Idempotency-Key header is required",
        "FAILED_PRECONDITION": "The request does not fit the state of things",
    },
    401: {"UNAUTHENTICATED": "A valid bearer token is required"},
    403: {"FORBIDDEN": "You may not do this"},
    404: {"NOT_FOUND": "There is nothing here"},
    405: {"METHOD_NOT_ALLOWED": "The resource does not support this method"},
    408: {"REQUEST_TIMEOUT": "The request took too long to arrive"},
    409: {
        "PRICE_CHANGED": "The quoted price has expired",
        "SEATS_UNAVAILABLE": "There are not enough seats left",
        "FLIGHT_CANCELLED": "A flight is cancelled",
        "FLIGHT_DEPARTED": "A flight has left",
        "QUOTE_REDEEMED": "The quote was used for another booking",
        "PASSENGER_COUNT_MISMATCH": "The quote is for another number of passengers",
        "BOOKING_NOT_CANCELLABLE": "The booking can't be cancelled in its state",
        "BOOKING_REJECTED": "The booking could not be made",
        "REQUEST_IN_PROGRESS": "A request with this Idempotency-Key is still running",
        "ETAG_MISMATCH": "It has changed since it was looked at",
        "CONFLICT": "The request conflicts with another one",
    },
    413: {"BODY_TOO_LARGE": "The request body is too large"},
    414: {"URI_TOO_LONG": "The request target is too long"},
    415: {"UNSUPPORTED_MEDIA_TYPE": "The request body must be application/json"},
    422: {
        "VALIDATION_FAILED": "The request is not valid",
        "IDEMPOTENCY_KEY_REUSED": "The Idempotency-Key was used for another request",
    },
    429: {"RATE_LIMITED": "Too many requests"},
    431: {"HEADERS_TOO_LARGE": "The request headers are too large"},
    499: {"CLIENT_CLOSED_REQUEST": "The client closed the connection"},
    500: {"INTERNAL": "Something went wrong on our side"},
    501: {"NOT_IMPLEMENTED": "This is not available yet"},
    503: {
        "UPSTREAM_UNAVAILABLE": "A part of the system is not available",
        "OVERLOADED": "The system is busy",
        "NOT_READY": "The gateway is not ready",
        "SHUTTING_DOWN": "The gateway is about to stop",
    },
    504: {"DEADLINE_EXCEEDED": "The answer took too long"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a code means.

    A code with two statuses (VALIDATION_FAILED) has the lower one here; a problem may say the
    other.
    """

    status: int
    title: str
    type: str


def _table() -> dict[str, Code]:
    table: dict[str, Code] = {}
    for status, titles in TITLES.items():
        for code, title in titles.items():
            uri = TYPE_PREFIX + code.lower().replace("_", "-")
            table.setdefault(code, Code(status=status, title=title, type=uri))
    return table


CODES = _table()


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one field, parameter or header of the request."""

    field: str
    code: str
    detail: str


class Problem(HTTPException):
    """An answer that is an error. Raised anywhere below the routes; rendered once, at the edge.

    `extensions` are members beyond those of every problem; `headers` go with the response.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        kind = CODES[code]
        super().__init__(status or kind.status, detail or f"{kind.title}.", dict(headers or {}))
        self.code = code
        self.errors = tuple(errors)
        self.extensions = dict(extensions or {})

    def document(self, instance: str) -> bytes:
        """The problem of the request to the path `instance`, as JSON."""
        kind = CODES[self.code]
        shown: dict[str, Any] = {
            "type": kind.type,
            "title": kind.title,
            "status": self.status_code,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "trace_id": current().trace.trace_id,
        }
        if self.errors:
            shown["errors"] = self.errors
        return orjson.dumps(shown | self.extensions)

    def response(self, instance: str) -> Response:
        """The response to a request to the path `instance`."""
        return Response(
            self.document(instance),
            status_code=self.status_code,
            headers={**(self.headers or {}), "Cache-Control": "no-store"},
            media_type=MEDIA_TYPE,
        )


def not_found(what: str) -> Problem:
    """A 404 that names the kind of thing that is not there."""
    return Problem("NOT_FOUND", f"There is no such {what}.")


def invalid(field: str, code: str, detail: str, *, status: int = 400) -> Problem:
    """A problem with exactly one field, parameter or header."""
    error = FieldError(field=field, code=code, detail=detail)
    return Problem("VALIDATION_FAILED", status=status, errors=[error])
