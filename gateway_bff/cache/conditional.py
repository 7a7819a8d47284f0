"""Answers that a client may have already: ETag and If-None-Match (RFC 9110 §13.1.2)."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from starlette.responses import Response

_NAME: Final = "gateway-bff"
_NOT_MODIFIED: Final = 304


def etag(body: bytes) -> str:
    """The strong validator of a body."""
    return f'"{blake2b(body, digest_size=16).hexdigest()}"'


def answer_headers(validator: str, fresh: Mapping[str, str], status: str) -> dict[str, str]:
    """The headers of an answer: how fresh it is, and what the cache did (RFC 9211)."""
    return {
        "Vary": "Accept",
        "Cache-Control": "no-cache",  # to be kept, and asked for again each time
        "Cache-Status": f"{_NAME}; {status}",
        "ETag": validator,
        **fresh,
    }


def conditional(if_none_match: str, body: bytes, headers: Mapping[str, str]) -> Response:
    """The answer, or 304 where the client has just that one."""
    if if_none_match and _matches(if_none_match, headers["ETag"]):
        return Response(status_code=_NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _matches(if_none_match: str, validator: str) -> bool:
    """Weak comparison, as the field asks for."""
    tags = (tag.strip() for tag in if_none_match.split(","))
    return any(tag == "*" or tag.removeprefix("W/") == validator for tag in tags)
