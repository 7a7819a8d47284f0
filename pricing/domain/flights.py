"""A flight as pricing knows it: what schedule said of it, and the prices that follow from that."""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Self

from pricing.domain import fares
from pricing.domain.errors import FlightCancelled, FlightDeparted, SeatsUnavailable
from pricing.domain.fares import Cabin, Price


@dataclass(frozen=True, slots=True)
class CabinState:
    """Seats of one cabin, by schedule's word."""

    cabin: Cabin
    capacity: int
    available: int

    @property
    def load(self) -> Decimal:
        """Share of the seats that can't be bought, 0 to 1."""
        if self.capacity <= 0:
            return Decimal(1)
        return Decimal(self.capacity - self.available) / self.capacity


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


@dataclass(frozen=True, slots=True)
class CabinPrice:
    """The price of one cabin; `version` grows with every change of it."""

    cabin: Cabin
    price: Price
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedFlight:
    """A flight and its prices; `version` grows with every change of any of them."""

    state: FlightState
    version: int
    prices: tuple[CabinPrice, ...]
    change_time: datetime  # of the prices
    reprice_time: datetime | None  # when time alone moves a price

    @classmethod
    def unpriced(cls, state: FlightState, now: datetime) -> Self:
        """A flight that is new to pricing; `updated` gives it its first prices."""
        return cls(state=state, version=0, prices=(), change_time=now, reprice_time=None)

    def updated(self, state: FlightState, base: Decimal, now: datetime) -> Self:
        """The flight with schedule's newer word and the prices as they are to be now."""
        before = {one.cabin: one for one in self.prices}
        left = fares.days_left(state.departure_time, now)
        prices = tuple(
            _next(before.get(c.cabin), _price(state, c, base, left)) for c in state.cabins
        )
        changed = prices != self.prices
        return replace(
            self,
            state=state,
            version=self.version + changed,
            prices=prices,
            change_time=now if changed else self.change_time,
            reprice_time=fares.next_change(state.departure_time, now),
        )

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


def _price(state: FlightState, seats: CabinState, base: Decimal, days_left: int) -> CabinPrice:
    price = fares.price(base, state.carrier, seats.cabin, days_left, seats.load)
    return CabinPrice(seats.cabin, price, 1)


def _next(before: CabinPrice | None, now: CabinPrice) -> CabinPrice:
    if before is None:
        return now
    return before if before.price == now.price else replace(now, version=before.version + 1)
