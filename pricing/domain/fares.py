"""What one passenger pays for one cabin of one flight: a synthetic, deterministic fare.

No public source has fares by flight, so these are made up; the same input always gives the same
price, and each factor moves it the way it moves real ones. Amounts are whole cents of US dollars,
factors hundredths: a price is a product of integers, rounded once.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

CURRENCY = "USD"
CENT = Decimal("0.01")
DAY = timedelta(days=1)

START_OF_ANY_FARE = 29_000  # tenths of a cent, as the next
PER_KILOMETRE = 62
AD_VALOREM_TAX = 75  # thousandths
CHARGES = 1_040  # segment tax and security fee, for one passenger and flight

# Factor by the whole days left until departure, from the first bound that is not above them.
BY_DAYS_LEFT = (
    (28, 100),
    (21, 106),
    (14, 115),
    (10, 127),
    (7, 140),
    (5, 155),
    (3, 175),
    (1, 200),
)
ON_THE_DAY = 225

CHEAPER_CARRIERS = {
    "B6": 92,
    "F9": 78,
    "FL": 85,
    "WN": 88,
    "VX": 95,
}
FULLEST = 90  # what a full cabin adds to the factor 100
STEPS_OF_LOAD = 20  # the load factor moves a price in steps, not with every seat


class Cabin(IntEnum):
    """A class of service on board; numbered as flights.type.v1.Cabin."""

    ECONOMY = 1
    PREMIUM_ECONOMY = 2
    BUSINESS = 3
    FIRST = 4


BY_CABIN = {
    Cabin.ECONOMY: 100,
    Cabin.PREMIUM_ECONOMY: 155,
    Cabin.BUSINESS: 270,
    Cabin.FIRST: 390,
}


class Price(NamedTuple):
    """Amounts in cents. A tuple is made in half the time, and there are some millions of prices."""

    fare: int
    taxes: int

    @property
    def total(self) -> int:
        """What the passenger pays."""
        return self.fare + self.taxes


def default_base(origin: str, destination: str, distance_km: int) -> int:
    """Base fare of a route that no operator has set: by distance, and some routes dearer."""
    spread = blake2b(f"{origin}-{destination}".encode(), digest_size=1).digest()[0]
    factor = 85 + spread * 30 // 255
    return _rounded((START_OF_ANY_FARE + PER_KILOMETRE * distance_km) * factor, 10 * 100)


def price(base: int, carrier: str, cabin: Cabin, days_left: int, steps: int) -> Price:
    """Price by a route's base fare; `steps` of `STEPS_OF_LOAD` of the cabin are gone."""
    fare = _rounded(
        base
        * BY_CABIN[cabin]
        * CHEAPER_CARRIERS.get(carrier, 100)
        * by_days_left(days_left)
        * by_load(steps),
        _ALL_FACTORS,
    )
    return Price(fare, _rounded(fare * AD_VALOREM_TAX, 1_000) + CHARGES)


def by_days_left(days: int) -> int:
    """Factor for booking so many whole days ahead."""
    return _BY_DAY[min(days, len(_BY_DAY) - 1)]


def by_load(steps: int) -> int:
    """Factor for a cabin that is so full: hardly any at first, steep at the end.

    Not in hundredths, but in those of a squared step.
    """
    return 100 * STEPS_OF_LOAD**2 + FULLEST * steps**2


def days_left(departure: datetime, now: datetime) -> int:
    """Whole days until departure, 0 at least."""
    return max(0, (departure - now) // DAY)


def next_change(departure: datetime, now: datetime) -> datetime | None:
    """First instant at which the days left move the price, at the flight's own time of day."""
    left = days_left(departure, now)
    bound = next((bound for bound, _ in BY_DAYS_LEFT if bound <= left), None)
    return None if bound is None else departure - bound * DAY + timedelta.resolution


def dollars(cents: int) -> Decimal:
    """An amount in US dollars."""
    return cents * CENT


def in_cents(amount: Decimal) -> int:
    """The number of cents of an amount in whole cents."""
    return int(amount * 100)


def _rounded(amount: int, divisor: int) -> int:
    """An amount that is not negative, divided; halves away from zero."""
    return (2 * amount + divisor) // (2 * divisor)


_ALL_FACTORS = 100**4 * STEPS_OF_LOAD**2
_BY_DAY = tuple(
    next((factor for bound, factor in BY_DAYS_LEFT if days >= bound), ON_THE_DAY)
    for days in range(BY_DAYS_LEFT[0][0] + 1)
)
"""Factor by days left; the last one is that of all longer times."""
