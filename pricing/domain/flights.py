"""A flight as pricing knows it: what schedule said of it, and the prices that follow from that."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, Self

from pricing.domain import fares
from pricing.domain.errors import FlightCancelled, FlightDeparted, SeatsUnavailable
from pricing.domain.fares import STEPS_OF_LOAD, Cabin, Price


class CabinState(NamedTuple):
    """Seats of one cabin, by schedule's word."""

    cabin: Cabin
    capacity: int
    available: int

    @property
    def steps_of_load(self) -> int:
        """Share of the seats that can't be bought, in whole steps of the load factor."""
        if self.capacity <= 0:
            return STEPS_OF_LOAD
        return max(0, self.capacity - self.available) * STEPS_OF_LOAD // self.capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightState:
    """A flight, by schedule's word. `version` is schedule's."""

    flight_id: str
    version: int
    carrier: str
    origin: str
    destination: str
    departure_time: datetime
    distance_km: int
    cancelled: bool
    cabins: tuple[CabinState, ...]

    def flies_as(self, other: Self) -> bool:
        """Whether it is the same but for its seats, and for whether it flies."""
        mine, others = (
            (s.origin, s.destination, s.departure_time, s.carrier, s.distance_km)
            for s in (self, other)
        )
        return mine == others


class CabinPrice(NamedTuple):
    """The price of one cabin; `version` is that of its flight's prices when it last changed."""

    cabin: Cabin
    price: Price
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedFlight:
    """A flight and its prices; `version` grows with every change of any of them.

    `unseen` while a snapshot of schedule's has not come to the flight: what it was before may be of
    another history, whose versions mean nothing now.
    """

    state: FlightState
    version: int
    prices: tuple[CabinPrice, ...]
    change_time: datetime  # of the prices
    reprice_time: datetime | None  # when time alone moves a price
    unseen: bool = False

    @classmethod
    def unpriced(cls, state: FlightState, version: int, now: datetime) -> Self:
        """A flight that is new to pricing; `repriced` gives it its first prices."""
        return cls(state=state, version=version, prices=(), change_time=now, reprice_time=None)

    def told(self, state: FlightState) -> Self:
        """The flight with schedule's word of it, unless that is an older one; not yet repriced."""
        if state.version < self.state.version and not self.unseen:
            return self
        return replace(self, state=state, unseen=False)

    def repriced(self, base: int, now: datetime, *, moved: bool = False) -> Self:
        """The flight with the prices as they are to be now, by its route's base fare in cents.

        Prices say where and when they are for: those of a flight that has `moved` are new ones.
        """
        state, before = self.state, {one.cabin: one for one in self.prices}
        left = fares.days_left(state.departure_time, now)
        prices = tuple(
            _kept(before.get(c.cabin), _price(state, c, base, left, self.version + 1))
            for c in state.cabins
        )
        changed = prices != self.prices or (moved and bool(prices))
        return replace(
            self,
            version=self.version + changed,
            prices=prices,
            change_time=now if changed else self.change_time,
            reprice_time=fares.next_change(state.departure_time, now),
        )

    def is_due(self, now: datetime) -> bool:
        """Whether time alone has moved a price."""
        return self.reprice_time is not None and self.reprice_time <= now

    def for_sale(self, cabin: Cabin, passengers: int, now: datetime) -> Price:
        """The price for a party; raises where it can't fly. Seats are not set aside by asking."""
        if self.state.cancelled:
            raise FlightCancelled(f"Flight {self.state.flight_id} is cancelled.")
        if self.state.departure_time <= now:
            raise FlightDeparted(f"Flight {self.state.flight_id} has departed.")
        seats = {c.cabin: c.available for c in self.state.cabins}
        if seats.get(cabin, 0) < passengers:
            raise SeatsUnavailable(f"Flight {self.state.flight_id} has too few seats left.")
        return next(one.price for one in self.prices if one.cabin is cabin)


def _price(
    state: FlightState, seats: CabinState, base: int, days_left: int, version: int
) -> CabinPrice:
    price = fares.price(base, state.carrier, seats.cabin, days_left, seats.steps_of_load)
    return CabinPrice(seats.cabin, price, version)


def _kept(before: CabinPrice | None, now: CabinPrice) -> CabinPrice:
    return before if before is not None and before.price == now.price else now
