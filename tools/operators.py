"""An operator's way into the mesh: `python -m tools.operators certificate | grpcurl …`.

`certificate` has Consul sign a new key as the service `operator` and leaves both, with what the
servers are verified by, in `<run>/operator/`. `grpcurl` runs the pinned grpcurl with them and, for
`xds:///booking`, with what xDS says to an operator; without the secure profile it gets the
bootstrap of the shared ADS alone. grpcurl verifies by DNS names, which Consul signs as they are
asked for; so it is made to believe only the certificates that the service's instances show just
before, each verified by its SPIFFE id.
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
from consulmesh.client_certificate import ClientCertificate, ImpostorError, client_certificate
from consulmesh.consul_api import ConsulApi, ConsulError, Query
from consulmesh.identity import dns_name
from consulmesh.mesh import ADMIN_PORT
from consulmesh.operators import FOLDER, OPERATOR, PATIENCE
from consulmesh.private import write_private
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


async def certify(settings: Settings) -> ClientCertificate:
    """Leave a new certificate in the operator's folder."""
    folder = settings.run / FOLDER
    own = config(settings)
    async with ConsulApi(own.consul_url, own.consul_token, own.consul_roots) as consul:
        made = await client_certificate(own, consul)
    made.write(folder)
    print(f"{made.certificate.subject} until {made.certificate.ends:%F %T %Z}", file=sys.stderr)
    return made


async def instances(settings: Settings, where: str) -> tuple[str, list[str]]:
    """The service that is meant, and where it is; exits where Consul lists nobody there."""
    own = config(settings)
    async with ConsulApi(own.consul_url, own.consul_token, own.consul_roots) as consul:
        if where.startswith(XDS):
            name = where.removeprefix(XDS)
            listed = (await consul.ask(Query.health(name))).data
            if not listed:
                sys.exit(f"Consul lists no instance of {name}")
            return name, [_addresses(entry)[0] for entry in listed]
        for name in (*SERVICES, GATEWAY, ADS):
            listed = (await consul.ask(Query.health(name))).data
            if any(where in _addresses(entry) for entry in listed):
                return name, [where]
    sys.exit(f"Consul lists no instance at {where}: make ps lists them; or name its -authority")


def _addresses(entry: Mapping[str, Any]) -> list[str]:
    service = entry["Service"]
    host = service["Address"] or entry["Node"]["Address"]
    return [f"{host}:{port}" for port in (service["Port"], service["Meta"].get(ADMIN_PORT))]


async def verified(own: ClientCertificate, service: str, addresses: Sequence[str]) -> bytes:
    """The certificates of those at some addresses that are a service; says who is not.

    Exits where none is.
    """
    shown = await asyncio.gather(
        *(own.shown_at(each, service) for each in addresses), return_exceptions=True
    )
    for address, each in zip(addresses, shown, strict=True):
        if isinstance(each, OSError | ImpostorError):
            print(f"left out: {address}: {str(each) or 'no answer'}", file=sys.stderr)
        elif isinstance(each, BaseException):
            raise each
    if not (found := [each for each in shown if isinstance(each, bytes)]):
        sys.exit(f"nobody at {', '.join(addresses)} is {service}")
    return b"".join(found)


def target(words: Sequence[str]) -> str:
    """Where grpcurl is to call; empty where nothing says so."""
    return next((each for each in words if each.startswith(XDS) or _DIRECT.fullmatch(each)), "")


async def grpcurl(settings: Settings, words: Sequence[str]) -> int:
    """Run grpcurl as the operator; returns its exit status."""
    if not settings.secure:
        return await _run([*words], xds(settings))
    own = await certify(settings)
    folder = settings.run / FOLDER
    where = target(words)
    believed = folder / "roots.pem"
    flags = ["-cert", str(folder / "certificate.pem"), "-key", str(folder / "key.pem")]
    if where and not _NAMED & {*words}:
        service, addresses = await instances(settings, where)
        believed = folder / "servers.pem"
        write_private(believed, await verified(own, service, addresses))
        flags += ["-authority", dns_name(service)]
    flags += ["-cacert", str(believed)]
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
