"""Services as processes of a test: how they start, die, freeze and come back."""

import os
import select
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)

from tests.chaos.processes import DiedError, Zygote, zygote
from tests.chaos.world import World


def sqlite(folder: Path, service: str) -> str:
    """The URL of a SQLite database of a service."""
    return f"sqlite:///{folder}/data/{service}.db"


@asynccontextmanager
async def world_in(forks: Zygote, folder: Path) -> AsyncIterator[World]:
    """A world on SQLite, killed at the end."""
    world = World(forks, folder, lambda service: sqlite(folder, service))
    try:
        yield world
    finally:
        await world.down()


async def health(world: World, service: str) -> int:
    """What an instance says of its health, once it answers."""
    async with world.caller() as caller:
        stub = health_pb2_grpc.HealthStub(caller.channel(service))
        request = health_pb2.HealthCheckRequest()
        answer = await stub.Check(request, wait_for_ready=True, timeout=10)
    return int(answer.status)


async def test_a_killed_instance_comes_back_at_its_address(forks: Zygote, tmp_path: Path) -> None:
    """An instance that was killed ends with the signal, and its successor answers in its place."""
    async with world_in(forks, tmp_path) as world:
        first = await world.start("schedule")
        await first.serving()
        first.kill()
        status = await first.ended()
        second = await world.start("schedule")
        await second.serving()
        said = await health(world, "schedule")

    assert status == -signal.SIGKILL
    assert first.pid != second.pid
    assert said == health_pb2.HealthCheckResponse.SERVING


async def test_a_failpoint_is_where_a_process_dies(forks: Zygote, tmp_path: Path) -> None:
    """An armed process kills itself at its point; one that is not armed goes on."""
    async with world_in(forks, tmp_path) as world:
        armed = await world.start("schedule", failpoint="schedule.window_begin:written")
        status = await armed.ended()
        await (await world.start("schedule")).serving()

    assert status == -signal.SIGKILL


async def test_an_unknown_failpoint_is_refused(forks: Zygote, tmp_path: Path) -> None:
    """A process that is armed at a point which does not exist says so and does not start."""
    async with world_in(forks, tmp_path) as world:
        process = await world.start("schedule", failpoint="schedule.nothing:before")
        with pytest.raises(DiedError) as raised:
            await process.serving()
        logged = process.log.read_text()

    assert "ended with 2" in str(raised.value)
    assert "schedule.nothing:before" in logged


async def test_a_frozen_process_goes_on(forks: Zygote, tmp_path: Path) -> None:
    """A process can be stopped and continued, and answers afterwards."""
    async with world_in(forks, tmp_path) as world:
        process = await world.start("schedule")
        await process.serving()
        process.send(signal.SIGSTOP)
        await process.stopped()
        process.send(signal.SIGCONT)
        await process.continued()
        said = await health(world, "schedule")

    assert said == health_pb2.HealthCheckResponse.SERVING


async def test_an_orderly_end_is_told_from_a_crash(forks: Zygote, tmp_path: Path) -> None:
    """A process that is told to stop drains and ends with 0."""
    async with world_in(forks, tmp_path) as world:
        process = await world.start("schedule")
        await process.serving()
        process.send(signal.SIGTERM)
        status = await process.ended()

    assert status == 0


async def test_nothing_outlives_the_zygote(tmp_path: Path) -> None:
    """When the block of the zygote is left, its processes end, also one that is frozen."""
    async with zygote() as forks:
        world = World(forks, tmp_path, lambda service: sqlite(tmp_path, service))
        runs = await world.start("schedule")
        frozen = await world.start("pricing")
        await runs.serving()
        frozen.send(signal.SIGSTOP)
        await frozen.stopped()
        ends = [os.pidfd_open(process.pid) for process in (runs, frozen)]
    ended = [end for end in ends if select.select([end], [], [], 10)[0]]
    for end in ends:
        os.close(end)

    assert ended == ends
