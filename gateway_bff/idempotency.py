"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header).

Clients choose the key; the services remember it. A key that comes with another request than
before is 422, by the service's word. Keys of users are each user's own; those of anonymous requests
share one space, in which strangers must not meet: whoever sends the same key gets the same answer.
"""

from functools import partial
from typing import Annotated, Any, Final

from fastapi import Depends, Header
from pydantic.config import JsonDict
from starlette.requests import Request

from gateway_bff.problems import FieldError, Problem, invalid

LONGEST_KEY = 255
SHORTEST_ANONYMOUS_KEY = 16  # characters; a UUID has 32 or 36
_NAME = "Idempotency-Key"
_DESCRIPTION: Final = "1 to 255 ASCII characters; a repetition has no effect."
_EXAMPLE: Final = "5e7c1b0a-6f0e-4c39-9a35-0a7f2a4c8d11"
# HTTP takes away the blanks around a header; an empty one is none
_REQUIRED: Final = r"^[!-~]([ -~]{0,253}[!-~])?$"
_OPTIONAL: Final = r"^([!-~]([ -~]{0,253}[!-~])?)?$"
_ANONYMOUS: Final = r"^([!-~][ -~]{14,253}[!-~])?$"

REQUIRED: Final[dict[str, Any]] = {
    "name": _NAME,
    "in": "header",
    "required": True,
    "description": _DESCRIPTION,
    "schema": {"type": "string", "pattern": _REQUIRED, "examples": [_EXAMPLE]},
}
"""For the document of an operation that has a `RequiredKey`."""


def _header(pattern: str) -> Any:
    """The header as the document shows it; what is wrong with one is said by `_checked`."""
    shape = partial(_shape, pattern)
    return Header(
        alias=_NAME, description=_DESCRIPTION, examples=[_EXAMPLE], json_schema_extra=shape
    )


def _shape(pattern: str, schema: JsonDict) -> None:
    schema |= {"type": "string", "pattern": pattern}
    del schema["anyOf"]


def _checked(key: str | None) -> str | None:
    if not key:
        return None
    if len(key) > LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise invalid(_NAME, "MALFORMED", f"A key is 1 to {LONGEST_KEY} ASCII characters.")
    return key


async def _optional(key: Annotated[str | None, _header(_OPTIONAL)] = None) -> str | None:
    return _checked(key)


async def _required(request: Request) -> str:
    key = _checked(request.headers.get(_NAME))
    if key is None:
        detail = "Send the same key again when you repeat the request."
        error = FieldError(field=_NAME, code="REQUIRED", detail=detail)
        raise Problem("IDEMPOTENCY_KEY_MISSING", errors=[error])
    return key


async def _anonymous(key: Annotated[str | None, _header(_ANONYMOUS)] = None) -> str | None:
    key = _checked(key)
    if key is not None and len(key) < SHORTEST_ANONYMOUS_KEY:
        detail = f"A key that can't be guessed has at least {SHORTEST_ANONYMOUS_KEY} characters."
        raise invalid(_NAME, "TOO_SHORT", detail)
    return key


AnonymousKey = Annotated[str | None, Depends(_anonymous)]
OptionalKey = Annotated[str | None, Depends(_optional)]
RequiredKey = Annotated[str, Depends(_required)]
