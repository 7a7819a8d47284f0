"""What goes wrong, as problems: upstreams' statuses, validation, the framework's own exceptions.

Only texts that a service wrote for people (they come with an ErrorInfo) are shown; whatever gRPC
itself says may name addresses and stays inside.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grpc
from fastapi.exceptions import RequestValidationError
from grpc import StatusCode
from starlette.exceptions import HTTPException

from consulmesh.errors import Status, Unauthenticated, Violation
from gateway_bff.problems import CODES, FieldError, Problem

_SERVER_ERRORS = 500
RETRY_AFTER = 1  # seconds, where an upstream that is away does not say itself

# ErrorInfo reasons that have another name in public.
_REASONS = {
    "REQUEST_ID_REUSED": "IDEMPOTENCY_KEY_REUSED",
    "QUOTE_EXPIRED": "PRICE_CHANGED",
    "QUOTE_RELEASED": "QUOTE_REDEEMED",
    "DATABASE_BUSY": "OVERLOADED",
    "OTHER_SHARD": "UPSTREAM_UNAVAILABLE",  # the gateway's idea of the shards, not the client's
}
# Where the reason is not a public code: google.rpc.Code as grpc-gateway maps it, but for
# CANCELLED, which a client that is still there only sees when an upstream goes away.
_BY_STATUS = {
    StatusCode.CANCELLED: "UPSTREAM_UNAVAILABLE",
    StatusCode.INVALID_ARGUMENT: "VALIDATION_FAILED",
    StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    StatusCode.NOT_FOUND: "NOT_FOUND",
    StatusCode.ALREADY_EXISTS: "CONFLICT",
    StatusCode.PERMISSION_DENIED: "FORBIDDEN",
    StatusCode.RESOURCE_EXHAUSTED: "OVERLOADED",  # clients' quotas are counted here alone
    StatusCode.FAILED_PRECONDITION: "FAILED_PRECONDITION",
    StatusCode.ABORTED: "CONFLICT",
    StatusCode.OUT_OF_RANGE: "VALIDATION_FAILED",
    StatusCode.UNIMPLEMENTED: "NOT_IMPLEMENTED",
    StatusCode.UNAVAILABLE: "UPSTREAM_UNAVAILABLE",
    StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
}
# The statuses that are about the request, so that their reason is for the client.
_ABOUT_THE_REQUEST = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ABORTED,
    StatusCode.OUT_OF_RANGE,
    StatusCode.RESOURCE_EXHAUSTED,
}
# Names of request fields in the protos that are other parameters, members or headers in REST.
_FIELDS = {
    "departure_date": "date",
    "sort_order": "sort",
    "request_id": "Idempotency-Key",
    "min_positions": "Min-Position",
    "carriers": "carrier",
    "delay": "minutes",
}
_MOST_ERRORS = 20  # shown: an answer must not be longer than what was asked
_HTTP = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE"}
_PYDANTIC = {
    "missing": "REQUIRED",
    "required": "REQUIRED",
    "malformed": "MALFORMED",
    "extra_forbidden": "UNKNOWN_FIELD",
    "enum": "NOT_ALLOWED",
    "literal_error": "NOT_ALLOWED",
    "string_pattern_mismatch": "MALFORMED",
    "string_too_short": "TOO_SHORT",
    "string_too_long": "TOO_LONG",
    "too_short": "TOO_SHORT",
    "too_long": "TOO_LONG",
    "greater_than_equal": "OUT_OF_RANGE",
    "less_than_equal": "OUT_OF_RANGE",
    "int_parsing": "MALFORMED",
    "date_from_datetime_parsing": "MALFORMED",
    "date_from_datetime_inexact": "MALFORMED",
    "date_parsing": "MALFORMED",
}


def of_call(
    error: grpc.aio.AioRpcError, names: Mapping[str, str] = MappingProxyType({})
) -> Problem:
    """The problem of a call that failed; `names` are those of fields that this route calls so."""
    status = Status.of(error)
    code = _code(status)
    errors = [_field_error(violation, names) for violation in status.violations]
    detail = "; ".join(f"{error.field}: {error.detail}" for error in errors) or status.message
    public = status.reason and CODES[code].status < _SERVER_ERRORS
    return Problem(code, detail if public else "", errors=errors, headers=_headers(status, code))


def _code(status: Status) -> str:
    if status.code in _ABOUT_THE_REQUEST and (known := public_code(status.reason)):
        return known
    return _BY_STATUS.get(status.code, "INTERNAL")


def public_code(reason: str) -> str | None:
    """The code by which the public API knows an ErrorInfo's reason; None when it does not."""
    code = _REASONS.get(reason, reason)
    return code if code in CODES else None


def _field_error(violation: Violation, names: Mapping[str, str]) -> FieldError:
    field = violation.field.removeprefix("query.")
    shown = names.get(field) or _FIELDS.get(field, field)
    return FieldError(field=shown, code=violation.reason, detail=violation.description)


def _headers(status: Status, code: str) -> dict[str, str]:
    match CODES[code].status:
        case 401:
            return {"WWW-Authenticate": "Bearer"}
        case 429 | 503:
            wait = status.retry_after.total_seconds() if status.retry_after else RETRY_AFTER
            return {"Retry-After": str(max(1, math.ceil(wait)))}
        case _:
            return {}


def of_validation(error: RequestValidationError) -> Problem:
    """422 for a body that is JSON but not what it should be, 400 for anything else."""
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        detail = "The request body is not JSON."
        broken = FieldError(field="", code="MALFORMED_JSON", detail=detail)
        return Problem("VALIDATION_FAILED", detail, errors=[broken])
    in_body = all(each["loc"][0] == "body" for each in found)
    errors = [_invalid(each) for each in found[:_MOST_ERRORS]]
    return Problem("VALIDATION_FAILED", status=422 if in_body else 400, errors=errors)


def _invalid(error: Mapping[str, Any]) -> FieldError:
    place, *path = error["loc"]
    code = _PYDANTIC.get(error["type"], "INVALID")
    if code == "UNKNOWN_FIELD" and place == "query":
        code = "UNKNOWN_PARAMETER"
    return FieldError(field=_dotted(path), code=code, detail=error["msg"])


def _dotted(path: Sequence[str | int]) -> str:
    """`passengers[0].given_name` of its parts."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def of_http(error: HTTPException) -> Problem:
    """The problem that was raised, or that of what the framework raised by itself."""
    if isinstance(error, Problem):
        return error
    code = _HTTP.get(error.status_code)
    if code is None:
        code = "VALIDATION_FAILED" if error.status_code < _SERVER_ERRORS else "INTERNAL"
    return Problem(code, headers=error.headers)


def of_identity(error: Unauthenticated) -> Problem:
    """401, with the challenge of RFC 6750."""
    missing = error.reason == "TOKEN_MISSING"
    challenge = "Bearer" if missing else 'Bearer error="invalid_token"'
    return Problem("UNAUTHENTICATED", str(error), headers={"WWW-Authenticate": challenge})


def of_absence() -> Problem:
    """503 for what the gateway itself could not get; which part that is, is for its log."""
    return Problem("UPSTREAM_UNAVAILABLE", headers={"Retry-After": str(RETRY_AFTER)})
