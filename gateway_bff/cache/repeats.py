"""Repeat searches are answered in front of the application, by the bytes of their query string."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from consulmesh.propagation import BAGGAGE
from gateway_bff import freshness, links
from gateway_bff.cache.answers import Answer, Answers, Question
from gateway_bff.cache.conditional import answer_headers, conditional
from gateway_bff.route import prefers_events
from streams.v1.stream_pb2 import Cursor

PATH: Final = "/v1/itineraries"
QUESTION: Final = "flightmesh.question"
"""Where the route leaves, in the scope, what it was asked."""
_SPELLINGS: Final = 32_768
_LONGEST: Final = 2_048  # bytes of a query string that is remembered
_MIN_POSITION: Final = freshness.MIN_POSITION.lower().encode("ascii")
_BAGGAGE: Final = BAGGAGE.encode("ascii")
_IF_NONE_MATCH: Final = b"if-none-match"
_ACCEPT_ENCODING: Final = b"accept-encoding"


class _Searched:
    """The route, as far as metrics and logs ask for it."""

    path = PATH


class RepeatSearches:
    """ASGI middleware: what the cache has goes out from here, everything else is let through.

    State: `_questions` that query strings were found to be, the least recently used one first.
    """

    def __init__(self, app: ASGIApp, *, answers: Answers) -> None:
        self._app = app
        self._answers = answers
        self._questions: OrderedDict[bytes, Question] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        response = self._repeated(scope)
        if response is not None:
            scope["route"] = _Searched
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)
        if QUESTION in scope:
            self._remember(scope["query_string"], scope[QUESTION])

    def _repeated(self, scope: Scope) -> Response | None:
        question = self._questions.get(scope["query_string"])
        if question is None or prefers_events(scope):
            return None
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        if _BAGGAGE in headers:  # a preview may answer otherwise
            return None
        answer = self._answers.find(question)
        if not isinstance(answer, Answer):
            return None
        cursors = self._answers.cursors(answer)
        if not _reaches(cursors, headers.get(_MIN_POSITION)):
            return None
        self._questions.move_to_end(scope["query_string"])
        fresh = freshness.headers_of(cursors, self._answers.lags())
        more = links.next_page(scope, answer.next_page_token)
        return conditional(
            headers.get(_IF_NONE_MATCH, b"").decode("latin-1"),
            headers.get(_ACCEPT_ENCODING, b"").decode("latin-1"),
            answer.body,
            answer_headers(answer.etag, {**fresh, **more}, "hit"),
            partial(self._answers.gzipped, question),
        )

    def _remember(self, query: bytes, question: Question) -> None:
        if len(query) > _LONGEST:
            return
        self._questions[query] = question
        self._questions.move_to_end(query)
        if len(self._questions) > _SPELLINGS:
            self._questions.popitem(last=False)


def _reaches(cursors: Mapping[str, Cursor], asked: bytes | None) -> bool:
    """Whether cursors are as new as a Min-Position header; the route refuses what is none."""
    if asked is None:
        return True
    try:
        needed = freshness.decode(asked.decode("latin-1"))
    except ValueError:
        return False
    return all(
        (cursor := cursors.get(each.source)) is None
        or cursor.epoch != each.cursor.epoch
        or cursor.seq >= each.cursor.seq
        for each in needed
    )
