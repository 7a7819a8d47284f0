"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header).

Clients choose the key; the services remember it. A key that comes with another request than
before is 422, by the service's word.
"""

from typing import Annotated

from fastapi import Depends, Header

from gateway_bff.problems import FieldError, Problem, invalid

LONGEST_KEY = 255
_NAME = "Idempotency-Key"

_Key = Annotated[
    str | None,
    Header(alias=_NAME, description="1 to 255 ASCII characters; a repetition has no effect."),
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


OptionalKey = Annotated[str | None, Depends(_optional)]
RequiredKey = Annotated[str, Depends(_required)]
