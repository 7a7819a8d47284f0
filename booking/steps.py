"""The durable steps of this service by name: see `eventstream.steps`.

What a saga records has a name for each way it can go, so that a crash can be placed at any of them.
`booking.record_held` is the decision to commit, `booking.record_refused` the decision to abort.
"""

from collections.abc import Mapping
from typing import Final

from booking.domain import Saga, Step
from eventstream import Step as DurableStep

BEGIN: Final = DurableStep("booking.begin")
CANCEL: Final = DurableStep("booking.cancel")
POSTPONE: Final = DurableStep("booking.postpone")
CLAIM: Final = DurableStep("booking.claim")
RECALL: Final = DurableStep("booking.recall")
HAND_BACK: Final = DurableStep("booking.hand_back")
AFFECT: Final = DurableStep("booking.affect")
TIDY: Final = DurableStep("booking.tidy")

_REFUSED: Final = DurableStep("booking.record_refused")
_RECORDS: Final[Mapping[tuple[Step, Step], DurableStep]] = {
    (Step.REDEEM_QUOTE, Step.HOLD_SEATS): DurableStep("booking.record_redeemed"),
    (Step.HOLD_SEATS, Step.CONFIRM_SEATS): DurableStep("booking.record_held"),
    (Step.CONFIRM_SEATS, Step.FINISHED): DurableStep("booking.record_confirmed"),
    (Step.REDEEM_QUOTE, Step.RELEASE_QUOTE): _REFUSED,
    (Step.HOLD_SEATS, Step.RELEASE_SEATS): _REFUSED,
    (Step.CONFIRM_SEATS, Step.RELEASE_SEATS): _REFUSED,
    (Step.RELEASE_SEATS, Step.RELEASE_QUOTE): DurableStep("booking.record_released"),
    (Step.RELEASE_QUOTE, Step.FINISHED): DurableStep("booking.record_rejected"),
    (Step.RETURN_SEATS, Step.FINISHED): DurableStep("booking.record_returned"),
}


def recording(before: Saga, after: Saga) -> DurableStep:
    """The durable step that takes a saga from one step to the next."""
    return _RECORDS[before.step, after.step]
