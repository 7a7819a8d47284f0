"""What must not be read by whoever reads logs and errors: tokens, people, stacks, capabilities."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.steady import some_searches
from bench.subject import Subject
from consulmesh.local_issuer import LocalIssuer
from tests.chaos.figures import figure
from tests.e2e.test_walk import found, quoted

GIVEN, FAMILY = "Xanthippe", "Quuxworthy"
EMAIL = "xanthippe.quuxworthy@example.org"
INSIDE = re.compile(r"Traceback|File \"/|site-packages|sqlalchemy|psycopg|sqlite3\.|grpc\.aio")
_BOOKINGS = "/v1/bookings"


@pytest.fixture
def headers(subject: Subject) -> dict[str, str]:
    """A customer with a name of her own."""
    token = LocalIssuer(subject.settings.run / "issuer").token("xanthippe-subject", {"customer"})
    return {"Authorization": f"Bearer {token}", "Idempotency-Key": f"key-{uuid.uuid4()}"}


async def asked(
    subject: Subject, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, str]:
    """The status and the text of an answer."""
    url = subject.settings.gateway_url + path
    async with subject.http.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.text()


def lines_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Every line of every log, with the name of its file."""
    for log in sorted(folder.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            yield log.name, line


async def test_nothing_of_people_gets_into_logs_or_errors(
    subject: Subject, headers: dict[str, str]
) -> None:
    """A booking is made, refused, cancelled and misspelt in every way; then all logs are read."""
    quote = await quoted(subject, (await found(subject, some_searches()[3]))[0])
    passengers = [{"given_name": GIVEN, "family_name": FAMILY}]
    body = {"quote_id": quote["quote_id"], "passengers": passengers, "contact": {"email": EMAIL}}
    made, text = await asked(subject, "POST", _BOOKINGS, body, **headers)
    booking_id = re.findall(r"bkg_[A-Za-z0-9_-]+", text)[0]
    broken = {"Authorization": headers["Authorization"][:-9] + "AAAAAAAAA"}
    other = {"Idempotency-Key": f"key-{uuid.uuid4()}"}
    refusals = [
        await asked(subject, "POST", _BOOKINGS, body, **headers | other),
        await asked(subject, "POST", _BOOKINGS, body, **headers | broken),
        await asked(subject, "POST", _BOOKINGS, body | {"contact": {"email": GIVEN}}, **headers),
        await asked(subject, "POST", _BOOKINGS, body | {FAMILY: EMAIL}, **headers | other),
        await asked(subject, "POST", _BOOKINGS, body | {"quote_id": EMAIL}, **headers | other),
        await asked(subject, "GET", f"{_BOOKINGS}/{booking_id}?email={EMAIL}", **broken),
        await asked(subject, "POST", "/v1/quotes", {"itinerary_id": EMAIL, "passengers": 1}),
        await asked(subject, "GET", f"/v1/quotes/{quote['quote_id']}x"),
    ]
    gone, _ = await asked(subject, "POST", f"{_BOOKINGS}/{booking_id}/cancel", **headers | other)
    token = headers["Authorization"].removeprefix("Bearer ")
    secrets = [*token.split("."), GIVEN, FAMILY, EMAIL, quote["quote_id"], "xanthippe-subject"]
    lines = list(lines_of(subject.settings.logs))
    leaks = [(log, line) for log, line in lines if any(each in line for each in secrets)]
    figure(
        "X6", f"{len(lines):,} lines of logs and {len(refusals)} errors read, {len(leaks)} leaks"
    )

    assert (made, gone) == (201, 200), text
    assert all(400 <= status < 500 for status, _ in refusals), refusals
    assert leaks == []
    assert [text for _, text in refusals if INSIDE.search(text) or token in text] == []
