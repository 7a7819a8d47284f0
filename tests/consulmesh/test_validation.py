"""Requests checked field by field."""

import re

import pytest

from consulmesh.errors import InvalidArgument
from consulmesh.validation import (
    FaultError,
    at_least,
    between,
    faults,
    identifier,
    matching,
    request_id,
)


def test_one_answer_names_every_fault() -> None:
    """What is wrong is noted field after field and raised at the end of the block."""

    def read() -> None:
        with faults() as noted:
            noted.read("booking_id", identifier, "")
            noted.read("seats", between(1, 9, "seats"), 10)
            noted.read("days", int, "many")
            noted.read("epoch", at_least(1), 1)

    with pytest.raises(InvalidArgument) as caught:
        read()

    assert [(v.field, v.reason) for v in caught.value.violations] == [
        ("booking_id", "REQUIRED"),
        ("seats", "OUT_OF_RANGE"),
        ("days", "INVALID_FORMAT"),
    ]


def test_a_request_without_a_fault_is_read() -> None:
    """Each field's value is what its parser made of it."""
    with faults() as noted:
        found = noted.read("days", int, "7"), noted.read("id", identifier, "flt_1")

    assert found == (7, "flt_1")


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (identifier, "a b", "INVALID_FORMAT"),
        (identifier, "é", "INVALID_FORMAT"),
        (identifier, "x" * 65, "TOO_LONG"),
        (request_id, "", "REQUIRED"),
        (request_id, "a\n", "INVALID_FORMAT"),
        (request_id, "x" * 256, "TOO_LONG"),
        (matching(re.compile("[a-z]+"), 3, "letters"), "ab1", "INVALID_FORMAT"),
    ],
)
def test_a_text_is_there_bounded_and_of_its_kind(parse: object, text: str, reason: str) -> None:
    """A length is looked at before the pattern, so that a long text costs nothing."""
    assert callable(parse)
    with pytest.raises(FaultError) as caught:
        parse(text)

    assert caught.value.reason == reason


def test_the_longest_texts_are_taken() -> None:
    """64 visible characters are an id, 255 printable ones a request id."""
    assert identifier("~" * 64) == "~" * 64
    assert request_id(" " * 255) == " " * 255
