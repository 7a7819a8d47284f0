"""Answers to searches, kept as bytes, and how new the next answer to a question has to be."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Final, NamedTuple

from flights.search.v1.search_pb2 import (
    PRICE_BASIS_LIVE,
    Itinerary,
    SearchItinerariesResponse,
    SourcePosition,
)
from gateway_bff.cache.changes import MOST_STOPS, SOURCES, Changes, End, Topic, ends_of
from gateway_bff.coding import gzipped
from gateway_bff.telemetry import CacheMetrics
from streams.v1.stream_pb2 import Cursor

MOST_BYTES: Final = 64 * 1024 * 1024
MOST_QUESTIONS: Final = 32_768
FRESH_FOR: Final = 2.0
"""Seconds since a source last said that the gateway has everything; it says so every second."""
_LONGEST: Final = 600.0
"""Seconds for which an answer is used again where nothing else ends it."""


class Question(NamedTuple):
    """What was asked, in one spelling; the answer is the same bytes for everybody."""

    origin: str
    destination: str
    day: date
    passengers: int
    cabin: str
    max_stops: int
    carriers: tuple[str, ...]
    departs_from: str | None
    departs_before: str | None
    sort: str
    page_size: int
    page_token: str


class Miss(StrEnum):
    """Why there is no answer to use again; the words of RFC 9211 §2.2."""

    ABSENT = "uri-miss"
    CHANGED = "stale"
    UNCERTAIN = "bypass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The bytes of an answer, their strong ETag, and what they were read from.

    `gzip` are the same bytes in that coding, once somebody has asked for them.
    """

    body: bytes
    etag: str
    positions: Mapping[str, Cursor]
    expire_time: float  # epoch seconds: then the first of its flights leaves
    next_page_token: str = ""
    gzip: bytes = b""

    def __len__(self) -> int:
        return len(self.body) + len(self.gzip)


@dataclass(slots=True)
class _Known:
    """What is known of a question.

    `ends` are None until an answer has said which airports it is about; `answered` are the newest
    positions of its answers, by source.
    """

    answered: dict[str, Cursor]
    ends: Sequence[End] | None = None
    topics: tuple[Topic, ...] = ()
    answer: Answer | None = field(default=None, repr=False)


