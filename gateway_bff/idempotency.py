"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header).

Clients choose the key; the services remember it. A key that comes with another request than
before is 422, by the service's word. Keys of users are each user's own; those of anonymous requests
share one space, in which strangers must not meet: whoever sends the same key gets the same answer.
"""

from typing import Annotated

from fastapi import Depends, Header
from pydantic.config import JsonDict

from gateway_bff.problems import FieldError, Problem, invalid

LONGEST_KEY = 255
SHORTEST_ANONYMOUS_KEY = 16  # characters; a UUID has 32 or 36
_NAME = "Idempotency-Key"
_PATTERN = r"^[ -~]{1,255}$"


def _shape(schema: JsonDict) -> None:
    """What a key looks like; what is wrong with one is said by `_optional`."""
    schema |= {"type": "string", "pattern": _PATTERN}
    del schema["anyOf"]


_Key = Annotated[
    str | None,
    Header(
        alias=_NAME,
        description="1 to 255 ASCII characters; a repetition has no effect.",
        examples=["5e7c1b0a-6f0e-4c39-9a35-0a7f2a4c8d11"],
        json_schema_extra=_shape,
    ),
]


async def _optional(key: _Key = None) -> str | None:
    if not key:
        return None
    if len(key) > LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise invalid(_NAME, "MALFORMED", f"A key is 1 to {LONGEST_KEY} ASCII characters.")
    return key


async def _required(key: Annotated[str | None, Depends(_optional)]) -> str:
    if key is None:
        detail = "Send the same key again when you repeat the request."
        error = FieldError(field=_NAME, code="REQUIRED", detail=detail)
        raise Problem("IDEMPOTENCY_KEY_MISSING", errors=[error])
    return key


async def _anonymous(key: Annotated[str | None, Depends(_optional)]) -> str | None:
    if key is not None and len(key) < SHORTEST_ANONYMOUS_KEY:
        detail = f"A key that can't be guessed has at least {SHORTEST_ANONYMOUS_KEY} characters."
        raise invalid(_NAME, "TOO_SHORT", detail)
    return key


AnonymousKey = Annotated[str | None, Depends(_anonymous)]
OptionalKey = Annotated[str | None, Depends(_optional)]
RequiredKey = Annotated[str, Depends(_required)]
