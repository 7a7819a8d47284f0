"""Requests checked field by field: every fault is noted, and one answer names all of them.

    with faults() as noted:
        command = Hold(
            booking_id=noted.read("booking_id", identifier, request.booking_id),
            seats=noted.read("seats", between(1, 9), request.seats),
        )

A parser is a function of a field's value that returns what it means and raises ValueError: a
FaultError says the reason, any other one is INVALID_FORMAT.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, cast

from consulmesh.errors import InvalidArgument, Violation

_T = TypeVar("_T")
_V = TypeVar("_V")

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]+")
_LONGEST_ID: Final = 64
_LONGEST_REQUEST_ID: Final = 255


class FaultError(ValueError):
    """What is wrong with a value; `reason` is UPPER_SNAKE."""

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason


class Faults:
    """Collects what is wrong with a request."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def read(self, field: str, parse: Callable[[_V], _T], value: _V) -> _T:
        """The parsed value. What `parse` refuses with ValueError is noted, and never returned."""
        try:
            return parse(value)
        except ValueError as error:
            reason = error.reason if isinstance(error, FaultError) else "INVALID_FORMAT"
            self._violations.append(Violation(field=field, reason=reason, description=str(error)))
            return cast("_T", None)  # `found` raises before anybody sees it

    def found(self) -> None:
        """Raise InvalidArgument if anything was noted."""
        if self._violations:
            raise InvalidArgument(self._violations)


@contextmanager
def faults() -> Iterator[Faults]:
    """Collect over a block; raises InvalidArgument with everything that was noted at its end."""
    noted = Faults()
    yield noted
    noted.found()


def identifier(text: str) -> str:
    """An opaque id: 1 to 64 visible ASCII characters."""
    return matching(_VISIBLE, _LONGEST_ID, "visible ASCII characters")(text)


def request_id(text: str) -> str:
    """The id that makes a repetition known (AIP-155): 1 to 255 printable ASCII characters."""
    return matching(_PRINTABLE, _LONGEST_REQUEST_ID, "printable ASCII characters")(text)


def matching(pattern: re.Pattern[str], longest: int, described: str) -> Callable[[str], str]:
    """A parser of texts that are there, not too long, and all of what is described."""

    def parse(text: str) -> str:
        if not text:
            raise FaultError("REQUIRED", "is missing")
        if len(text) > longest:
            raise FaultError("TOO_LONG", f"has more than {longest} characters")
        if not pattern.fullmatch(text):
            raise FaultError("INVALID_FORMAT", f"is not all {described}")
        return text

    return parse


def between(least: int, most: int, of: str = "") -> Callable[[int], int]:
    """A parser of numbers, or of counts `of` something."""

    def parse(number: int) -> int:
        if not least <= number <= most:
            raise FaultError("OUT_OF_RANGE", f"{number} is not {least} to {most} {of}".rstrip())
        return number

    return parse


def at_least(least: int) -> Callable[[int], int]:
    """A parser of numbers without an upper bound."""

    def parse(number: int) -> int:
        if number < least:
            raise FaultError("OUT_OF_RANGE", f"{number} is less than {least}")
        return number

    return parse
