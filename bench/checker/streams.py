"""Outboxes, read event by event."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection

from bench.checker.databases import rows
from bench.checker.messages import Change, is_end


class Last(NamedTuple):
    """The newest event of a key."""

    seq: int
    payload: bytes


@dataclass(slots=True)
class Stream:
    """An outbox, and what is wrong within it: pairs of what and where.

    `head` is the number of the newest event; without an epoch nothing was ever published.
    """

    parse: Callable[[bytes], tuple[str, Change]]
    epoch: str | None = None
    head: int = 0
    events: int = 0
    last: dict[str, Last] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def change(self, payload: bytes) -> Change:
        """What an event says."""
        return self.parse(payload)[1]


def read_stream(
    connection: Connection, name: str, parse: Callable[[bytes], tuple[str, Change]]
) -> Stream:
    """Read the outbox `name`."""
    stream = Stream(parse)
    for epoch, head in rows(connection, f"SELECT epoch, seq FROM {name}_head"):  # noqa: S608 - ours
        stream.epoch, stream.head = epoch, head
    events = f"SELECT seq, unit, key, payload FROM {name}_event ORDER BY seq"  # noqa: S608 - ours
    reader = _Reader(stream)
    for seq, unit, key, payload in rows(connection, events):
        reader.take(seq, unit, key, bytes(payload))
    reader.end()
    return stream


class _Reader:
    """Looks at events in their order. State: the numbers of the event before, versions by key."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._seq: int | None = None
        self._unit = 0
        self._versions: dict[str, int] = {}

    def take(self, seq: int, unit: int, key: str, payload: bytes) -> None:
        for fault in self._faults(seq, unit, key, payload):
            self._stream.faults.append((fault, f"{key}@{seq}"))
        self._seq, self._unit = seq, unit
        self._stream.events += 1
        self._stream.last[key] = Last(seq, payload)

    def _faults(self, seq: int, unit: int, key: str, payload: bytes) -> Iterator[str]:
        if self._seq is not None and seq != self._seq + 1:
            yield f"event {seq} follows {self._seq}"
        if not self._unit <= unit <= seq:
            yield f"event {seq} says that it is of unit {unit}"
        named, change = self._stream.parse(payload)
        if named != key:
            yield f"an event of {named} under the key {key}"
        before = self._versions.get(key, 0)
        if change.version < before or (change.version == before and not is_end(change)):
            yield f"version {change.version} follows {before}"
        self._versions[key] = change.version

    def end(self) -> None:
        head = self._stream.head
        if self._seq not in {None, head}:
            self._stream.faults.append((f"the last event is {self._seq}, the head {head}", "head"))
