"""What is judged: the history and the databases, side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from bench.checker.facts import Booking, Facts
from bench.checker.history import Call, History, Told

_NEXT: Final[Mapping[str, frozenset[str]]] = {
    "pending": frozenset({"confirmed", "affected", "rejected", "cancelled"}),
    "confirmed": frozenset({"affected", "cancelled"}),
    "affected": frozenset({"cancelled"}),
    "rejected": frozenset(),
    "cancelled": frozenset(),
}
"""What a booking in a state can still become."""


@dataclass(frozen=True, slots=True)
class Case:
    """A history and what is in the databases at its end.

    `answers` are the calls that were answered with a booking, by booking; `attempts` those that
    tried to book, by user and key.
    """

    history: History
    facts: Facts
    answers: Mapping[str, list[Call]]
    attempts: Mapping[tuple[str, str], list[Call]]

    @classmethod
    def of(cls, history: History, facts: Facts) -> Self:
        """Put them side by side."""
        return cls(history, facts, history.by_booking(), history.by_key())

    @property
    def bookings(self) -> Mapping[str, Booking]:
        """Every booking that there is."""
        return self.facts.booking.bookings

    def finished(self) -> Iterator[tuple[str, Booking]]:
        """Bookings whose saga has nothing left to do."""
        return ((key, booking) for key, booking in self.bookings.items() if booking.finished)


def forward(before: str, after: str) -> bool:
    """Whether a booking can get from one state to the other, or stay in it."""
    return before == after or after in _NEXT[before]


def follows(before: Told, after: Told) -> bool:
    """Whether what was told after can be the same booking as before, or further on."""
    if before.version is not None and after.version is not None and before.version > after.version:
        return False
    return forward(before.status, after.status)


def kept(told: Told, booking: Booking) -> bool:
    """Whether a booking is as it was told, or further on."""
    older = told.version is not None and told.version > booking.version
    return not older and forward(told.status, booking.status)
