"""How fresh an answer is, and how fresh it has to be: headers of search.

`Freshness` is for people and dashboards (seconds of lag per source, a structured field of
RFC 9651); `Search-Position` is opaque, and a client that sends it back as `Min-Position` reads
nothing older, whichever instance answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from google.protobuf.message import DecodeError

from flights.search.v1.search_pb2 import SearchItinerariesRequest, SourcePosition
from gateway_bff import base64url
from streams.v1.stream_pb2 import Cursor

MIN_POSITION = "Min-Position"
MAX_POSITION = 1024  # characters
MAX_SOURCES = 8


def headers(positions: Iterable[SourcePosition]) -> dict[str, str]:
    """The headers that say how fresh an answer with these positions is."""
    found = list(positions)
    if not found:
        return {}
    return {"Freshness": _freshness(found), "Search-Position": encode(found)}


def headers_of(cursors: Mapping[str, Cursor], lags: Mapping[str, float]) -> dict[str, str]:
    """The same for cursors and lags in seconds by source; quick while the cursors are the same."""
    marks = tuple((source, cursor.epoch, cursor.seq) for source, cursor in cursors.items())
    return {
        "Freshness": ", ".join(f"{source};lag={lag:.3f}" for source, lag in lags.items()),
        "Search-Position": _encoded(marks),
    }


def oldest(answers: Iterable[Iterable[SourcePosition]]) -> list[SourcePosition]:
    """The positions that all of some answers have reached, by source."""
    found: dict[str, SourcePosition] = {}
    for position in chain.from_iterable(answers):
        known = found.setdefault(position.source, position)
        if position.cursor.epoch != known.cursor.epoch or position.cursor.seq < known.cursor.seq:
            found[position.source] = position
    return list(found.values())


@lru_cache(maxsize=256)
def _encoded(marks: tuple[tuple[str, str, int], ...]) -> str:
    return encode(
        SourcePosition(source=source, cursor=Cursor(epoch=epoch, seq=seq))
        for source, epoch, seq in marks
    )


def _freshness(positions: Iterable[SourcePosition]) -> str:
    return ", ".join(p.source + (_lag(p) if p.HasField("lag") else "") for p in positions)


def _lag(position: SourcePosition) -> str:
    return f";lag={position.lag.seconds + position.lag.nanos / 1e9:.3f}"


def encode(positions: Iterable[SourcePosition]) -> str:
    """The opaque form of these positions; their lag is left out."""
    marks = [SourcePosition(source=p.source, cursor=p.cursor) for p in positions]
    message = SearchItinerariesRequest(min_positions=marks)
    return base64url.encode(message.SerializeToString(deterministic=True))


def decode(text: str) -> Sequence[SourcePosition]:
    """The positions of the opaque form; raises ValueError on what `encode` can't have written."""
    if len(text) > MAX_POSITION:
        raise ValueError("too long")
    try:
        message = SearchItinerariesRequest.FromString(base64url.decode(text))
    except DecodeError as error:
        raise ValueError("not a position") from error
    positions = message.min_positions
    if not 0 < len(positions) <= MAX_SOURCES or not all(p.source for p in positions):
        raise ValueError("not a position")
    return positions
