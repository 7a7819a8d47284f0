from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product

import pytest

from booking.domain import (
    TRANSITIONS,
    Booking,
    Event,
    IllegalTransition,
    NotCancellable,
    Passenger,
    Quote,
    Rejection,
    Saga,
    Status,
    Step,
    User,
)
from booking.steps import recording

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
REJECTION = Rejection(reason="SEATS_UNAVAILABLE", message="sold out")
QUOTE = Quote(quote_id="quo_1", passengers=1, segments=(), total=Decimal(100))
COMPENSATION = {Step.RELEASE_SEATS, Step.RELEASE_QUOTE}


def saga(step: Step = Step.REDEEM_QUOTE, status: Status = Status.PENDING) -> Saga:
    """A saga that stands before this step."""
    booking = Booking(
        booking_id="bkg_1",
        reference="K7Q2XM",
        user=User(issuer="issuer", subject="ann"),
        quote_id="quo_1",
        passengers=(Passenger(given_name="Ann", family_name="Lee"),),
        email="ann@example.org",
        create_time=NOW,
        update_time=NOW,
        status=status,
    )
    rejection = REJECTION if step in COMPENSATION else None
    return Saga(booking=booking, owner="me", step=step, attempts=3, rejection=rejection)


TELL: dict[Event, Callable[[Saga], Saga]] = {
    Event.QUOTE_REDEEMED: lambda before: before.redeemed(QUOTE, NOW),
    Event.SEATS_HELD: lambda before: before.held(),
    Event.SEATS_CONFIRMED: lambda before: before.confirmed(NOW),
    Event.SEATS_RELEASED: lambda before: before.seats_released(),
    Event.QUOTE_RELEASED: lambda before: before.quote_released(NOW),
    Event.REFUSED: lambda before: before.refused(REJECTION),
    Event.GIVEN_UP: lambda before: before.gave_up(REJECTION),
    Event.CANCELLED: lambda before: before.cancelled("me", NOW),
}


def reachable(start: Step, *, without: frozenset[Event] = frozenset()) -> set[Step]:
    """The steps that can follow a step, by any way that does without some events."""
    found = {start}
    for _ in Step:
        found |= {
            target
            for (source, event), target in TRANSITIONS.items()
            if source in found and event not in without
        }
    return found - {start}


@pytest.mark.parametrize(("step", "event"), list(product(Step, Event)))
def test_every_pair_of_step_and_event(step: Step, event: Event) -> None:
    """Each of the listed transitions leads where it says, and nothing else is possible."""
    before = saga(step, Status.CONFIRMED if step is Step.FINISHED else Status.PENDING)
    target = TRANSITIONS.get((step, event))

    if target is None:
        with pytest.raises((IllegalTransition, NotCancellable)):
            TELL[event](before)
    else:
        after = TELL[event](before)
        assert (after.step, after.attempts) == (target, 0)


def test_way_to_confirmation() -> None:
    """Redeemed, held and confirmed, a booking is CONFIRMED."""
    after = saga().redeemed(QUOTE, NOW).held().confirmed(NOW)

    assert after.step is Step.FINISHED
    assert after.booking.status is Status.CONFIRMED
    assert after.booking.version == 3


def test_commit_is_final() -> None:
    """Once commit is decided, only the refusal of the pivot itself leads to compensation."""
    otherwise = reachable(Step.CONFIRM_SEATS, without=frozenset({Event.REFUSED, Event.CANCELLED}))

    assert otherwise == {Step.FINISHED}
    assert not saga(Step.CONFIRM_SEATS).may_give_up(NOW + timedelta(days=9), timedelta())


def test_abort_is_final() -> None:
    """Once abort is decided, nothing leads back to selling."""
    assert reachable(Step.RELEASE_SEATS, without=frozenset({Event.CANCELLED})) == {
        Step.RELEASE_QUOTE,
        Step.FINISHED,
    }


def test_compensation_can_not_be_given_up() -> None:
    """Giving back is tried until it is done."""
    assert not any(
        saga(step).may_give_up(NOW + timedelta(days=9), timedelta())
        for step in (Step.RELEASE_SEATS, Step.RELEASE_QUOTE, Step.RETURN_SEATS)
    )


def test_patience_is_counted_from_acceptance() -> None:
    """A saga that has decided nothing may give up once its patience is over, not before."""
    patience = timedelta(minutes=2)

    assert not saga(Step.HOLD_SEATS).may_give_up(NOW + timedelta(seconds=119), patience)
    assert saga(Step.HOLD_SEATS).may_give_up(NOW + patience, patience)


def test_rejection_says_the_first_reason() -> None:
    """What was refused is what the booking says once everything is given back."""
    refused = saga(Step.HOLD_SEATS).refused(REJECTION)

    after = refused.seats_released().quote_released(NOW)

    assert refused.booking.status is Status.PENDING
    assert after.booking.status is Status.REJECTED
    assert after.booking.rejection == REJECTION


def test_cancellation_is_a_new_epoch() -> None:
    """Giving a confirmed booking back is a saga of a higher epoch, so nothing older undoes it."""
    confirmed = saga(Step.FINISHED, Status.CONFIRMED)

    after = confirmed.cancelled("another", NOW)

    assert (after.owner, after.epoch) == ("another", confirmed.epoch + 1)
    assert after.booking.status is Status.CANCELLED
    assert after.seats_released().step is Step.FINISHED


@pytest.mark.parametrize("status", [Status.PENDING, Status.REJECTED])
def test_not_cancellable(status: Status) -> None:
    """What was never sold can't be given back."""
    with pytest.raises(NotCancellable):
        saga(Step.FINISHED, status).booking.cancelled(NOW)


@pytest.mark.parametrize(("step", "event"), TRANSITIONS)
def test_every_record_is_a_durable_step(step: Step, event: Event) -> None:
    """What a saga records after an answer has a name, at which a crash can be placed."""
    if event is not Event.CANCELLED:  # a unit of its own
        before = saga(step)
        name = recording(before, TELL[event](before)).name

        assert name.startswith("booking.record_")
