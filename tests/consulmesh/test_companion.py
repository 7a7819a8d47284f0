"""The companion: what it leaves for a program, and for nobody else."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from consulmesh.testing import RealConsul, real_consul
from consulmesh.xds.bootstrap import channel_options
from tests.consulmesh.processes import Process
from tests.consulmesh.secured import Authority
from tests.consulmesh.xds_world import call


@pytest.fixture(scope="module")
async def consul() -> AsyncIterator[RealConsul]:
    """One real Consul for these tests."""
    async with real_consul() as agent:
        yield agent


@asynccontextmanager
async def running(
    consul: RealConsul, folder: Path, module: str, *words: str, **env: str
) -> AsyncIterator[Process]:
    """Run a program for the block."""
    process = await Process.start(module, consul, folder, *words, **env)
    try:
        yield process
    finally:
        await process.kill()


async def left_by(companion: Process) -> Path:
    """The bootstrap, once it is there."""
    return Path((await companion.logged("bootstrap"))["file"])


def said(bootstrap: Path) -> Any:
    """What is in it."""
    return json.loads(bootstrap.read_text(encoding="utf-8"))


async def test_a_program_calls_by_the_bootstrap_alone(consul: RealConsul, tmp_path: Path) -> None:
    """In the plain profile too; the companion ends in order, and may come back beneath it."""
    async with running(consul, tmp_path, "tests.consulmesh.xds_process") as echo:
        await echo.logged("consul_registered")
        async with running(consul, tmp_path, "consulmesh.companion", "web") as first:
            bootstrap = await left_by(first)
            options = channel_options(bootstrap.read_text(encoding="utf-8"))
            channel = grpc.aio.insecure_channel("xds:///echo", options=options)
            before = await call(channel, timeout=20, wait_for_ready=True)
            first.signal(signal.SIGTERM)
            status = await first.ended()
        alone = await call(channel)
        async with running(consul, tmp_path, "consulmesh.companion", "web") as second:
            again = await left_by(second)
            echo.signal(signal.SIGTERM)
            await echo.ended()
            async with running(consul, tmp_path, "tests.consulmesh.xds_process") as later:
                await later.logged("consul_registered")
                after = await call(channel, timeout=20, wait_for_ready=True)
        await channel.close()

    assert [before, alone, after] == ["echo-1"] * 3
    assert status == 0
    assert again == bootstrap


async def test_nobody_else_reads_what_it_leaves(authority: Authority, tmp_path: Path) -> None:
    """Socket and files are in a folder of the user's own; the bootstrap has paths and no key."""
    env = authority.environment("web")
    async with running(
        authority.consul, tmp_path, "consulmesh.companion", "web", **env
    ) as companion:
        bootstrap = await left_by(companion)
        modes = {file.name: file.stat().st_mode & 0o077 for file in bootstrap.parent.iterdir()}
        folder = bootstrap.parent.stat().st_mode & 0o777
        document = said(bootstrap)

    assert modes.keys() == {
        *("certificate.pem", "key.pem", "roots.pem", "xds.sock", "bootstrap.json")
    }
    assert {mode for name, mode in modes.items() if name != "xds.sock"} == {0}
    assert folder == 0o700
    assert document["xds_servers"][0]["server_uri"] == f"unix:{bootstrap.parent / 'xds.sock'}"
    assert document["certificate_providers"]["mesh"]["config"] == {
        "certificate_file": str(bootstrap.parent / "certificate.pem"),
        "private_key_file": str(bootstrap.parent / "key.pem"),
        "ca_certificate_file": str(bootstrap.parent / "roots.pem"),
        "refresh_interval": "1s",
    }
    assert "PRIVATE" not in bootstrap.read_text(encoding="utf-8")


async def test_once_leaves_a_certificate_and_ends(authority: Authority, tmp_path: Path) -> None:
    """The bootstrap names the shared ADS as Consul lists it, to be asked by mTLS."""
    listed = {"Name": "mesh-ads", "ID": "mesh-ads-1", "Address": "127.0.0.1", "Port": 18000}
    await authority.put("/v1/agent/service/register", listed)
    env = authority.environment("web")
    async with running(
        authority.consul, tmp_path, "consulmesh.companion", "--once", "web", **env
    ) as companion:
        status = await companion.ended()
        bootstrap = await left_by(companion)
    await authority.put("/v1/agent/service/deregister/mesh-ads-1", None)
    (server,) = said(bootstrap)["xds_servers"]
    (leaf, *_) = x509.load_pem_x509_certificates(
        (bootstrap.parent / "certificate.pem").read_bytes()
    )

    assert status == 0
    assert server["server_uri"] == "127.0.0.1:18000"
    assert server["channel_creds"] == [
        {"type": "tls", "config": said(bootstrap)["certificate_providers"]["mesh"]["config"]}
    ]
    assert leaf.not_valid_after_utc > datetime.now(UTC)


async def ended(consul: RealConsul, folder: Path, *words: str, **env: str) -> tuple[int, str]:
    """Run a companion to its end; return the exit status and what it said last."""
    async with running(consul, folder, "consulmesh.companion", *words, **env) as companion:
        status = await companion.ended()
    return status, companion.lines[-1].get("reason", "")


async def test_who_cannot_be_helped_is_told_why(
    authority: Authority, consul: RealConsul, tmp_path: Path
) -> None:
    """No shared ADS, no token, or a path that no socket can have: it ends, and says why."""
    web = authority.environment("web")
    lonely, stranger, lost = await asyncio.gather(
        ended(authority.consul, tmp_path / "1", "--once", "web", **web),
        ended(authority.consul, tmp_path / "2", "--once", "web", **web | {"CONSUL_HTTP_TOKEN": ""}),
        ended(consul, tmp_path / ("x" * 90), "web"),
    )

    assert (lonely[0], stranger[0], lost[0]) == (2, 1, 2)
    assert "mesh-ads" in lonely[1]
    assert "no certificate" in stranger[1]
    assert "too long for a socket" in lost[1]
