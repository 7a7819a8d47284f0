from dataclasses import replace
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.domain import fares
from pricing.domain.errors import (
    FlightCancelled,
    FlightDeparted,
    QuoteExpired,
    QuoteRedeemed,
    QuoteReleased,
    SeatsUnavailable,
    StaleEpoch,
)
from pricing.domain.fares import Cabin, Price
from pricing.domain.flights import CabinState, PricedFlight
from pricing.domain.quotes import REDEEMED_AFTER, Claim, Line, Quote
from pricing.messages import flight_state
from tests.pricing.timetable import NOW, flight

BASES = st.integers(1, 10_000_000)
SEATS = st.integers(0, 600)
STEPS = st.integers(0, fares.STEPS_OF_LOAD)
BASE = 20_000


def in_decimals(
    base: Decimal, carrier: str, cabin: Cabin, days: int, load: Decimal
) -> tuple[Decimal, Decimal]:
    """Fare and taxes in dollars as the formula is written down, each rounded at its end."""
    cabins = {Cabin.ECONOMY: "1", Cabin.PREMIUM_ECONOMY: "1.55", Cabin.BUSINESS: "2.70"}
    cheaper = {"B6": "0.92", "F9": "0.78", "FL": "0.85", "WN": "0.88", "VX": "0.95"}
    ahead = [(28, "1"), (21, "1.06"), (14, "1.15"), (10, "1.27"), (7, "1.40"), (5, "1.55")]
    ahead += [(3, "1.75"), (1, "2.00"), (0, "2.25")]
    step = Decimal(int(load * 20)) / 20
    factors = (
        Decimal(cabins.get(cabin, "3.90")),
        Decimal(cheaper.get(carrier, "1")),
        next(Decimal(factor) for bound, factor in ahead if days >= bound),
        1 + Decimal("0.90") * step * step,
    )
    fare = (base * prod(factors)).quantize(fares.CENT, ROUND_HALF_UP)
    taxes = fare * Decimal("0.075") + Decimal("10.40")
    return fare, taxes.quantize(fares.CENT, ROUND_HALF_UP)


@given(
    base=BASES,
    cabin=st.sampled_from(Cabin),
    days=st.integers(0, 400),
    capacity=SEATS,
    gone=SEATS,
    carrier=st.sampled_from(["AA", "B6", "F9", "FL", "WN", "VX"]),
)
def test_a_price_is_exact(
    base: int, cabin: Cabin, days: int, capacity: int, gone: int, carrier: str
) -> None:
    """Integers give what the formula gives in decimals, to the cent, also for a full cabin."""
    seats = CabinState(cabin, capacity, capacity - min(gone, capacity))
    price = fares.price(base, carrier, cabin, days, seats.steps_of_load)
    load = Decimal(min(gone, capacity)) / capacity if capacity else Decimal(1)
    fare, taxes = in_decimals(fares.dollars(base), carrier, cabin, days, load)

    assert (fares.dollars(price.fare), fares.dollars(price.taxes)) == (fare, taxes)
    assert price.total > 0


@given(km=st.integers(0, 20_000), route=st.text("ABCXYZ", min_size=6, max_size=6))
def test_a_computed_base_fare_is_exact(km: int, route: str) -> None:
    """By distance, at most 15 % cheaper or dearer, to the cent."""
    base = fares.default_base(route[:3], route[3:], km)
    by_distance = Decimal(29) + Decimal("0.062") * km
    possible = {
        (by_distance * factor / 100).quantize(fares.CENT, ROUND_HALF_UP)
        for factor in range(85, 116)
    }

    assert fares.dollars(base) in possible


@given(days=st.integers(0, 60), later=st.integers(0, 60), load=STEPS, fuller=STEPS)
def test_a_price_never_falls_as_departure_nears_or_seats_sell(
    days: int, later: int, load: int, fuller: int
) -> None:
    """Fewer days left and a fuller cabin never make it cheaper."""
    early = fares.price(BASE, "AA", Cabin.ECONOMY, max(days, later), min(load, fuller))
    late = fares.price(BASE, "AA", Cabin.ECONOMY, min(days, later), max(load, fuller))

    assert late.total >= early.total


@given(hours=st.integers(-48, 24 * 60))
def test_time_alone_moves_a_price_at_the_instant_that_is_named(hours: int) -> None:
    """Until `next_change` the factor is the same; at that instant it is another one."""
    departure = NOW + timedelta(hours=hours)
    change = fares.next_change(departure, NOW)
    factor = fares.by_days_left(fares.days_left(departure, NOW))

    if change is None:
        assert factor == fares.ON_THE_DAY
    else:
        just_before = fares.days_left(departure, change - timedelta.resolution)
        assert change > NOW
        assert fares.by_days_left(just_before) == factor
        assert fares.by_days_left(fares.days_left(departure, change)) > factor


