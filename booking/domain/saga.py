"""The booking saga as a state machine: what is asked next, and where each answer leads.

The step says what is asked of a participant next, so storing the new step before asking is
recording the outcome of the last one. `HOLD_SEATS → CONFIRM_SEATS` is the decision to commit, every
way into `RELEASE_…` the decision to abort: each is one compare-and-set of the stored step.

Confirming the hold is the pivot. Before it only compensation follows a failure. Once commit is
decided, neither patience nor a takeover can undo it: the saga asks until the owner of the seats
answers, and only its definite refusal, which proves that nothing was sold, leads away.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from booking.domain.booking import Booking, Quote, Rejection
from booking.domain.errors import IllegalTransition


class Step(StrEnum):
    """What the saga does next."""

    REDEEM_QUOTE = "redeem_quote"
    HOLD_SEATS = "hold_seats"
    CONFIRM_SEATS = "confirm_seats"
    RELEASE_SEATS = "release_seats"
    RELEASE_QUOTE = "release_quote"
    RETURN_SEATS = "return_seats"
    FINISHED = "finished"


class Event(StrEnum):
    """What the saga learns: a definite answer, or a decision of its own."""

    QUOTE_REDEEMED = "quote_redeemed"
    SEATS_HELD = "seats_held"
    SEATS_CONFIRMED = "seats_confirmed"
    SEATS_RELEASED = "seats_released"
    QUOTE_RELEASED = "quote_released"
    REFUSED = "refused"
    GIVEN_UP = "given_up"
    CANCELLED = "cancelled"


TRANSITIONS = {
    (Step.REDEEM_QUOTE, Event.QUOTE_REDEEMED): Step.HOLD_SEATS,
    (Step.REDEEM_QUOTE, Event.REFUSED): Step.RELEASE_QUOTE,  # seats were never asked for
    (Step.REDEEM_QUOTE, Event.GIVEN_UP): Step.RELEASE_QUOTE,
    (Step.HOLD_SEATS, Event.SEATS_HELD): Step.CONFIRM_SEATS,
    (Step.HOLD_SEATS, Event.REFUSED): Step.RELEASE_SEATS,
    (Step.HOLD_SEATS, Event.GIVEN_UP): Step.RELEASE_SEATS,
    (Step.CONFIRM_SEATS, Event.SEATS_CONFIRMED): Step.FINISHED,
    (Step.CONFIRM_SEATS, Event.REFUSED): Step.RELEASE_SEATS,
    (Step.RELEASE_SEATS, Event.SEATS_RELEASED): Step.RELEASE_QUOTE,
    (Step.RELEASE_QUOTE, Event.QUOTE_RELEASED): Step.FINISHED,
    (Step.FINISHED, Event.CANCELLED): Step.RETURN_SEATS,
    (Step.RETURN_SEATS, Event.SEATS_RELEASED): Step.FINISHED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Saga:
    """A booking on its way; each answer makes a new value.

    `epoch` grows whenever an instance takes the saga; participants refuse an older one. `attempts`
    counts unanswered questions of this step.
    """

    booking: Booking
    owner: str
    step: Step = Step.REDEEM_QUOTE
    epoch: int = 1
    attempts: int = 0
    rejection: Rejection | None = None

    def redeemed(self, quote: Quote, now: datetime) -> "Saga":
        """The quote is bound to this booking: its flights and price are the booking's."""
        return self._after(Event.QUOTE_REDEEMED, self.booking.priced(quote, now))

    def held(self) -> "Saga":
        """Every seat is set aside: commit."""
        return self._after(Event.SEATS_HELD)

    def confirmed(self, now: datetime) -> "Saga":
        """Every seat is sold."""
        return self._after(Event.SEATS_CONFIRMED, self.booking.confirmed(now))

    def refused(self, rejection: Rejection) -> "Saga":
        """A participant has definitely said no: abort."""
        return replace(self._after(Event.REFUSED), rejection=rejection)

    def gave_up(self, rejection: Rejection) -> "Saga":
        """Nobody answered for as long as a booking may wait: abort."""
        return replace(self._after(Event.GIVEN_UP), rejection=rejection)

    def seats_released(self) -> "Saga":
        """No seat is held or sold any more, nor can be for this booking."""
        return self._after(Event.SEATS_RELEASED)

    def quote_released(self, now: datetime) -> "Saga":
        """The quote is free again; nothing is left of the attempt."""
        rejection = self.rejection
        if rejection is None:
            raise IllegalTransition(f"{self.step} without a reason to reject")
        return self._after(Event.QUOTE_RELEASED, self.booking.rejected(rejection, now))

    def cancelled(self, owner: str, now: datetime) -> "Saga":
        """The user gives the booking back: `owner` returns its seats, in a new epoch."""
        cancelled = self.booking.cancelled(now)
        returning = self._after(Event.CANCELLED, cancelled)
        return replace(returning, owner=owner, epoch=self.epoch + 1)

    def may_give_up(self, now: datetime, patience: timedelta) -> bool:
        """Whether it has waited too long and can still be aborted without being refused."""
        undecided = (self.step, Event.GIVEN_UP) in TRANSITIONS
        return undecided and now - self.booking.create_time >= patience

    def _after(self, event: Event, booking: Booking | None = None) -> "Saga":
        step = TRANSITIONS.get((self.step, event))
        if step is None:
            raise IllegalTransition(f"{event} in step {self.step}")
        return replace(self, step=step, booking=booking or self.booking, attempts=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedSaga:
    """A saga that has not ended, as an operator sees it."""

    booking_id: str
    step: Step
    epoch: int
    attempts: int
    last_error: str
    owner: str
    start_time: datetime
    due_time: datetime
