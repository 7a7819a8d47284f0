"""What schedule promises of holds, without a database: the model of the property test."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from schedule.domain import Cabin, HoldState, Segment

Seat = tuple[str, Cabin]


@dataclass(slots=True)
class ModelHold:
    """A hold as the model has it."""

    epoch: int
    state: HoldState
    segments: tuple[Segment, ...]


@dataclass(slots=True)
class Model:
    """Capacities, cancelled flights and holds. A step returns a state's name, or a refusal's."""

    capacity: Mapping[Seat, int]
    cancelled: set[str] = field(default_factory=set)
    holds: dict[str, ModelHold] = field(default_factory=dict)

    def taken(self, state: HoldState) -> Counter[Seat]:
        """Seats of the holds in that state."""
        seats: Counter[Seat] = Counter()
        for hold in self.holds.values():
            for segment in hold.segments:
                seats[segment.flight_id, segment.cabin] += segment.seats * (hold.state is state)
        return seats

    def hold(self, booking: str, epoch: int, segments: tuple[Segment, ...]) -> str:
        """Take all seats or none; the same again changes nothing."""
        if hold := self.holds.get(booking):
            if refused := self._refused(hold, epoch):
                return refused
            if hold.segments != segments:
                return "Invalid"
            hold.epoch = epoch
            return hold.state.name
        taken = self.taken(HoldState.HELD) + self.taken(HoldState.CONFIRMED)
        for segment in segments:
            seat = segment.flight_id, segment.cabin
            if segment.flight_id in self.cancelled:
                return "FlightCancelled"
            if self.capacity.get(seat, 0) - taken[seat] < segment.seats:
                return "SeatsUnavailable"
        self.holds[booking] = ModelHold(epoch, HoldState.HELD, segments)
        return "HELD"

    def confirm(self, booking: str, epoch: int) -> str:
        """Sell what is held, unless a flight of it does not fly."""
        hold = self.holds.get(booking)
        if hold is None:
            return "HoldNotFound"
        if epoch >= hold.epoch and hold.state is HoldState.EXPIRED:
            return "HoldExpired"
        if refused := self._refused(hold, epoch):
            return refused
        if hold.state is HoldState.HELD and self.cancelled & {s.flight_id for s in hold.segments}:
            return "FlightCancelled"
        hold.epoch, hold.state = epoch, HoldState.CONFIRMED
        return "CONFIRMED"

    def release(self, booking: str, epoch: int) -> str:
        """Give everything back for good."""
        hold = self.holds.setdefault(booking, ModelHold(epoch, HoldState.RELEASED, ()))
        if epoch < hold.epoch:
            return "StaleEpoch"
        hold.epoch, hold.state = epoch, HoldState.RELEASED
        return "RELEASED"

    def expire(self, booking: str) -> str:
        """Let a hold run out that is still held."""
        hold = self.holds.get(booking)
        if hold is None:
            return "HoldNotFound"
        if hold.state is HoldState.HELD:
            hold.state = HoldState.EXPIRED
        return hold.state.name

    @staticmethod
    def _refused(hold: ModelHold, epoch: int) -> str | None:
        if epoch < hold.epoch:
            return "StaleEpoch"
        return "HoldReleased" if hold.state in {HoldState.RELEASED, HoldState.EXPIRED} else None
