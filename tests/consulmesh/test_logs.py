from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from consulmesh import logs
from consulmesh.context import CallContext, TraceContext, use
from consulmesh.logs import AccessRecord, Writer

CALL = CallContext(
    trace=TraceContext("1" * 32, "2" * 16), request_id="req-1", caller="booking", token="secret"
)
RECORD = AccessRecord(1_760_000_000.25, "a.B/C", "OK", 0.0123456, CALL)


class Output:
    """What was written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[dict[str, Any]]:
        """Closes the log and reads it."""
        logs.close()
        return [json.loads(line) for line in self._path.read_text().splitlines()]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    """Logs to a file for one test."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    path = tmp_path / "log"
    with path.open("wb") as file:
        logs.configure("info", file.fileno())
        yield Output(path)
        logs.close()
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


def test_an_event_is_one_line_of_json(output: Output) -> None:
    """Time, level, event and the values; what JSON does not know is text."""
    structlog.get_logger().info("registered", instance="booking-1", path=Path("/x"))
    (line,) = output.lines()

    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "info", "event": "registered", "instance": "booking-1", "path": "/x"}


def test_lines_of_a_call_carry_its_ids(output: Output) -> None:
    """What is logged while a call is served can be found by its trace and request id."""
    context = CallContext(request_id="req-1", token="secret")
    with use(context):
        structlog.get_logger().warning("slow")
    structlog.get_logger().info("beside")
    inside, beside = output.lines()

    assert (inside["trace_id"], inside["request_id"]) == (context.trace.trace_id, "req-1")
    assert "secret" not in json.dumps(inside)
    assert "trace_id" not in beside


def test_levels_below_the_configured_one_are_silent(output: Output) -> None:
    """Debug lines are not written at level info."""
    structlog.get_logger().debug("noise")

    assert output.lines() == []


@pytest.mark.parametrize("odd", ["half \ud800", 1 << 70, {1: {2}}, float("nan"), b"\xff"])
def test_a_value_that_json_lacks_fails_nobody(output: Output, odd: object) -> None:
    """Whatever is logged, the caller goes on and there is a line."""
    structlog.get_logger().info("odd", value=odd)

    assert [line["event"] for line in output.lines()] == ["odd"]


def test_a_traceback_is_one_field(output: Output) -> None:
    """Without the values of variables, which may be anybody's."""
    personal = "ann@example.org"
    try:
        divmod(len(personal), 0)
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    (line,) = output.lines()

    assert "ZeroDivisionError" in line["exception"]
    assert personal not in line["exception"]


def test_foreign_loggers_write_the_same_lines(output: Output) -> None:
    """Libraries that use the standard library's logging end up in the same stream."""
    logging.getLogger("grpc._server").warning("odd %s", "thing")
    logging.getLogger("grpc._server").info("chatter")
    (line,) = output.lines()

    assert (line["event"], line["level"], line["logger"]) == (
        "odd thing",
        "warning",
        "grpc._server",
    )


def test_a_served_call_is_one_line(output: Output) -> None:
    """With its outcome, and a reason only where there is one."""
    logs.access(RECORD)
    logs.access(RECORD._replace(method='"\ud800\\', code="NOT_FOUND", reason="FLIGHT_NOT_FOUND"))
    fine, failed = output.lines()

    assert fine == {
        "timestamp": "2025-10-09T08:53:20.250000Z",
        "level": "info",
        "event": "call",
        "method": "a.B/C",
        "code": "OK",
        "duration_ms": 12.346,
        "trace_id": "1" * 32,
        "span_id": "2" * 16,
        "request_id": "req-1",
        "caller": "booking",
    }
    assert (failed["reason"], failed["method"]) == ("FLIGHT_NOT_FOUND", '"\ud800\\')


def test_who_called_is_who_was_verified(output: Output) -> None:
    """Where certificates are verified, what a caller says of itself is not in the log."""
    for verified in ("web", "", None):
        logs.access(RECORD._replace(caller=verified))

    assert [line["caller"] for line in output.lines()] == ["web", None, "booking"]


def test_lines_keep_their_order_over_threads(output: Output) -> None:
    """Each thread's lines are in the order in which it wrote them, and none is lost."""

    def write(name: str) -> None:
        for number in range(500):
            structlog.get_logger().info("n", thread=name, number=number)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = output.lines()

    for name in "abc":
        assert [line["number"] for line in lines if line["thread"] == name] == list(range(500))


def test_after_closing_lines_go_nowhere(output: Output) -> None:
    """Also a second time; nothing is raised."""
    logs.close()
    logs.close()
    structlog.get_logger().info("late")
    logs.access(RECORD)

    assert output.lines() == []


def test_a_reader_that_stops_does_not_stop_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe costs lines, which are counted, and never a caller's time."""
    monkeypatch.setattr(logs, "_LONGEST_QUEUE", 1_000)
    reading, writing = os.pipe()
    writer = Writer(writing)
    line = b"x" * 1_000 + b"\n"
    for _ in range(5_000):  # the pipe takes 64 KiB
        writer.write(line)
    received = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 65_536):
            received.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    writer.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    dropped = sum(json.loads(x)["count"] for x in received.splitlines() if x.startswith(b"{"))

    assert dropped + received.count(line) == 5_000
    assert dropped >= 3_000


def test_a_reader_that_is_gone_is_no_error() -> None:
    """Writing into a closed pipe ends nothing but the log."""
    reading, writing = os.pipe()
    os.close(reading)
    writer = Writer(writing)
    writer.write(b"x\n")
    writer.close()
    os.close(writing)

    assert not writer._waiting


def test_the_last_lines_before_the_exit_are_written() -> None:
    """A process that ends, also by an error, loses nothing."""
    code = (
        "from consulmesh import logs; import structlog; logs.configure();"
        "[structlog.get_logger().info('n', n=n) for n in range(1000)];"
        "raise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert done.returncode == 3
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == list(range(1000))
