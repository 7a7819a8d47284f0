"""The Prefer header (RFC 7240), as far as somebody waits: `respond-async` and `wait`.

What is not understood is no error, as the RFC has it: the answer then comes as it always does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Header

from gateway_bff import openapi

_NAME: Final = "Prefer"
_MOST_DIGITS: Final = 9
_ASYNC: Final = "respond-async"

PARAMETER: Final[dict[str, Any]] = {
    "name": _NAME,
    "in": "header",
    "description": "`respond-async`: 202 at once; `wait=3`: 202 after so many seconds at most.",
    "schema": {"type": "string", "examples": ["respond-async"]},
}
"""For the document; the header may also come more than once."""
HEADERS: Final = {
    "Preference-Applied": openapi.header("What was heeded of `Prefer` (RFC 7240)", "wait=3")
}

_Fields = Annotated[list[str] | None, Header(alias=_NAME, include_in_schema=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How a client wants to wait for an outcome; `wait` in seconds."""

    respond_async: bool
    wait: int | None

    @property
    def longest(self) -> int | None:
        """Seconds to wait at most, where the client says so."""
        return 0 if self.wait is None and self.respond_async else self.wait

    def applied(self, *, outcome: bool) -> Mapping[str, str]:
        """The header that says what was heeded, in an answer with the outcome or without it."""
        heeded = [_ASYNC] if self.respond_async and not outcome else []
        if self.wait is not None:
            heeded.append(f"wait={self.wait}")
        return {"Preference-Applied": ", ".join(heeded)} if heeded else {}


async def _waiting(fields: _Fields = None) -> Waiting:
    preferred: dict[str, str] = {}
    for element in ",".join(fields or ()).split(","):
        name, _, value = element.partition(";")[0].partition("=")
        preferred.setdefault(name.strip().lower(), value.strip().strip('"'))  # the first counts
    wait = preferred.get("wait", "")
    is_number = wait.isascii() and wait.isdecimal() and len(wait) <= _MOST_DIGITS
    return Waiting(respond_async=_ASYNC in preferred, wait=int(wait) if is_number else None)


HowToWait = Annotated[Waiting, Depends(_waiting)]
