import string
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_search.domain import Cabin, InvalidQueryError, ItineraryQuery, SortOrder
from flight_search.paging import BEFORE_ALL, Place, page_start, page_token
from tests.flight_search.timetables import query

PLACE = Place(418_200_000_000, 1_796_000_000, "flt_a", "flt_b")


NUMBERS = st.integers(0, (1 << 63) - 1)
IDS = st.text(string.ascii_letters + string.digits + "_", max_size=40)


@given(
    st.builds(Place, NUMBERS, NUMBERS, IDS, IDS),
    st.sampled_from(SortOrder),
)
def test_a_token_leads_back_to_its_place(place: Place, order: SortOrder) -> None:
    """Any place survives the way through a token."""
    assert page_start(page_token(place, query(), order), query(), order) == place


def test_no_token_is_the_start() -> None:
    """The first page has no token."""
    assert page_start("", query(), SortOrder.PRICE) == BEFORE_ALL


@pytest.mark.parametrize(
    ("other", "order"),
    [
        (query(), SortOrder.DURATION),
        (query("LAX", "JFK"), SortOrder.PRICE),
        (query(day=date(2026, 3, 9)), SortOrder.PRICE),
        (query(passengers=2), SortOrder.PRICE),
        (query(cabin=Cabin.BUSINESS), SortOrder.PRICE),
        (query(max_stops=0), SortOrder.PRICE),
    ],
)
def test_a_token_of_another_question_is_refused(other: ItineraryQuery, order: SortOrder) -> None:
    """A token belongs to one query in one order."""
    token = page_token(PLACE, query(), SortOrder.PRICE)
    with pytest.raises(InvalidQueryError) as caught:
        page_start(token, other, order)

    assert caught.value.reason == "INVALID_PAGE_TOKEN"
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


@given(
    st.integers(0, 200),
    st.one_of(st.sampled_from(string.printable), st.characters()),
    st.booleans(),
)
def test_a_changed_token_is_refused(at: int, character: str, inserted: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    """One character more, or another one, makes a token invalid."""
    token = page_token(PLACE, query(), SortOrder.PRICE)
    at = min(at, len(token) - 1)
    changed = token[:at] + character + token[at + (not inserted) :]
    if changed == token:
        return
    with pytest.raises(InvalidQueryError) as caught:
        page_start(changed, query(), SortOrder.PRICE)

    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    "keyset",
    [
        b"",
        b"no json",
        b"7",
        b"[1,2,3]",
        b'["1",2,"a","b"]',
        b"[1,2,3,4]",
        b'[1.5,2,"a","b"]',
        b'[9223372036854775808,2,"a","b"]',
        b'[1,2,"\\ud800","b"]',
        b"[" * 300,
    ],
)
def test_a_forged_token_is_refused(keyset: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is no secret: what stands behind it is looked at, too."""
    monkeypatch.setattr("flight_search.paging.json.dumps", lambda *_, **__: keyset.decode())
    token = page_token(PLACE, query(), SortOrder.PRICE)
    with pytest.raises(InvalidQueryError) as caught:
        page_start(token, query(), SortOrder.PRICE)

    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_an_endless_token_is_refused() -> None:
    """A token that is longer than any of ours is not even read."""
    with pytest.raises(InvalidQueryError):
        page_start("A" * 4_000_000, query(), SortOrder.PRICE)


@given(st.text(min_size=1))
def test_nonsense_is_refused(token: str) -> None:
    """Any text that is no token is refused as one."""
    with pytest.raises(InvalidQueryError):
        page_start(token, replace(query(), origin="FRA"), SortOrder.PRICE)
