"""An operator's way into the mesh: `python -m tools.operators certificate | grpcurl …`.

`certificate` has Consul sign a new key as the service `operator` and leaves both, with what the
servers are verified by, in `<run>/operator/`. `grpcurl` runs the pinned grpcurl with them and, for
`xds:///booking`, with what xDS says to an operator; without the secure profile it gets the
bootstrap of the shared ADS alone.
"""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc

from consulmesh import Mesh, MeshConfig, logs
from consulmesh.consul_api import ConsulApi, ConsulError, Query
from consulmesh.identity import dns_name
from consulmesh.mesh import ADMIN_PORT
from consulmesh.operators import FOLDER, OPERATOR, PATIENCE, client_certificate
from consulmesh.xds.bootstrap import FILE_VARIABLE
from tools.binaries import ROOT, get
from tools.programs import ADS, GATEWAY, SERVICES, Settings
from tools.secure import operators_environment

XDS: Final = "xds:///"
_DIRECT: Final = re.compile(r"[^\s{}]+:\d+")
_NAMED: Final = {"-authority", "-servername"}


def config(settings: Settings) -> MeshConfig:
    """The configuration of an operator's tool at a system; it serves no metrics."""
    read = MeshConfig.from_env(operators_environment(settings), version="0.0.0")
    return replace(read, metrics_port=None)


@asynccontextmanager
async def joined(settings: Settings) -> AsyncIterator[Mesh]:
    """Be a member of the mesh that only calls, as the operator."""
    async with Mesh.join(OPERATOR, config(settings)) as mesh:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await mesh.certified()
        yield mesh


def xds(settings: Settings) -> dict[str, str]:
    """The variable of a client's bootstrap; in the secure profile whoever joined has set it."""
    if settings.secure:
        return {}
    return {FILE_VARIABLE: str(settings.run / "xds-bootstrap.json")}


async def certify(settings: Settings) -> Path:
    """Leave a new certificate; returns its folder."""
    folder = settings.run / FOLDER
    own = config(settings)
    async with ConsulApi(own.consul_url, own.consul_token, own.consul_roots) as consul:
        made = await client_certificate(own, consul)
    made.write(folder)
    print(f"{made.certificate.subject} until {made.certificate.ends:%F %T %Z}", file=sys.stderr)
    return folder


async def service_at(settings: Settings, address: str) -> str:
    """The service whose instance is at an address; exits where there is none."""
    own = config(settings)
    async with ConsulApi(own.consul_url, own.consul_token, own.consul_roots) as consul:
        for name in (*SERVICES, GATEWAY, ADS):
            listed = (await consul.ask(Query.health(name))).data
            if any(address in _addresses(entry) for entry in listed):
                return name
    sys.exit(f"Consul lists no instance at {address}: make ps lists them; or name its -authority")


def _addresses(entry: Mapping[str, Any]) -> set[str]:
    service = entry["Service"]
    host = service["Address"] or entry["Node"]["Address"]
    return {f"{host}:{port}" for port in (service["Port"], service["Meta"].get(ADMIN_PORT))}


def target(words: Sequence[str]) -> str:
    """Where grpcurl is to call; empty where nothing says so."""
    return next((each for each in words if each.startswith(XDS) or _DIRECT.fullmatch(each)), "")


async def grpcurl(settings: Settings, words: Sequence[str]) -> int:
    """Run grpcurl as the operator; returns its exit status."""
    if not settings.secure:
        return await _run([*words], xds(settings))
    folder = await certify(settings)
    where = target(words)
    flags = ["-cacert", str(folder / "roots.pem")]
    flags += ["-cert", str(folder / "certificate.pem"), "-key", str(folder / "key.pem")]
    if where and not _NAMED & {*words}:
        named = where.startswith(XDS)
        service = where.removeprefix(XDS) if named else await service_at(settings, where)
        flags += ["-authority", dns_name(service)]
    rest = [each for each in words if each != "-plaintext"]
    if not where.startswith(XDS):
        return await _run([*flags, *rest], {})
    async with joined(settings):  # its xDS, by the environment
        return await _run([*flags, *rest], xds(settings))


async def _run(words: list[str], extra: Mapping[str, str]) -> int:
    program = await asyncio.to_thread(get, "grpcurl")
    inherited = {k: v for k, v in os.environ.items() if k != FILE_VARIABLE}
    process = await asyncio.create_subprocess_exec(program, *words, env={**inherited, **extra})
    return await process.wait()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.operators", description=__doc__)
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="folder of the system")
    parser.add_argument("command", choices=("certificate", "grpcurl"))
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of grpcurl")
    given = parser.parse_args()
    settings = Settings(run=given.run.resolve())
    logs.configure("critical", sys.stderr.fileno())
    try:
        if given.command == "grpcurl":
            sys.exit(asyncio.run(grpcurl(settings, given.words)))
        if not settings.secure:
            sys.exit("nobody needs a certificate here: make up SECURE=1")
        asyncio.run(certify(settings))
    except (ConsulError, grpc.aio.AioRpcError, TimeoutError) as error:
        sys.exit(f"Consul signs no certificate: {error}")


if __name__ == "__main__":
    main()
