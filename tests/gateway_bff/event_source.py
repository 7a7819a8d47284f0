"""What an EventSource makes of a stream (WHATWG HTML §9.2.6), as far as ours use it."""

from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson


@dataclass(frozen=True, slots=True)
class Event:
    """An event that was dispatched."""

    name: str
    data: Any


@dataclass
class EventSource:
    """What was dispatched, and the id that a reconnect would send."""

    last_event_id: str = ""
    retry: int | None = None
    events: list[Event] = field(default_factory=list)

    def feed(self, text: bytes) -> list[Event]:
        """Take whole blocks; the events that they dispatch."""
        begun = len(self.events)
        for block in text.decode().split("\n\n"):
            self._take(block)
        return self.events[begun:]

    async def read(self, answer: aiohttp.ClientResponse, count: int) -> list[Event]:
        """Read until so many events were dispatched."""
        begun = len(self.events)
        while len(self.events) < begun + count:
            self.feed(await answer.content.readuntil(b"\n\n"))
        return self.events[begun:]

    def _take(self, block: str) -> None:
        name, data = "message", ""
        for line in block.split("\n"):
            match line.partition(":")[::2]:
                case "id", value:
                    self.last_event_id = value.removeprefix(" ")
                case "retry", value:
                    self.retry = int(value)
                case "event", value:
                    name = value.removeprefix(" ")
                case "data", value:
                    data += value
        if data:
            self.events.append(Event(name, orjson.loads(data)))