def test_the_same_flight_has_the_same_price_everywhere() -> None:
    """Prices are deterministic: two instances compute the same."""
    state = flight_state(flight())
    first = PricedFlight.unpriced(state, 0, NOW).repriced(BASE, NOW)
    second = PricedFlight.unpriced(state, 0, NOW).repriced(BASE, NOW)

    assert first == second
    assert [one.version for one in first.prices] == [1, 1]


def test_only_prices_that_change_get_a_new_version() -> None:
    """A sold seat that moves no price leaves every version as it was; they never go back."""
    state = flight_state(flight(available=100))
    before = PricedFlight.unpriced(state, 7, NOW).repriced(BASE, NOW)
    one_seat = before.told(flight_state(flight(version=2, available=99))).repriced(BASE, NOW)
    half = before.told(flight_state(flight(version=3, available=50))).repriced(BASE, NOW)

    assert (before.version, [one.version for one in before.prices]) == (8, [8, 8])
    assert (one_seat.version, one_seat.state.version) == (8, 2)
    assert (half.version, [one.version for one in half.prices]) == (9, [9, 8])


def test_an_older_word_counts_only_in_another_history() -> None:
    """Schedule's versions compare within one history; a snapshot may have begun another."""
    before = PricedFlight.unpriced(flight_state(flight(version=5)), 0, NOW)
    older = flight_state(flight(version=2))

    assert before.told(older) is before
    assert replace(before, unseen=True).told(older) == replace(before, state=older)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (flight(cancelled=True), FlightCancelled),
        (flight(days=-1), FlightDeparted),
        (flight(available=1), SeatsUnavailable),
    ],
    ids=["cancelled", "departed", "full"],
)
def test_what_cannot_be_flown_is_not_for_sale(said: object, error: type[Exception]) -> None:
    """A cancelled, departed or full flight has no price for a party of two."""
    state = flight_state(said)  # type: ignore[arg-type] # parametrize knows no types
    priced = PricedFlight.unpriced(state, 0, NOW).repriced(BASE, NOW)

    with pytest.raises(error):
        priced.for_sale(Cabin.ECONOMY, 2, NOW)


def quote() -> Quote:
    """A quote of two flights for two passengers."""
    price = Price(180_00, 29_10)
    lines = (Line("flt_a", Cabin.ECONOMY, price), Line("flt_b", Cabin.ECONOMY, price))
    return Quote.new(lines, 2, NOW)


def claim(booking_id: str = "bkg_1", epoch: int = 1) -> Claim:
    """A first claim."""
    return Claim(booking_id=booking_id, epoch=epoch)


def test_a_total_is_the_lines_times_the_passengers() -> None:
    """Two flights at 209.10 for two people."""
    total = quote().total

    assert total == 836_40


def test_a_quote_is_redeemed_by_one_booking_only() -> None:
    """The same booking may ask again, another is refused until the first gives it back."""
    redeemed = quote().redeem(claim(), NOW, NOW)
    tomorrow = NOW + timedelta(days=1)
    again = redeemed.redeem(claim(), tomorrow, tomorrow)
    with pytest.raises(QuoteRedeemed):
        redeemed.redeem(claim("bkg_2"), NOW, NOW)
    free = redeemed.release(claim())

    assert again == redeemed
    assert free.redeem(claim("bkg_2"), NOW, NOW).booking_id == "bkg_2"


def test_a_quote_is_judged_by_the_instant_the_booking_was_accepted() -> None:
    """One microsecond before it runs out it holds, at that instant it does not."""
    held = quote()
    later = held.expire_time + timedelta(minutes=2)

    assert held.redeem(claim(), held.expire_time - timedelta.resolution, later).booking_id
    with pytest.raises(QuoteExpired):
        held.redeem(claim(), held.expire_time, NOW)


@pytest.mark.parametrize("skew", [timedelta(hours=1), timedelta(days=1), timedelta(days=400)])
def test_a_wrong_clock_stretches_a_quote_by_minutes_at_most(skew: timedelta) -> None:
    """Where the clock that accepts bookings is slow, a quote ends for all; a fast one ends it."""
    held = quote()
    end = held.expire_time + REDEEMED_AFTER

    assert held.redeem(claim(), NOW - skew, end - timedelta.resolution).booking_id
    with pytest.raises(QuoteExpired):
        held.redeem(claim(), NOW - skew, end)
    with pytest.raises(QuoteExpired):
        held.redeem(claim(), NOW + skew, NOW)


def test_a_released_booking_cannot_come_back() -> None:
    """A late RedeemQuote behind a ReleaseQuote finds a tombstone."""
    tombstone = Claim(booking_id="bkg_1", epoch=2, released=True)

    with pytest.raises(QuoteReleased):
        quote().redeem(tombstone, NOW, NOW)


def test_an_older_epoch_is_refused() -> None:
    """A saga that was taken over cannot act on its own any more."""
    taken_over = claim(epoch=3)

    assert taken_over.by(4).epoch == 4
    with pytest.raises(StaleEpoch):
        taken_over.by(2)
