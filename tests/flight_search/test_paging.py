import string
from dataclasses import replace
from datetime import date, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_search.domain import (
    BEFORE_ALL,
    BEFORE_ALL_TRIPS,
    Cabin,
    InvalidQueryError,
    Place,
    RoundTripPlace,
    SortOrder,
)
from flight_search.paging import (
    page_start,
    page_token,
    question,
    round_trip_start,
    round_trip_token,
)
from tests.flight_search.timetables import query

PLACE = Place(418_200_000_000, 1_796_000_000, "flt_a", "flt_b", "")
ASKED = question(query(), SortOrder.PRICE)

NUMBERS = st.integers(0, (1 << 63) - 1)
IDS = st.text(string.ascii_letters + string.digits + "_", max_size=24)
TIES = st.tuples(NUMBERS, IDS, IDS, IDS)


@given(st.builds(Place, NUMBERS, NUMBERS, IDS, IDS, IDS), st.sampled_from(SortOrder))
def test_a_token_leads_back_to_its_place(place: Place, order: SortOrder) -> None:
    """Any place survives the way through a token."""
    asked = question(query(), order)
    assert page_start(page_token(place, asked), asked) == place


@given(st.builds(RoundTripPlace, NUMBERS, TIES, TIES))
def test_a_token_leads_back_to_its_place_among_round_trips(place: RoundTripPlace) -> None:
    """The same where a place has a way there and a way back."""
    assert round_trip_start(round_trip_token(place, ASKED), ASKED) == place


def test_no_token_is_the_start() -> None:
    """The first page has no token."""
    assert page_start("", ASKED) == BEFORE_ALL
    assert round_trip_start("", ASKED) == BEFORE_ALL_TRIPS


@pytest.mark.parametrize(
    "other",
    [
        question(query(), SortOrder.DURATION),
        question(query(), SortOrder.PRICE, date(2026, 3, 9)),
        question(query("LAX", "JFK"), SortOrder.PRICE),
        question(query(day=date(2026, 3, 9)), SortOrder.PRICE),
        question(query(passengers=2), SortOrder.PRICE),
        question(query(cabin=Cabin.BUSINESS), SortOrder.PRICE),
        question(query(max_stops=0), SortOrder.PRICE),
        question(query(carriers=("B6",)), SortOrder.PRICE),
        question(query(departs_from=time(6)), SortOrder.PRICE),
        question(query(departs_before=time(6)), SortOrder.PRICE),
    ],
)
def test_a_token_of_another_question_is_refused(other: str) -> None:
    """A token belongs to one query in one order."""
    token = page_token(PLACE, ASKED)
    with pytest.raises(InvalidQueryError) as caught:
        page_start(token, other)

    assert caught.value.reason == "INVALID_PAGE_TOKEN"
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


def test_a_token_of_another_kind_of_result_is_refused() -> None:
    """A place among itineraries is none among round trips, and the other way round."""
    with pytest.raises(InvalidQueryError):
        round_trip_start(page_token(PLACE, ASKED), ASKED)
    with pytest.raises(InvalidQueryError):
        page_start(round_trip_token(BEFORE_ALL_TRIPS, ASKED), ASKED)


def test_the_filters_of_a_question_are_told_apart() -> None:
    """No two filters look alike: the times of the clock have places of their own."""
    asked = [
        question(query(departs_from=time(6)), SortOrder.PRICE),
        question(query(departs_before=time(6)), SortOrder.PRICE),
        question(query(carriers=("B6", "DL")), SortOrder.PRICE),
        ASKED,
    ]
    assert len(set(asked)) == len(asked)


@given(
    st.integers(0, 200),
    st.one_of(st.sampled_from(string.printable), st.characters()),
    st.booleans(),
)
def test_a_changed_token_is_refused(at: int, character: str, inserted: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    """One character more, or another one, makes a token invalid."""
    token = page_token(PLACE, ASKED)
    at = min(at, len(token) - 1)
    changed = token[:at] + character + token[at + (not inserted) :]
    if changed == token:
        return
    with pytest.raises(InvalidQueryError) as caught:
        page_start(changed, ASKED)

    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    "keyset",
    [
        b"",
        b"no json",
        b"7",
        b"[1,2,3]",
        b'["1",2,"a","b","c"]',
        b"[1,2,3,4,5]",
        b'[true,2,"a","b","c"]',
        b'[1.5,2,"a","b","c"]',
        b'[1,2,"a","b"]',
        b'[9223372036854775808,2,"a","b","c"]',
        b'[1,2,"\\ud800","b","c"]',
        b"[" * 300,
    ],
)
def test_a_forged_token_is_refused(keyset: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is no secret: what stands behind it is looked at, too."""
    monkeypatch.setattr("flight_search.paging.json.dumps", lambda *_, **__: keyset.decode())
    token = page_token(PLACE, ASKED)
    with pytest.raises(InvalidQueryError) as caught:
        page_start(token, ASKED)

    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_an_endless_token_is_refused() -> None:
    """A token that is longer than any of ours is not even read."""
    with pytest.raises(InvalidQueryError):
        page_start("A" * 4_000_000, ASKED)


@given(st.text(min_size=1))
def test_nonsense_is_refused(token: str) -> None:
    """Any text that is no token is refused as one."""
    with pytest.raises(InvalidQueryError):
        page_start(token, question(replace(query(), origin="FRA"), SortOrder.PRICE))
