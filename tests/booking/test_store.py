from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from booking.changes import Changes
from booking.domain import Booking, Passenger, ReferenceTaken, Rejection, RequestKey, Saga, User
from booking.store import BookingStore
from booking.tables import metadata
from eventstream import Database

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
HORIZON = timedelta(minutes=1)
ANN = User(issuer="issuer", subject="ann")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An empty database of the newest schema, on each engine."""
    async with Database.open(database_url, migrations="booking:migrations") as opened:
        yield opened


@pytest.fixture
def store(db: Database) -> BookingStore:
    """A store over it."""
    return BookingStore(db, Changes(db))


def saga(number: int = 1, owner: str = "me") -> Saga:
    """A saga that has just begun."""
    booking = Booking(
        booking_id=f"bkg_{number}",
        reference=f"K7Q2X{number}",
        user=ANN,
        quote_id="quo_1",
        passengers=(Passenger(given_name="Ann", family_name="Lee"),),
        email="ann@example.org",
        create_time=NOW,
        update_time=NOW,
    )
    return Saga(booking=booking, owner=owner)


def key(request_id: str) -> RequestKey:
    """A key of Ann's."""
    return RequestKey(
        user=ANN, operation="CreateBooking", request_id=request_id, content_hash="hash"
    )


async def test_migrations_make_the_tables(db: Database) -> None:
    """What the migrations build is what the tables say."""

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    assert await db.read(differences) == []


async def test_reference_of_another_booking(store: BookingStore) -> None:
    """No two bookings have the same reference."""
    first, second = saga(1), saga(2)
    await store.begin(first, key("one"), LATER)
    taken = replace(second.booking, reference=first.booking.reference)

    with pytest.raises(ReferenceTaken):
        await store.begin(replace(second, booking=taken), key("two"), LATER)


async def test_claim_raises_the_epoch(store: BookingStore) -> None:
    """Whoever takes a saga that is due has a higher epoch, and the one before it none."""
    begun = saga(owner="me")
    rejection = Rejection(reason="SEATS_UNAVAILABLE", message="sold out")
    await store.begin(begun, key("one"), LATER)

    early = await store.claim("you", NOW, LATER, 10)
    [taken] = await store.claim("you", LATER, LATER + HORIZON, 10)

    assert early == []
    assert (taken.owner, taken.epoch, taken.booking) == ("you", 2, begun.booking)
    assert not await store.record(begun, begun.gave_up(rejection), LATER)
    assert not await store.postpone(begun, "no answer", LATER)


async def test_claim_is_bounded(store: BookingStore) -> None:
    """No more are taken than asked for, the longest due first."""
    for number in (3, 1, 2):
        await store.begin(saga(number), key(str(number)), NOW + number * timedelta(seconds=1))

    taken = await store.claim("you", LATER, LATER + timedelta(seconds=5), 2)

    assert [one.booking.booking_id for one in taken] == ["bkg_1", "bkg_2"]
    assert await store.next_due(NOW) == NOW + timedelta(seconds=3)


async def test_next_due(store: BookingStore) -> None:
    """Nothing is due without a saga, one that is overdue now, any other in its time."""
    empty = await store.next_due(NOW)
    await store.begin(saga(), key("one"), LATER)

    assert empty is None
    assert await store.next_due(NOW) == LATER
    assert await store.next_due(LATER) == LATER
    assert await store.next_due(LATER + HORIZON) == LATER + HORIZON


async def test_strays(store: BookingStore) -> None:
    """What is due beyond the horizon can be made due, unless it has moved since it was read."""
    await store.begin(saga(1), key("one"), LATER + HORIZON)
    await store.begin(saga(2), key("two"), LATER + 2 * HORIZON)
    await store.begin(saga(3), key("three"), LATER + 3 * HORIZON)
    strays = await store.strays(LATER + HORIZON)
    await store.postpone(saga(3), "no answer", LATER + 4 * HORIZON)

    await store.recall(strays, NOW)
    taken = await store.claim("you", NOW, LATER, 10)

    assert {booking_id for booking_id, _ in strays} == {"bkg_2", "bkg_3"}
    assert [one.booking.booking_id for one in taken] == ["bkg_2"]


async def test_handed_back(store: BookingStore) -> None:
    """What an owner hands back is due at once, and what others have is not touched."""
    await store.begin(saga(1, "me"), key("one"), LATER)
    await store.begin(saga(2, "you"), key("two"), LATER)

    returned = await store.hand_back("me", NOW)
    taken = await store.claim("you", NOW, LATER, 10)

    assert returned == 1
    assert [one.booking.booking_id for one in taken] == ["bkg_1"]
