"""What one passenger pays for one cabin of one flight: a synthetic, deterministic fare.

No public source has fares by flight, so these are made up; the same input always gives the same
price, and each factor moves it the way it moves real ones.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import IntEnum
from hashlib import blake2b

CURRENCY = "USD"
CENT = Decimal("0.01")
DAY = timedelta(days=1)

START_OF_ANY_FARE = Decimal(29)
PER_KILOMETRE = Decimal("0.062")
AD_VALOREM_TAX = Decimal("0.075")
CHARGES = Decimal("10.40")  # segment tax and security fee, for one passenger and flight

# Factor by the whole days left until departure, from the first bound that is not above them.
BY_DAYS_LEFT = (
    (28, Decimal("1.00")),
    (21, Decimal("1.06")),
    (14, Decimal("1.15")),
    (10, Decimal("1.27")),
    (7, Decimal("1.40")),
    (5, Decimal("1.55")),
    (3, Decimal("1.75")),
    (1, Decimal("2.00")),
)
ON_THE_DAY = Decimal("2.25")

CHEAPER_CARRIERS = {
    "B6": Decimal("0.92"),
    "F9": Decimal("0.78"),
    "FL": Decimal("0.85"),
    "WN": Decimal("0.88"),
    "VX": Decimal("0.95"),
}
FULLEST = Decimal("0.90")  # what a full cabin adds to the factor 1
STEPS_OF_LOAD = 20  # the load factor moves a price in steps, not with every seat


class Cabin(IntEnum):
    """A class of service on board; numbered as flights.type.v1.Cabin."""

    ECONOMY = 1
    PREMIUM_ECONOMY = 2
    BUSINESS = 3
    FIRST = 4


BY_CABIN = {
    Cabin.ECONOMY: Decimal(1),
    Cabin.PREMIUM_ECONOMY: Decimal("1.55"),
    Cabin.BUSINESS: Decimal("2.70"),
    Cabin.FIRST: Decimal("3.90"),
}


@dataclass(frozen=True, slots=True)
class Price:
    """Amounts in USD, whole cents."""

    fare: Decimal
    taxes: Decimal

    @property
    def total(self) -> Decimal:
        """What the passenger pays."""
        return self.fare + self.taxes


def default_base(origin: str, destination: str, distance_km: int) -> Decimal:
    """Base fare of a route that no operator has set: by distance, and some routes dearer."""
    spread = blake2b(f"{origin}-{destination}".encode(), digest_size=1).digest()[0]
    factor = Decimal(85 + spread * 30 // 255) / 100
    return cents((START_OF_ANY_FARE + PER_KILOMETRE * distance_km) * factor)


def price(base: Decimal, carrier: str, cabin: Cabin, days_left: int, load: Decimal) -> Price:
    """Price by a route's base fare; `load` is the share of the cabin that is gone, 0 to 1."""
    fare = cents(
        base
        * BY_CABIN[cabin]
        * CHEAPER_CARRIERS.get(carrier, 1)
        * by_days_left(days_left)
        * by_load(load)
    )
    return Price(fare=fare, taxes=cents(fare * AD_VALOREM_TAX + CHARGES))


def by_days_left(days: int) -> Decimal:
    """Factor for booking so many whole days ahead."""
    return next((factor for bound, factor in BY_DAYS_LEFT if days >= bound), ON_THE_DAY)


def by_load(load: Decimal) -> Decimal:
    """Factor for a cabin that is so full: hardly any at first, steep at the end."""
    step = Decimal(int(load * STEPS_OF_LOAD)) / STEPS_OF_LOAD
    return 1 + FULLEST * step * step


def days_left(departure: datetime, now: datetime) -> int:
    """Whole days until departure, 0 at least."""
    return max(0, (departure - now) // DAY)


def next_change(departure: datetime, now: datetime) -> datetime | None:
    """First instant at which the days left move the price, at the flight's own time of day."""
    left = days_left(departure, now)
    bounds = [bound for bound, _ in BY_DAYS_LEFT if bound <= left]
    return departure - max(bounds) * DAY + timedelta.resolution if bounds else None


def cents(amount: Decimal) -> Decimal:
    """An amount rounded to whole cents, halves away from zero."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def in_cents(amount: Decimal) -> int:
    """The number of cents of an amount in whole cents."""
    return int(amount * 100)
