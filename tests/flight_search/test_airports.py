import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flight_search.airports import AirportDirectory, folded
from flight_search.domain import Airport, Leg

DIRECTORY = AirportDirectory.load()
SERVED = frozenset({"JFK", "LGA", "LAX", "SAN", "SFO", "TOS"})


def codes(text: str, served: frozenset[str] = SERVED, limit: int = 10) -> list[str]:
    """The codes that a text finds."""
    return [airport.code for airport in DIRECTORY.search(text, served, limit)]


def test_every_airport_has_a_time_zone() -> None:
    """No airport can be asked for whose local day is unknown."""
    zones = [DIRECTORY.zone(code) for code in DIRECTORY._airports]

    assert len(zones) > 7000
    assert all(isinstance(zone, ZoneInfo) for zone in zones)


@pytest.mark.parametrize("code", ["", "QQQ", "jfk", "JFK ", "New York"])
def test_a_code_that_no_airport_has_has_no_zone(code: str) -> None:
    """Codes are exact."""
    assert DIRECTORY.zone(code) is None


@pytest.mark.parametrize(
    ("code", "airports"),
    [
        ("JFK", ("JFK",)),
        ("NYC", ("EWR", "JFK", "LGA")),
        ("LON", ("LCY", "LGW", "LHR", "LTN", "STN")),
        ("IST", ("IST",)),  # also the code of an area
        ("nyc", ()),
        ("QQQ", ()),
    ],
)
def test_a_code_means_an_airport_or_all_of_an_area(code: str, airports: tuple[str, ...]) -> None:
    """Where both have the same code, it means the airport."""
    assert DIRECTORY.airports(code) == airports


def test_the_airports_of_an_area_share_a_time_zone() -> None:
    """The day of an area is that of any of its airports."""
    for members in DIRECTORY._areas.values():
        assert len({DIRECTORY.zone(code) for code in members}) == 1


def test_an_area_is_found_by_its_code() -> None:
    """Whoever types the code of an area is offered its airports."""
    assert codes("nyc") == ["JFK", "LGA", "EWR"]


def test_a_leg_is_as_long_as_the_great_circle() -> None:
    """Within half a percent of what is published, with the border that is between."""
    leg = DIRECTORY.leg("JFK", "LHR")

    assert leg.km == pytest.approx(5_540, rel=0.005)
    assert (leg.international, leg.to_hub) == (True, True)
    assert DIRECTORY.leg("JFK", "LAX").international is False
    assert DIRECTORY.leg("LAX", "BUR").to_hub is False
    assert DIRECTORY.leg("JFK", "QQQ") == Leg(km=0, international=False, to_hub=False)


@pytest.mark.parametrize("text", ["LOS", "los", " Los "])
def test_the_code_itself_comes_first(text: str) -> None:
    """A whole code beats every other match, served or not."""
    assert codes(text)[:2] == ["LOS", "LAX"]


def test_served_airports_come_before_others() -> None:
    """What can be booked is offered first, each said to be served or not."""
    found = DIRECTORY.search("san", SERVED, 50)
    served = [airport.served for airport in found]

    assert [airport.code for airport in found[:2]] == ["SAN", "SFO"]
    assert served == sorted(served, reverse=True)


def test_codes_come_before_cities_and_cities_before_names() -> None:
    """Among airports alike, the kind of match decides."""
    directory = AirportDirectory(
        Airport(code=code, name=name, city=city, country="US", time_zone="UTC")
        for code, city, name in [
            ("AAA", "Somewhere", "Bel Air"),
            ("BBB", "Bellingham", "Other"),
            ("BEL", "Elsewhere", "Another"),
            ("BEX", "Bend", "Bend"),
        ]
    )

    assert [a.code for a in directory.search("be", frozenset(), 9)] == ["BEL", "BEX", "BBB", "AAA"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("tromso", "TOS"),
        ("TROMSØ", "TOS"),
        ("york", "JFK"),
        ("new  york", "JFK"),
        ("o'hare", "ORD"),
        ("laguardia", "LGA"),
        ("sao", "QOJ"),
        ("são", "QOJ"),
    ],
)
def test_case_accents_and_spacing_do_not_matter(text: str, code: str) -> None:
    """People type as they like, from any word of the city or the name on."""
    assert code in codes(text, limit=50)


@pytest.mark.parametrize("text", ["zzzz", "'", "\u0301", "\U0010ffff", "nework"])
def test_nothing_found_is_an_empty_list(text: str) -> None:
    """A text without a match finds nothing."""
    assert codes(text) == []


@given(st.text(max_size=20), st.integers(1, 50))
def test_any_text_is_answered_shortly(text: str, limit: int) -> None:
    """At most as many as asked for, none twice, in a few milliseconds."""
    start = time.process_time()
    found = codes(text, limit=limit)
    spent = time.process_time() - start

    assert len(found) == len(set(found)) <= limit
    assert spent < 0.25


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    """What is compared is in one normal form."""
    assert folded(folded(text)) == folded(text)