class Answers:
    """The answers that may be used again. Bounded by their bytes and by the number of questions.

    Each method changes what it changes without waiting in between.

    State: `_known`, the least recently asked question first; `_kept`, those with an answer, in the
    order of its use, and `_bytes`, the length of all of them; `_forgotten`, the newest positions
    of answers to questions that are no longer known.
    """

    def __init__(
        self,
        changes: Changes,
        lags: Mapping[str, Callable[[], float]],
        metrics: CacheMetrics,
        *,
        clock: Callable[[], float] = time.time,
        most_bytes: int = MOST_BYTES,
        most_questions: int = MOST_QUESTIONS,
    ) -> None:
        self._changes = changes
        self._lags = lags
        self._metrics = metrics
        self._clock = clock
        self._most_bytes = most_bytes
        self._most_questions = most_questions
        self._known: OrderedDict[Question, _Known] = OrderedDict()
        self._kept: OrderedDict[Question, Answer] = OrderedDict()
        self._bytes = 0
        self._forgotten: dict[str, Cursor] = {}

    def __repr__(self) -> str:
        return f"<Answers questions={len(self._known)} kept={len(self._kept)} bytes={self._bytes}>"

    def find(self, question: Question) -> Answer | Miss:
        """The answer as it would be given anew now, where it is kept."""
        found = self._find(question)
        self._metrics.looked_up(found.value if isinstance(found, Miss) else "hit")
        return found

    def cursors(self, answer: Answer) -> Mapping[str, Cursor]:
        """How far the sources were read for it: what they said since does not concern it."""
        return {
            source: _newer(self._changes.cursor(source), answer.positions[source])
            for source in SOURCES
        }

    def lags(self) -> Mapping[str, float]:
        """How far the gateway is behind the sources, in seconds."""
        return {source: self._lags[source]() for source in SOURCES}

    def needed(self, question: Question) -> list[SourcePosition]:
        """What the next answer should have read, not to be older than the streams or earlier ones.

        The question is known from here on.
        """
        known = self._known.get(question)
        if known is None:
            known = self._known[question] = _Known(answered=dict(self._forgotten))
            self._forget_questions()
        else:
            self._known.move_to_end(question)
        if known.ends is not None:
            known.topics = self._changes.topics(known.ends)
        needed = ((source, self._needed(source, known)) for source in SOURCES)
        return [SourcePosition(source=source, cursor=cursor) for source, cursor in needed if cursor]

    def given(
        self, question: Question, response: SearchItinerariesResponse, body: bytes, etag: str
    ) -> bool:
        """An answer was given; says whether it is kept."""
        known = self._known.get(question)
        if known is None:  # so many other questions were asked meanwhile
            return False
        positions = {each.source: _copy(each.cursor) for each in response.positions}
        for source, cursor in positions.items():
            known.answered[source] = _newer(known.answered.get(source), cursor)
        if not (response.origins and response.destinations):  # of an older search
            return False
        if question.max_stops > MOST_STOPS:
            return False
        known.ends = ends_of(response.origins, response.destinations, question.day)
        known.topics = self._changes.topics(known.ends)
        leaving = min(map(_leaves, response.itineraries), default=math.inf)
        answer = Answer(
            body=body,
            etag=etag,
            positions=positions,
            expire_time=min(leaving, self._clock() + _LONGEST),
            next_page_token=response.next_page_token,
        )
        keep = _live(response) and self._why_not(known, answer) is None
        if keep:
            self._keep(question, known, answer)
        elif known.answer is not None and not _has_read(known.answer, known.answered):
            self._drop(question)  # what was kept is older than what was given now
        return keep

    def gzipped(self, question: Question, body: bytes) -> bytes:
        """The body of an answer to the question in gzip; made once while the answer is kept."""
        answer = self._kept.get(question)
        if answer is None or answer.body is not body:
            return gzipped(body)
        if not answer.gzip:
            answer = replace(answer, gzip=gzipped(body))
            self._keep(question, self._known[question], answer)
        return answer.gzip

    def _find(self, question: Question) -> Answer | Miss:
        known = self._known.get(question)
        if known is None or known.answer is None:
            return Miss.ABSENT
        miss = self._why_not(known, known.answer)
        if miss is not None:
            return miss
        self._known.move_to_end(question)
        self._kept.move_to_end(question)
        return known.answer

    def _why_not(self, known: _Known, answer: Answer) -> Miss | None:
        """Why an answer must not be given any more, if so."""
        if any(lag() > FRESH_FOR for lag in self._lags.values()):
            return Miss.UNCERTAIN  # a change may have happened that was not heard of
        if self._clock() >= answer.expire_time or not _has_read(answer, known.answered):
            return Miss.CHANGED
        for source in SOURCES:
            read, heard = answer.positions.get(source), self._changes.cursor(source)
            if read is None or heard is None or read.epoch != heard.epoch:
                return Miss.UNCERTAIN
            if read.seq < self._changes.changed(source, known.topics):
                return Miss.CHANGED
        return None

    def _needed(self, source: str, known: _Known) -> Cursor | None:
        heard, answered = self._changes.cursor(source), known.answered.get(source)
        if heard is None:
            return answered
        if known.ends is not None:
            changed = min(heard.seq, self._changes.changed(source, known.topics))
            heard = Cursor(epoch=heard.epoch, seq=int(changed))
        return heard if answered is None else _newer(answered, heard)

    def _keep(self, question: Question, known: _Known, answer: Answer) -> None:
        self._drop(question)
        known.answer = self._kept[question] = answer
        self._bytes += len(answer)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))
        self._metrics.kept.set(self._bytes)

    def _drop(self, question: Question) -> None:
        answer = self._kept.pop(question, None)
        if answer is not None:
            self._known[question].answer = None
            self._bytes -= len(answer)

    def _forget_questions(self) -> None:
        """Make room for a question; how new an answer to another one was is remembered for all."""
        while len(self._known) > self._most_questions:
            question = next(iter(self._known))
            self._drop(question)
            for source, cursor in self._known.pop(question).answered.items():
                self._forgotten[source] = _newer(self._forgotten.get(source), cursor)


def _copy(cursor: Cursor) -> Cursor:
    """The same on its own: a part of a message holds on to the memory of the whole message."""
    return Cursor(epoch=cursor.epoch, seq=cursor.seq)


def _newer(one: Cursor | None, other: Cursor) -> Cursor:
    """The newer position; the other one where they are of two histories, or the first is absent."""
    if one is None or one.epoch != other.epoch or one.seq < other.seq:
        return other
    return one


def _has_read(answer: Answer, answered: Mapping[str, Cursor]) -> bool:
    """Whether an answer is as new as all that were given."""
    return all(
        (read := answer.positions.get(source)) is not None
        and read.epoch == cursor.epoch
        and read.seq >= cursor.seq
        for source, cursor in answered.items()
    )


def _leaves(itinerary: Itinerary) -> float:
    return float(itinerary.segments[0].departure_time.seconds)


def _live(response: SearchItinerariesResponse) -> bool:
    """Whether search hears from pricing, too: prices that may be old are not kept."""
    return all(each.price_basis == PRICE_BASIS_LIVE for each in response.itineraries)
