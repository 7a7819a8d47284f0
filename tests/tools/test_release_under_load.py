"""Releases as operators make them, by the command, while a caller of the mesh keeps calling."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import grpc
import pytest

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.testing import RealConsul, real_consul
from tests.consulmesh.consuls import asked_until
from tests.consulmesh.processes import Process, caller, passing
from tests.consulmesh.xds_world import call
from tests.tools.test_config_entries import put
from tools.binaries import ROOT

pytestmark = pytest.mark.timeout(600)  # commands and processes are started one after the other

OLD, NEW = "1.0.0", "2.0.0"
WORKERS = 4
PREVIEW = (("x-preview", "1"),)
BUCKETS = [(("x-bucket", str(number)),) for number in range(10)]


class Release:
    """The command, on one Consul."""

    def __init__(self, consul: RealConsul) -> None:
        self._consul = consul

    async def __call__(self, *words: str, status: int = 0) -> str:
        """Run `python -m tools.release` and return what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tools.release", *words),
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "CONSUL_HTTP_ADDR": self._consul.url,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = output.decode()
        assert process.returncode == status, text
        return text


class Callers:
    """Calls without a pause, each tried once; keeps which version answered them, and what failed.

    All mutable state: the answers since the last look, the failures, and how many calls there were.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.failures: list[grpc.aio.AioRpcError] = []
        self.made = 0
        self._answers: Counter[str] = Counter()
        self._channel = channel
        self._answered = asyncio.Condition()
        self._stop = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._workers)

    async def answers(self, calls: int) -> Counter[str]:
        """Which versions answer the next so many calls."""
        async with self._answered, asyncio.timeout(60):
            self._answers.clear()
            await self._answered.wait_for(lambda: self._answers.total() >= calls)
            return Counter(self._answers)

    async def until_only(self, version: str) -> None:
        """Wait until a version answers everything: what was sent before has been answered."""
        while set(await self.answers(10 * WORKERS)) != {version}:
            pass

    async def until_some(self, version: str) -> None:
        """Wait until a version answers."""
        while version not in await self.answers(WORKERS):
            pass

    async def _work(self) -> None:
        while not self._stop.is_set():
            self.made += 1
            try:
                answer = await call(self._channel)
            except grpc.aio.AioRpcError as error:
                self.failures.append(error)
            else:
                async with self._answered:
                    self._answers[answer] += 1
                    self._answered.notify_all()
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these tests."""
    async with real_consul() as agent:
        await put(agent.url, {"Kind": "service-defaults", "Name": "echo", "Protocol": "grpc"})
        yield agent


@pytest.fixture
async def release(consul: RealConsul) -> AsyncIterator[Release]:
    """The command; nothing is left of a release afterwards."""
    command = Release(consul)
    yield command
    for words in (("preview", "echo", "--off"), ("unpin", "echo")):
        await command(*words)


@asynccontextmanager
async def instances(
    consul: RealConsul, folder: Path, *versions: str, **env: str
) -> AsyncIterator[list[Process]]:
    """Run an instance of each of these versions; all pass when the block begins."""
    async with AsyncExitStack() as stack:
        started = []
        for version in versions:
            module = "tests.tools.versioned_process"
            process = await Process.start(module, consul, folder, MESH_VERSION=version, **env)
            stack.push_async_callback(process.kill)
            started.append(process)
        ids = [(await process.logged("serving"))["instance"] for process in started]
        async with ConsulApi(consul.url) as api:
            await asked_until(api, Query.health("echo"), lambda data: passing(data) >= set(ids))
        yield started


async def test_every_kind_of_release_costs_no_call(
    consul: RealConsul, release: Release, tmp_path: Path
) -> None:
    """Canary, more of it, promotion, rollback, blue/green, preview, A/B: each call is answered."""
    async with (
        instances(consul, tmp_path, OLD, OLD),
        caller(consul, tmp_path) as mesh,
        Callers(channel := mesh.channel("echo")) as callers,
    ):
        await callers.until_only(OLD)
        await release("pin", "echo")
        async with instances(consul, tmp_path, NEW, NEW):
            dark = await callers.answers(200)
            await release("canary", "echo", "--to", NEW, "--weight", "10")
            await callers.until_some(NEW)
            tenth = await callers.answers(500)
            await release("canary", "echo", "--to", NEW, "--weight", "60")
            await callers.answers(200)
            most = await callers.answers(500)
            await release("promote", "echo")
            await callers.until_only(NEW)
            await release("rollback", "echo")
            await callers.until_only(OLD)
            await release("blue-green", "echo", "--to", NEW)
            await callers.until_only(NEW)
            await release("rollback", "echo")
            await callers.until_only(OLD)
            await release("preview", "echo", "--to", NEW, "--header", "x-preview=1")
            while await call(channel, metadata=PREVIEW) == OLD:
                pass
            testers = {await call(channel, metadata=PREVIEW) for _ in range(50)}
            others = set(await callers.answers(200))
            await release("preview", "echo", "--off")
            while await call(channel, metadata=PREVIEW) == NEW:
                pass
            await release("preview", "echo", "--to", NEW, "--header", "x-bucket~[0-4]")
            while await call(channel, metadata=BUCKETS[0]) == OLD:
                pass
            users = [{await call(channel, metadata=b) for _ in range(10)} for b in BUCKETS]
            print(await release("status", "echo"))
    print(f"{callers.made} calls, {len(callers.failures)} failed; 10 %: {tenth}; 60 %: {most}")

    assert callers.failures == []
    assert set(dark) == {OLD}
    assert 0.03 < tenth[NEW] / tenth.total() < 0.2
    assert 0.5 < most[NEW] / most.total() < 0.7
    assert (testers, others) == ({NEW}, {OLD})
    assert users == [{NEW}] * 5 + [{OLD}] * 5


