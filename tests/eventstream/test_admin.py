from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import pytest

from consulmesh.errors import Status
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing import serving
from consulmesh.users import TokenVerifier
from eventstream import Database, SqlInbox, add_inbox_service
from flights.schedule.v1.schedule_pb2 import FlightEvent
from streams.v1 import inbox_pb2 as pb
from streams.v1.inbox_pb2_grpc import InboxServiceStub
from tests.eventstream import mirror
from tests.eventstream.test_inbox import BROKEN, at, changed

Call = tuple[InboxServiceStub, tuple[tuple[str, str], ...]]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """Return a database without copies."""
    async with mirror.copy(f"sqlite:///{tmp_path}/copy.db") as copy:
        yield copy


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    """Return who signs tokens."""
    return LocalIssuer(tmp_path / "issuer")


@pytest.fixture
async def inboxes(db: Database) -> list[SqlInbox[FlightEvent]]:
    """Return two inboxes with letters: two of `north`, three of `south`."""
    both = [mirror.inbox(db, "south"), mirror.inbox(db, "north")]
    for inbox, keys in zip(both, ["abc", "xy"], strict=True):
        await inbox.position()
        await inbox.apply([changed(key, 1, BROKEN) for key in keys], at(len(keys)))
    return both


@pytest.fixture
async def stub(
    tmp_path: Path,
    issuer: LocalIssuer,  # noqa: ARG001 - makes the keys
    inboxes: list[SqlInbox[FlightEvent]],
) -> AsyncIterator[InboxServiceStub]:
    """Return a client of the service."""
    tokens = TokenVerifier.from_env({}, tmp_path)
    async with serving(lambda server: add_inbox_service(server, tokens, *inboxes)) as channel:
        yield InboxServiceStub(channel)


@pytest.fixture
def operator(issuer: LocalIssuer) -> tuple[tuple[str, str], ...]:
    """Return the metadata of an operator's call."""
    return (("authorization", f"Bearer {issuer.token('ops', ['operator'])}"),)


async def refused(call: Awaitable[object]) -> Status:
    """Return the status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Status.of(caught.value)


async def test_letters_are_listed_page_by_page(
    stub: InboxServiceStub, operator: tuple[tuple[str, str], ...]
) -> None:
    """Of all sources in order, each once, with the event itself."""
    pages: list[pb.ListDeadLettersResponse] = []
    token = ""
    while token or not pages:
        request = pb.ListDeadLettersRequest(page_size=2, page_token=token)
        pages.append(await stub.ListDeadLetters(request, metadata=operator))
        token = pages[-1].next_page_token
    found = [letter for page in pages for letter in page.dead_letters]
    event = FlightEvent()
    unpacked = found[0].event.Unpack(event)

    assert [len(page.dead_letters) for page in pages] == [2, 2, 1]
    assert [letter.source[0] + letter.key for letter in found] == ["nx", "ny", "sa", "sb", "sc"]
    assert unpacked
    assert event == changed("x", 1, BROKEN)
    assert (found[1].seq, found[1].reason, found[1].attempts) == (2, "ValueError: -1 km", 1)
    assert found[0].next_attempt_time.ToDatetime() > found[0].record_time.ToDatetime()


async def test_letters_are_replayed_by_key_or_all(
    stub: InboxServiceStub,
    operator: tuple[tuple[str, str], ...],
    inboxes: list[SqlInbox[FlightEvent]],
) -> None:
    """What fails again stays with one attempt more; a key without a letter is passed over."""
    one = await stub.ReplayDeadLetters(
        pb.ReplayDeadLettersRequest(source="south", keys=["b", "gone", "n\0"]), metadata=operator
    )
    none = await stub.ReplayDeadLetters(
        pb.ReplayDeadLettersRequest(source="south", keys=["gone\0"]), metadata=operator
    )
    letters = await inboxes[0].dead_letters()
    inboxes[0]._letters._apply = lambda *_: None
    every = await stub.ReplayDeadLetters(
        pb.ReplayDeadLettersRequest(source="south"), metadata=operator
    )

    assert (one.applied_count, one.failed_count) == (0, 1)
    assert (none.applied_count, none.failed_count) == (0, 0)
    assert {letter.key: letter.attempts for letter in letters} == {"a": 1, "b": 2, "c": 1}
    assert (every.applied_count, every.failed_count) == (3, 0)
    assert await inboxes[0].dead_letters() == []
    assert len(await inboxes[1].dead_letters()) == 2


async def test_only_operators_are_told(stub: InboxServiceStub, issuer: LocalIssuer) -> None:
    """Nobody, and a customer, see and change nothing."""
    customer = (("authorization", f"Bearer {issuer.token('ann', ['customer'])}"),)
    statuses = [
        await refused(stub.ListDeadLetters(pb.ListDeadLettersRequest())),
        await refused(stub.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=customer)),
        await refused(stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(source="south"))),
        await refused(
            stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(source="south"), metadata=customer)
        ),
    ]

    assert [(status.code.name, status.reason) for status in statuses] == [
        ("UNAUTHENTICATED", "TOKEN_MISSING"),
        ("PERMISSION_DENIED", "PERMISSION_DENIED"),
    ] * 2


@pytest.mark.parametrize("token", ["x", "!", "AAAA", "AAAAAA==", "/w=="])
async def test_a_page_token_of_nobody_is_refused(
    stub: InboxServiceStub, operator: tuple[tuple[str, str], ...], token: str
) -> None:
    """Whatever it is, it is the caller's fault."""
    request = pb.ListDeadLettersRequest(page_token=token)

    status = await refused(stub.ListDeadLetters(request, metadata=operator))

    assert (status.code.name, status.reason) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")


async def test_requests_out_of_bounds_are_refused(
    stub: InboxServiceStub, operator: tuple[tuple[str, str], ...]
) -> None:
    """Each fault by its field."""
    long = await refused(
        stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=101), metadata=operator)
    )
    request = pb.ReplayDeadLettersRequest(source="east", keys=["k"] * 101)
    wrong = await refused(stub.ReplayDeadLetters(request, metadata=operator))

    assert [violation.field for violation in long.violations] == ["page_size"]
    assert [violation.field for violation in wrong.violations] == ["source", "keys"]
    assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
