"""What clients asked and were told, in the order in which it happened.

A history is a file of JSON objects, one a line, written when it happens: the order of the lines is
the order of time. Each has `t` (unix seconds), `process`, `op` and `phase`:

* `invoke` before a request is sent, then for the same `process` one of
* `ok` (a definite answer), `fail` (definitely no effect) or `info` (nobody knows). An invocation
  that is followed by none of them is `info` too. A process does one thing at a time.

| op       | at `invoke`                                      | at `ok`            |
|----------|--------------------------------------------------|--------------------|
| `quote`  |                                                  | `quote`, as below  |
| `book`   | `user`, `key`, `quote_id`, `passengers`, `email` | `booking`, as below|
| `get`    | `user`, `booking_id`                             | `booking`          |
| `cancel` | `user`, `booking_id`                             | `booking`          |

`passengers` are pairs of given and family name. A `booking` has `booking_id` and `status`, and what
else the answer said of `version`, `reference`, `quote_id`, `total` (a decimal string), `segments`
(lists of flight, cabin, fare and taxes), `passengers` and `email`. A `quote` has `quote_id`,
`passengers` (their number), `total`, `segments` and `expire_time`. A rejected booking is an `ok`.

A line of the process `nemesis`, with the phase `info`, says that something was killed.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

Priced: TypeAlias = tuple[str, str, Decimal, Decimal]
"""A flight, its cabin, and what one passenger pays: fare and taxes."""
Name: TypeAlias = tuple[str, str]

NEMESIS = "nemesis"
OK, FAIL, INFO, INVOKE = "ok", "fail", "info", "invoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked to book."""

    quote_id: str
    passengers: tuple[Name, ...]
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an answer said of a booking; None is what it left out."""

    booking_id: str
    status: str
    version: int | None
    reference: str | None
    quote_id: str | None
    total: Decimal | None
    segments: tuple[Priced, ...] | None
    passengers: tuple[Name, ...] | None
    email: str | None


@dataclass(slots=True, kw_only=True)
class Call:
    """One request of a client. `begun` and `ended` are places in the history."""

    op: str
    user: str
    key: str | None
    request: Request | None
    booking_id: str | None
    begun: int
    ended: int | None = None
    phase: str = INFO
    told: Told | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A quote as a client was told."""

    quote_id: str
    passengers: int
    total: Decimal
    segments: tuple[Priced, ...]


@dataclass(slots=True)
class History:
    """Everything that clients did; of quotes only what they were offered."""

    calls: list[Call] = field(default_factory=list)
    offers: dict[str, Offer] = field(default_factory=dict)
    kills: list[int] = field(default_factory=list)
    lines: int = 0

    @property
    def last_kill(self) -> int:
        """Place of the last kill; -1 where nothing was killed."""
        return max(self.kills, default=-1)

    def by_booking(self) -> Mapping[str, list[Call]]:
        """The calls that were answered with a booking."""
        found = defaultdict[str, list[Call]](list)
        for call in self.calls:
            if call.told is not None:
                found[call.told.booking_id].append(call)
        return found

    def by_key(self) -> Mapping[tuple[str, str], list[Call]]:
        """The attempts to book, by user and key."""
        found = defaultdict[tuple[str, str], list[Call]](list)
        for call in self.calls:
            if call.key is not None:
                found[call.user, call.key].append(call)
        return found


def read_file(path: Path) -> History:
    """Read a history; a last line that was cut off is left out."""
    with path.open("rb") as lines:
        return read(line for line in lines if line.endswith(b"\n"))


def read(lines: Iterable[bytes | str]) -> History:
    """Read a history, line by line."""
    reader = _Reader()
    for line in lines:
        reader.take(json.loads(line))
    return reader.history


class _Reader:
    """Joins invocations with what became of them.

    State: `_running`, the call of each process; `_known`, equal values that need only be kept once.
    """

    def __init__(self) -> None:
        self.history = History()
        self._running: dict[str, Call] = {}
        self._known: dict[object, object] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        place = self.history.lines
        self.history.lines += 1
        if line["process"] == NEMESIS:
            self.history.kills.append(place)
        elif line["phase"] == INVOKE:
            self._begin(line, place)
        else:
            self._end(line, place)

    def _begin(self, line: Mapping[str, Any], place: int) -> None:
        call = Call(
            op=line["op"],
            user=line.get("user", ""),
            key=line.get("key") if line["op"] == "book" else None,
            request=self._once(_request(line)) if line["op"] == "book" else None,
            booking_id=line.get("booking_id"),
            begun=place,
        )
        self._running[line["process"]] = call
        if call.op != "quote":
            self.history.calls.append(call)

    def _end(self, line: Mapping[str, Any], place: int) -> None:
        call = self._running.pop(line["process"])
        call.phase, call.ended = line["phase"], place
        if call.phase != OK:
            return
        if booking := line.get("booking"):
            call.told = self._once(_told(booking))
        if quote := line.get("quote"):
            self.history.offers[quote["quote_id"]] = self._once(_offer(quote))

    def _once(self, value: Any) -> Any:
        return self._known.setdefault(value, value)


def _request(line: Mapping[str, Any]) -> Request:
    return Request(
        quote_id=line["quote_id"], passengers=_names(line["passengers"]), email=line["email"]
    )


def _told(booking: Mapping[str, Any]) -> Told:
    total, segments, names = (booking.get(k) for k in ("total", "segments", "passengers"))
    return Told(
        booking_id=booking["booking_id"],
        status=booking["status"],
        version=booking.get("version"),
        reference=booking.get("reference"),
        quote_id=booking.get("quote_id"),
        total=None if total is None else Decimal(total),
        segments=_priced(segments) if segments else None,
        passengers=None if names is None else _names(names),
        email=booking.get("email"),
    )


def _offer(quote: Mapping[str, Any]) -> Offer:
    return Offer(
        quote_id=quote["quote_id"],
        passengers=quote["passengers"],
        total=Decimal(quote["total"]),
        segments=_priced(quote["segments"]),
    )


def _names(pairs: Iterable[Iterable[str]]) -> tuple[Name, ...]:
    return tuple((given, family) for given, family in pairs)


@cache
def line(flight_id: str, cabin: str, fare: str, taxes: str) -> Priced:
    """What is paid for one flight; equal lines are one object, as there are a great many."""
    return flight_id, cabin, Decimal(fare), Decimal(taxes)


def _priced(segments: Iterable[tuple[str, str, str, str]]) -> tuple[Priced, ...]:
    return tuple(line(*segment) for segment in segments)