async def test_a_canary_that_fails_goes_back_by_itself(
    consul: RealConsul, release: Release, tmp_path: Path
) -> None:
    """Every second of its calls fails: the watch says so with status 3, and it gets no more."""
    async with (
        instances(consul, tmp_path, OLD, OLD),
        instances(consul, tmp_path, NEW, FAILING="2"),
        caller(consul, tmp_path) as mesh,
        Callers(mesh.channel("echo")) as callers,
    ):
        await release("pin", "echo", "--version", OLD)
        await callers.until_only(OLD)
        callers.failures.clear()  # of before, when nothing was pinned
        await release("canary", "echo", "--to", NEW, "--weight", "10")
        said = await release("watch", "echo", "--min-calls", "20", status=3)
        await callers.until_only(OLD)
        failed = len(callers.failures)
        after = await callers.answers(300)
    print(said, f"{callers.made} calls, {failed} failed before the canary was gone")

    assert f"all calls of echo go back to {OLD}, none to {NEW}" in said
    assert set(after) == {OLD}
    assert len(callers.failures) == failed
    assert {error.code() for error in callers.failures} == {grpc.StatusCode.INTERNAL}


async def test_a_canary_that_is_no_worse_is_promoted(
    consul: RealConsul, release: Release, tmp_path: Path
) -> None:
    """With enough calls and none that failed, the watch ends well and brings it to everybody."""
    async with (
        instances(consul, tmp_path, OLD, NEW),
        caller(consul, tmp_path) as mesh,
        Callers(mesh.channel("echo")) as callers,
    ):
        await release("pin", "echo", "--version", OLD)
        await release("canary", "echo", "--to", NEW, "--weight", "50")
        await callers.until_some(NEW)
        said = await release("watch", "echo", "--for", "5s", "--min-calls", "5", "--promote")
        await callers.until_only(NEW)
    print(said)

    assert f"all calls of echo go to {NEW}" in said
    assert callers.failures == []


async def test_a_canary_without_instances_goes_back_by_itself(
    consul: RealConsul, release: Release, tmp_path: Path
) -> None:
    """Its only instance is killed: no server counts the calls that fail, the watch sees why."""
    async with (
        instances(consul, tmp_path, OLD),
        instances(consul, tmp_path, NEW) as (victim,),
        caller(consul, tmp_path) as mesh,
        Callers(mesh.channel("echo")) as callers,
    ):
        await release("canary", "echo", "--to", NEW)
        await callers.until_some(NEW)
        watching = asyncio.create_task(release("watch", "echo", status=3))
        victim.signal(signal.SIGKILL)
        said = await watching
        await callers.until_only(OLD)

    assert f"no instance of {NEW} passes its checks" in said


async def test_a_canary_that_nobody_calls_is_not_judged(
    consul: RealConsul, release: Release, tmp_path: Path
) -> None:
    """Without calls there is no verdict, which has a status of its own, and nothing changes."""
    async with instances(consul, tmp_path, OLD), instances(consul, tmp_path, NEW):
        await release("canary", "echo", "--to", NEW)
        said = await release("watch", "echo", "--for", "2s", status=4)
        shown = await release("status", "echo")
        await release("rollback", "echo")

    assert "undecided" in said
    assert "10 %" in shown


async def test_a_new_version_is_dark_until_it_is_released(
    consul: RealConsul, release: Release, tmp_path: Path
) -> None:
    """A refusal says why on one line, exits with 1 and leaves every call where it was."""
    async with (
        instances(consul, tmp_path, OLD),
        caller(consul, tmp_path) as mesh,
        Callers(mesh.channel("echo")) as callers,
    ):
        await release("pin", "echo")
        said = await release("blue-green", "echo", "--to", NEW, status=1)
        await callers.until_only(OLD)

    assert said.startswith(f"refused: no instance of echo {NEW} passes its checks")
    assert len(said.splitlines()) == 1
    assert callers.failures == []
