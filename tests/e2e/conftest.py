"""The whole system, as `make up REPLICAS=2` runs it, in a folder and on ports of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from bench.subject import Subject
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing.ports import free_port
from tests.chaos.figures import LONG
from tests.loaded_timetable import LoadedTimetable
from tools.binaries import ROOT
from tools.programs import Ports, Settings

THEIRS: Final = {"CONSUL_HTTP_ADDR", "DATABASE_URL"}  # the user's, not for a system of the tests
SHORT: Final = {} if LONG else {"MESH_QUEUE_TARGET": "1s"}
"""A short run may share its machine: that makes calls wait, and none of these tests is about it."""


def command(settings: Settings, *words: str) -> list[str]:
    """The command line of `python -m tools.system` for this system."""
    ports = settings.ports
    return [
        *(sys.executable, "-m", "tools.system", "--run", str(settings.run)),
        *("--gateway-port", str(ports.gateway), "--ads-port", str(ports.ads)),
        *("--consul-port", str(ports.consul), "--consul-server-port", str(ports.consul_server)),
        *("--consul-serf-port", str(ports.consul_serf)),
        *("--consul-grpc-port", str(ports.consul_grpc), *words),
    ]


def run(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one of the Makefile's commands on this system."""
    environment = {k: v for k, v in os.environ.items() if k not in THEIRS} | SHORT
    return subprocess.run(
        command(settings, *words),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def started(
    folder: Path, *words: str, timetable: LoadedTimetable | None = None
) -> Iterator[Settings]:
    """A system of its own that was brought up so, for the block; one on SQLite gets a timetable."""
    ports = Ports(
        gateway=free_port(),
        consul=free_port(),
        ads=free_port(),
        consul_server=free_port(),
        consul_serf=free_port(),
        consul_grpc=free_port(),
    )
    settings = Settings(run=folder, ports=ports)
    try:
        if timetable is not None:
            timetable.give(folder)
        up = run(settings, "up", *words)
        assert up.returncode == 0, up.stdout + up.stderr + last_words(settings.logs)
        if timetable is not None:
            timetable.keep(folder)
        yield settings
    finally:
        run(settings, "down")


@pytest.fixture(scope="package")
def settings(
    tmp_path_factory: pytest.TempPathFactory, loaded_timetable: LoadedTimetable
) -> Iterator[Settings]:
    """A system with two instances of each service; its end is part of the test run."""
    folder = tmp_path_factory.mktemp("system")
    with started(folder, "--replicas", "2", timetable=loaded_timetable) as settings:
        yield settings


def last_words(logs: Path) -> str:
    """The end of every log, for the report of a failure."""
    parts = [f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(logs.glob("*.log"))]
    return "\n".join(parts)


@pytest.fixture
async def subject(settings: Settings) -> AsyncIterator[Subject]:
    """The running system, with a client that is gone after the test."""
    async with Subject.attach(settings) as attached:
        yield attached
        await asyncio.gather(*(whole(attached, name) for name in SERVICES))


SERVICES = ("schedule", "pricing", "flight-search", "booking")


async def whole(subject: Subject, service: str) -> None:
    """Wait until both instances pass, so that each test finds the system whole."""
    for slot in (1, 2):
        await subject.passes(service, f"{service}-{slot}")


@pytest.fixture
def bearer(settings: Settings) -> dict[str, str]:
    """A customer's Authorization header."""
    token = LocalIssuer(settings.run / "issuer").token("ann", {"customer"})
    return {"Authorization": f"Bearer {token}"}
