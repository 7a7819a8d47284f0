"""streams.v1.InboxService: what a service could not apply, for its operators.

One line adds it to a server, after the service's own API, for which health is checked:

    add_inbox_service(server, tokens, inbox)
"""

import base64
from collections.abc import Awaitable
from typing import Any, Final

import grpc

from consulmesh import context as calls
from consulmesh import wellknown
from consulmesh.errors import InvalidArgument, PermissionDenied
from consulmesh.users import TokenVerifier
from consulmesh.validation import FaultError, between, faults
from eventstream.dead_letters import RETRIED_AT_ONCE, DeadLetter, Retried
from eventstream.inbox import SqlInbox
from streams.v1 import inbox_pb2 as pb
from streams.v1.inbox_pb2_grpc import InboxServiceServicer, add_InboxServiceServicer_to_server

_OPERATOR: Final = "operator"
_DEFAULT_PAGE: Final = 20
_LARGEST_PAGE: Final = 100
_BETWEEN: Final = "\0"  # no key has it: PostgreSQL could not store that

_Place = tuple[str, str]  # a source and a key: a page begins after it


def add_inbox_service(
    server: grpc.aio.Server, tokens: TokenVerifier, *inboxes: SqlInbox[Any]
) -> None:
    """Serve the dead letters of these inboxes to operators, by their tokens."""
    add_InboxServiceServicer_to_server(InboxServicer(tokens, *inboxes), server)


class InboxServicer(InboxServiceServicer):
    """The dead letters of inboxes, each of a source of its own."""

    def __init__(self, tokens: TokenVerifier, *inboxes: SqlInbox[Any]) -> None:
        self._tokens = tokens
        self._inboxes = {inbox.source: inbox for inbox in inboxes}

    async def ListDeadLetters(
        self,
        request: pb.ListDeadLettersRequest,
        context: grpc.aio.ServicerContext[
            pb.ListDeadLettersRequest, Awaitable[pb.ListDeadLettersResponse]
        ],
    ) -> pb.ListDeadLettersResponse:
        """A page of the letters, by source and key."""
        await self._check_operator()
        with faults() as noted:
            size = noted.read("page_size", between(0, _LARGEST_PAGE), request.page_size)
        place = _place(request.page_token) if request.page_token else ("", "")
        limit = size or _DEFAULT_PAGE
        found = await self._after(place, limit + 1)
        page = found[:limit]
        end = (page[-1].source, page[-1].key) if len(found) > limit else None
        return pb.ListDeadLettersResponse(
            dead_letters=page, next_page_token="" if end is None else _page_token(end)
        )

    async def ReplayDeadLetters(
        self,
        request: pb.ReplayDeadLettersRequest,
        context: grpc.aio.ServicerContext[
            pb.ReplayDeadLettersRequest, Awaitable[pb.ReplayDeadLettersResponse]
        ],
    ) -> pb.ReplayDeadLettersResponse:
        """Try letters again, now."""
        await self._check_operator()
        with faults() as noted:
            inbox = noted.read("source", self._inbox, request.source)
            keys = noted.read("keys", _keys, list(request.keys))
        retried = await (inbox.retry(keys) if request.keys else _retry_all(inbox))
        return pb.ReplayDeadLettersResponse(
            applied_count=retried.applied, failed_count=retried.failed
        )

    async def _after(self, place: _Place, limit: int) -> list[pb.DeadLetter]:
        """The next letters after a place."""
        source, key = place
        found: list[pb.DeadLetter] = []
        for name in sorted(name for name in self._inboxes if name >= source):
            after = key if name == source else ""
            letters = await self._inboxes[name].dead_letters(after, limit - len(found))
            found += [_message(name, letter) for letter in letters]
            if len(found) >= limit:
                break
        return found

    def _inbox(self, source: str) -> SqlInbox[Any]:
        try:
            return self._inboxes[source]
        except KeyError:
            known = ", ".join(self._inboxes)
            raise FaultError("UNKNOWN", f"this service follows: {known}") from None

    async def _check_operator(self) -> None:
        user = await self._tokens.verify(calls.current().token)
        if _OPERATOR not in user.roles:
            raise PermissionDenied(f"This needs the role {_OPERATOR}.")


async def _retry_all(inbox: SqlInbox[Any]) -> Retried:
    """Try every letter once, a part at a time."""
    retried, after = Retried(), ""
    while letters := await inbox.dead_letters(after, RETRIED_AT_ONCE):
        after = letters[-1].key
        retried += await inbox.retry([letter.key for letter in letters])
    return retried


def _keys(keys: list[str]) -> list[str]:
    if len(keys) > RETRIED_AT_ONCE:
        raise FaultError("OUT_OF_RANGE", f"at most {RETRIED_AT_ONCE}")
    return [key for key in keys if _BETWEEN not in key]


def _message(source: str, letter: DeadLetter) -> pb.DeadLetter:
    message = pb.DeadLetter(
        source=source,
        key=letter.key,
        seq=letter.seq,
        reason=letter.reason,
        attempts=letter.attempts,
        record_time=wellknown.timestamp(letter.recorded_time),
        next_attempt_time=wellknown.timestamp(letter.next_attempt_time),
    )
    message.event.ParseFromString(letter.payload)
    return message


def _page_token(place: _Place) -> str:
    return base64.urlsafe_b64encode(_BETWEEN.join(place).encode()).decode()


def _place(token: str) -> _Place:
    try:
        source, key = base64.urlsafe_b64decode(token).decode().split(_BETWEEN)
    except ValueError:
        raise InvalidArgument(
            reason="INVALID_PAGE_TOKEN", message="Not a page token of this RPC."
        ) from None
    return source, key
