"""The hold of a booking: which seats are set aside, and how far it has got.

    (nothing) ── open ──► HELD ── confirm ──► CONFIRMED
        │                  │ ╲                    │
        │ release          │  expire ► EXPIRED    │
        └──────► RELEASED ◄┴──────────────┴───────┘  for good: a tombstone

Every step names the epoch of the saga that asks. An epoch older than the newest one seen for the
booking is refused, so that a saga that was taken over wakes up harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum

from schedule.domain.errors import HoldExpired, HoldReleased, Invalid, StaleEpoch, Violation
from schedule.domain.flights import Cabin

DEFAULT_DURATION = timedelta(minutes=10)
LONGEST_DURATION = timedelta(minutes=30)


class HoldState(IntEnum):
    """State of a hold; the numbers are those of flights.schedule.v1.HoldState."""

    HELD = 1
    CONFIRMED = 2
    RELEASED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Seats of one flight that a booking needs."""

    flight_id: str
    cabin: Cabin
    seats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The seats of one booking; no flight is in it twice. `expire_time` counts only while HELD.

    A tombstone of a booking that never held anything has no segments.
    """

    booking_id: str
    saga_epoch: int
    state: HoldState
    segments: tuple[Segment, ...]
    expire_time: datetime

    def reopened(self, epoch: int, segments: tuple[Segment, ...]) -> Hold:
        """Answer a repeated request to hold: this hold. Nothing is held again.

        Raises StaleEpoch, HoldReleased (also when it ran out), and Invalid for other segments than
        the first time.
        """
        hold = self._seen(epoch)
        if self.state in {HoldState.RELEASED, HoldState.EXPIRED}:
            raise self._gone(HoldReleased)
        if segments != self.segments:
            raise Invalid(
                Violation(
                    field="segments",
                    reason="CHANGED",
                    description="the booking already holds other seats",
                )
            )
        return hold

    def confirmed(self, epoch: int) -> Hold:
        """This hold with its seats sold. StaleEpoch, HoldReleased, HoldExpired.

        Looks at the state, not at a clock: a hold that is due but not yet swept can be confirmed.
        """
        hold = self._seen(epoch)
        if self.state is HoldState.RELEASED:
            raise self._gone(HoldReleased)
        if self.state is HoldState.EXPIRED:
            raise self._gone(HoldExpired)
        return replace(hold, state=HoldState.CONFIRMED)

    def released(self, epoch: int) -> Hold:
        """This hold as a tombstone. Raises StaleEpoch."""
        return replace(self._seen(epoch), state=HoldState.RELEASED)

    def expired(self) -> Hold:
        """This hold, run out; itself when it is no longer HELD."""
        return replace(self, state=HoldState.EXPIRED) if self.state is HoldState.HELD else self

    def _seen(self, epoch: int) -> Hold:
        if epoch < self.saga_epoch:
            raise StaleEpoch(
                "a newer saga has spoken for this booking",
                booking_id=self.booking_id,
                saga_epoch=str(self.saga_epoch),
            )
        return self if epoch == self.saga_epoch else replace(self, saga_epoch=epoch)

    def _gone(self, error: type[HoldReleased | HoldExpired]) -> HoldReleased | HoldExpired:
        state = self.state.name.lower()
        return error(f"the hold is {state}", booking_id=self.booking_id, state=self.state.name)


def tombstone(booking_id: str, epoch: int, now: datetime) -> Hold:
    """What a release leaves where nothing was held."""
    return Hold(
        booking_id=booking_id,
        saga_epoch=epoch,
        state=HoldState.RELEASED,
        segments=(),
        expire_time=now,
    )
