"""Who travels and who books: values as they were typed, checked once."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from booking.domain.errors import InvalidRequest, Violation

MAX_PASSENGERS = 9
_MAX_NAME = 100
_MAX_EMAIL = 254  # RFC 5321, 4.5.3.1.3
_MOST_COMPOSED = 4  # code points that NFC makes one of
_QUOTE_ID = re.compile(r"[\x21-\x7e]{1,64}")
_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,255}")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whose booking it is: a subject of an issuer of tokens."""

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passenger:
    """A traveller."""

    given_name: str
    family_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingRequest:
    """What a user asks to book, canonical: names and address in NFC, without outer white space."""

    request_id: str
    quote_id: str
    passengers: tuple[Passenger, ...]
    email: str

    @classmethod
    def of(
        cls, *, request_id: str, quote_id: str, names: Sequence[tuple[str, str]], email: str
    ) -> "BookingRequest":
        """Check and normalise; `InvalidRequest` names every field that is wrong."""
        request = cls(
            request_id=request_id,
            quote_id=quote_id,
            passengers=tuple(
                Passenger(
                    given_name=_normal(given, _MAX_NAME), family_name=_normal(family, _MAX_NAME)
                )
                for given, family in names
            ),
            email=_normal(email, _MAX_EMAIL),
        )
        if violations := tuple(_violations(request)):
            raise InvalidRequest(violations)
        return request


def checked_request_id(request_id: str) -> str:
    """The idempotency key, if it is 1 to 255 printable ASCII characters."""
    if violations := tuple(_request_id(request_id)):
        raise InvalidRequest(violations)
    return request_id


def _normal(text: str, longest: int) -> str:
    """A text as it is kept; as it was typed where that is too long in any form.

    Normalising takes time by the square of how many marks follow one another.
    """
    text = text.strip()
    if len(text) > _MOST_COMPOSED * longest:
        return text
    return unicodedata.normalize("NFC", text).strip()


def _violations(request: BookingRequest) -> Iterator[Violation]:
    yield from _request_id(request.request_id)
    yield from _matching(
        "quote_id", request.quote_id, _QUOTE_ID, "1 to 64 visible ASCII characters"
    )
    if not 1 <= len(request.passengers) <= MAX_PASSENGERS:
        yield Violation(
            field="passengers",
            reason="OUT_OF_RANGE",
            description=f"a booking has 1 to {MAX_PASSENGERS} passengers",
        )
    for number, passenger in enumerate(request.passengers):
        yield from _text(f"passengers[{number}].given_name", passenger.given_name, _MAX_NAME)
        yield from _text(f"passengers[{number}].family_name", passenger.family_name, _MAX_NAME)
    yield from _email(request.email)


def _request_id(request_id: str) -> Iterator[Violation]:
    described = "1 to 255 printable ASCII characters"
    yield from _matching("request_id", request_id, _REQUEST_ID, described)


def _matching(
    field: str, text: str, pattern: re.Pattern[str], described: str
) -> Iterator[Violation]:
    if not pattern.fullmatch(text):
        reason = "INVALID_FORMAT" if text else "REQUIRED"
        yield Violation(field=field, reason=reason, description=described)


def _text(field: str, text: str, longest: int) -> Iterator[Violation]:
    if not text:
        yield Violation(field=field, reason="REQUIRED", description="must not be empty")
    elif len(text) > longest:
        yield Violation(field=field, reason="TOO_LONG", description=f"at most {longest} characters")
    elif not text.isprintable():
        yield Violation(
            field=field, reason="INVALID_CHARACTERS", description="only printable characters"
        )


def _email(email: str) -> Iterator[Violation]:
    broken = tuple(_text("contact.email", email, _MAX_EMAIL))
    yield from broken
    if not broken and not _EMAIL.fullmatch(email):
        yield Violation(
            field="contact.email", reason="INVALID_FORMAT", description="not an email address"
        )
