"""Logs: one JSON object per line on standard output.

`structlog.get_logger()` is how everybody logs: an event name and key=values. Lines that are written
while a call is served carry its trace and request ids. A thread of its own does the writing, in
batches, so that a slow reader of standard output never stops the event loop; `close()` (also at
exit) writes out what is left. A process that is killed loses at most the last moments.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from consulmesh.context import CURRENT, ContextSource

_GATHER_SECONDS: Final = 0.05
_LONGEST_QUEUE: Final = 100_000
_LAST_WORDS_SECONDS: Final = 2.0
_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


class AccessRecord(NamedTuple):
    """One served call. Rendering it, and reading its context, is left to the writer's thread."""

    time: float  # time.time() at its end
    method: str  # "package.Service/Method"
    code: str
    seconds: float
    context: ContextSource
    reason: str | None = None  # ErrorInfo.reason of an error
    caller: str | None = None  # as its certificate says, "" if it says none; None: as it says

    def line(self) -> bytes:
        """The record as a line of the log."""
        context = self.context.read()
        fields = {
            "timestamp": _utc(self.time),
            "level": "info",
            "event": "call",
            "method": self.method,
            "code": self.code,
            "duration_ms": round(self.seconds * 1000, 3),
            "trace_id": context.trace.trace_id,
            "span_id": context.trace.span_id,
            "request_id": context.request_id,
            "caller": context.caller if self.caller is None else self.caller or None,
        }
        if self.reason is not None:
            fields["reason"] = self.reason
        return _json(fields)


class Writer:
    """Writes lines to a file descriptor from its own thread, in the order in which they came.

    Keeps at most 100,000 waiting lines, and says how many it had to drop.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[bytes | AccessRecord] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes | AccessRecord) -> None:
        """Queues a line; never blocks."""
        if len(self._waiting) >= _LONGEST_QUEUE:
            self._dropped += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Writes what is left, unless nobody reads it for two seconds; may be called twice."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_LAST_WORDS_SECONDS)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(_GATHER_SECONDS)
            # cleared before the queue is looked at: a line that comes now wakes us again
            self._wake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        lines: list[bytes] = []
        while self._waiting:
            line = self._waiting.popleft()
            lines.append(line.line() if isinstance(line, AccessRecord) else line)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.append(_line(level="warning", event="log_lines_dropped", count=dropped))
        _write_all(self._descriptor, b"".join(lines))


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())
        except OSError:
            return  # the reader is gone, and with it whom we could tell


class _Output:
    """Where the lines of this process go: nowhere, until `configure`."""

    writer: Writer | None = None

    def msg(self, line: bytes) -> None:
        if self.writer is not None:
            self.writer.write(line)

    # structlog calls the method named after the level
    log = debug = info = warning = error = critical = fatal = failure = msg


_output = _Output()


def configure(level: str = "info", descriptor: int | None = None) -> None:
    """Sets up structlog, and the standard library's logging with it, for this process."""
    close()
    _output.writer = Writer(sys.stdout.fileno() if descriptor is None else descriptor)
    structlog.configure(
        processors=[
            _add_call,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _output,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Foreign()], level=logging.WARNING, force=True)
    atexit.unregister(close)
    atexit.register(close)


def close() -> None:
    """Writes out what is left. Later lines go nowhere."""
    writer, _output.writer = _output.writer, None
    if writer is not None:
        writer.close()


def access(record: AccessRecord) -> None:
    """Logs a served call, around structlog: this is on the path of each call."""
    if _output.writer is not None:
        _output.writer.write(record)


class _Foreign(logging.Handler):
    """What libraries log by the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


def _add_call(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    source = CURRENT.get()
    if source is not None:
        context = source.read()
        event.setdefault("trace_id", context.trace.trace_id)
        event.setdefault("request_id", context.request_id)
    return event


def _render(_logger: WrappedLogger, _name: str, event: EventDict) -> bytes:
    return _line(**event)


def _line(*, level: str, event: str, **fields: Any) -> bytes:
    return _json({"timestamp": _utc(time.time()), "level": level, "event": event, **fields})


def _json(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document, default=str, option=_OPTIONS)
    except orjson.JSONEncodeError:
        # half a surrogate pair, or more than 64 bits: nobody's work fails because of a log line
        return json.dumps(document, default=str, skipkeys=True).encode() + b"\n"


def _utc(seconds: float) -> str:
    """RFC 3339 with microseconds."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
