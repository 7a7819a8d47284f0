"""Whom the saga asks: each step is one idempotent call, keyed by booking id and saga epoch."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from booking.domain import IllegalTransition, Quote, Refused, Saga, Step


class Quotes(Protocol):
    """Pricing's part. Other answers than yes are `Refused`, `Superseded` and `Unanswered`."""

    async def redeem(self, saga: Saga) -> Quote:
        """Bind the quote to the booking."""
        ...

    async def release(self, saga: Saga) -> None:
        """Undo that, and leave a tombstone; never refused."""
        ...


class Seats(Protocol):
    """Schedule's part, answered in the same way."""

    async def hold(self, saga: Saga) -> None:
        """Set every seat of the booking aside, or none."""
        ...

    async def confirm(self, saga: Saga) -> None:
        """Sell what is held."""
        ...

    async def release(self, saga: Saga) -> None:
        """Give back what is held or sold, and leave a tombstone; never refused."""
        ...


class Participants:
    """The participants of a saga behind one question: what follows this step."""

    def __init__(self, quotes: Quotes, seats: Seats, clock: Callable[[], datetime]) -> None:
        self._quotes = quotes
        self._seats = seats
        self._clock = clock

    async def ask(self, saga: Saga) -> Saga:
        """Ask what its step says and return the saga after a definite answer.

        `Superseded` and `Unanswered` are raised: they are no answer to the step.
        """
        try:
            return await self._ask(saga)
        except Refused as refusal:
            return saga.refused(refusal.rejection)

    async def _ask(self, saga: Saga) -> Saga:
        match saga.step:
            case Step.REDEEM_QUOTE:
                return saga.redeemed(await self._quotes.redeem(saga), self._clock())
            case Step.HOLD_SEATS:
                await self._seats.hold(saga)
                return saga.held()
            case Step.CONFIRM_SEATS:
                await self._seats.confirm(saga)
                return saga.confirmed(self._clock())
            case Step.RELEASE_SEATS | Step.RETURN_SEATS:
                await self._seats.release(saga)
                return saga.seats_released()
            case Step.RELEASE_QUOTE:
                await self._quotes.release(saga)
                return saga.quote_released(self._clock())
            case Step.FINISHED:
                raise IllegalTransition("nothing to ask: the saga is finished")
