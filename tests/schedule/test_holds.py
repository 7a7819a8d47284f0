from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedule.domain import (
    Cabin,
    Hold,
    HoldExpired,
    HoldReleased,
    HoldState,
    Invalid,
    Refusal,
    Segment,
    StaleEpoch,
    tombstone,
)
from tests.schedule.samples import NOW

Step = Callable[[Hold, int], Hold]

SEGMENT = Segment(flight_id="flt_1", cabin=Cabin.ECONOMY, seats=2)


def held(epoch: int = 1) -> Hold:
    """A hold of two seats."""
    return Hold(
        booking_id="bkg_1",
        saga_epoch=epoch,
        state=HoldState.HELD,
        segments=(SEGMENT,),
        expire_time=NOW + timedelta(minutes=10),
    )


def reopened(hold: Hold, epoch: int) -> Hold:
    """The hold asked for again."""
    return hold.reopened(epoch, (SEGMENT,))


def expired(hold: Hold, _epoch: int) -> Hold:
    """The hold after the sweeper was there."""
    return hold.expired()


def test_repetitions_return_the_same_hold() -> None:
    """Holding, confirming and releasing again are the same hold as the first time."""
    confirmed = held().confirmed(1)
    released = held().released(1)

    assert held().reopened(1, (SEGMENT,)) == held()
    assert confirmed.confirmed(1) == confirmed
    assert released.released(1) == released


def test_a_newer_epoch_is_remembered() -> None:
    """Every step notes the epoch that took it, and an older one is refused from then on."""
    hold = held().reopened(5, (SEGMENT,))

    assert hold.saga_epoch == 5
    for step in (reopened, Hold.confirmed, Hold.released):
        with pytest.raises(StaleEpoch):
            step(hold, 4)


def test_a_released_hold_is_gone_for_good() -> None:
    """A tombstone can be neither held nor confirmed."""
    for gone in (held().released(1), held().confirmed(1).released(1), tombstone("bkg_1", 1, NOW)):
        with pytest.raises(HoldReleased):
            gone.reopened(1, (SEGMENT,))
        with pytest.raises(HoldReleased):
            gone.confirmed(1)


def test_an_expired_hold_is_not_confirmed() -> None:
    """What ran out is not confirmed, and not held a second time."""
    hold = held().expired()
    with pytest.raises(HoldExpired):
        hold.confirmed(1)
    with pytest.raises(HoldReleased):
        hold.reopened(1, (SEGMENT,))

    assert hold.released(1).state is HoldState.RELEASED


def test_only_a_held_hold_expires() -> None:
    """A confirmed or released hold has nothing that could run out."""
    for settled in (held().confirmed(1), held().released(1)):
        assert settled.expired() == settled


def test_other_seats_for_the_same_booking_are_refused() -> None:
    """A repetition that asks for something else is an error and not the first answer."""
    other = Segment(flight_id="flt_1", cabin=Cabin.ECONOMY, seats=3)
    with pytest.raises(Invalid, match="other seats"):
        held().reopened(1, (other,))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([reopened, Hold.confirmed, Hold.released, expired]),
            st.integers(min_value=0, max_value=5),
        )
    )
)
def test_a_hold_only_moves_forward(steps: list[tuple[Step, int]]) -> None:
    """Whatever is asked in whatever order, epochs never fall and states are never left back."""
    forward = {
        HoldState.HELD: set(HoldState),
        HoldState.CONFIRMED: {HoldState.CONFIRMED, HoldState.RELEASED},
        HoldState.EXPIRED: {HoldState.EXPIRED, HoldState.RELEASED},
        HoldState.RELEASED: {HoldState.RELEASED},
    }
    hold = held(epoch=0)
    for step, epoch in steps:
        before = hold
        try:
            hold = step(before, epoch)
        except Refusal:
            continue
        assert hold.state in forward[before.state]
        assert hold.saga_epoch >= before.saga_epoch
