"""The whole system on a PostgreSQL of its own, beside the one of the other tests."""

import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from bench.steady import some_searches
from bench.subject import Subject
from consulmesh.local_issuer import LocalIssuer
from tests.e2e.conftest import last_words, run, started
from tests.e2e.test_walk import booked, found, quoted
from tools.programs import Settings


@pytest.mark.timeout(600)  # two starts of a system beside another one
async def test_bookings_outlive_the_system_on_postgresql() -> None:
    """Book, cancel, stop everything, start again: both bookings are there, as they were."""
    with (
        tempfile.TemporaryDirectory(prefix="mesh-e2e-") as folder,
        started(Path(folder, "run"), "--database", "postgres") as settings,
    ):
        kept, cancelled = await book_and_cancel(settings)
        down = run(settings, "down")
        up = run(settings, "up")
        assert up.returncode == 0, up.stdout + up.stderr + last_words(settings.logs)
        shown = [await shown_now(settings, each["booking_id"]) for each in (kept, cancelled)]
        listed = run(settings, "ps").stdout
        refused = run(settings, "up", "--database", "sqlite")

    assert down.stdout == "stopped\n"
    assert [each["status"] for each in shown] == ["confirmed", "cancelled"]
    assert shown[0] == kept
    assert "PostgreSQL" in listed
    assert refused.returncode == 1
    assert "make down" in refused.stderr


async def book_and_cancel(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """A booking that is confirmed, and one that is cancelled."""
    async with Subject.attach(settings) as subject:
        itinerary = (await found(subject, some_searches()[0]))[0]
        made = [await book(subject, settings, itinerary) for _ in range(2)]
        url = f"{settings.gateway_url}/v1/bookings/{made[1]['booking_id']}/cancel"
        async with subject.http.post(url, headers=bearer(settings)) as answer:
            return made[0], await answer.json()


async def book(subject: Subject, settings: Settings, itinerary: dict[str, Any]) -> dict[str, Any]:
    """A booking of an itinerary."""
    quote = await quoted(subject, itinerary)
    key = {"Idempotency-Key": str(uuid.uuid4())}
    status, body = await booked(subject, quote, bearer(settings) | key)
    assert status == 201, body
    return body


async def shown_now(settings: Settings, booking_id: str) -> dict[str, Any]:
    """A booking as the API shows it."""
    url = f"{settings.gateway_url}/v1/bookings/{booking_id}"
    async with (
        Subject.attach(settings) as subject,
        subject.http.get(url, headers=bearer(settings)) as answer,
    ):
        body: dict[str, Any] = await answer.json()
        return body


def bearer(settings: Settings) -> dict[str, str]:
    """Ann's token at this system."""
    token = LocalIssuer(settings.run / "issuer").token("ann", {"customer"})
    return {"Authorization": f"Bearer {token}"}
