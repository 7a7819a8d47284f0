"""A service on a real Consul, and clients of it that learn of everything from the shared ADS."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import grpc

from consulmesh.consul_api import ConsulApi
from consulmesh.propagation import INSTANCE
from consulmesh.testing import RealConsul
from tests.consulmesh.consuls import registration, tell, unprobed, withdraw

SERVICE: Final = "test.v1.EchoService"
ANSWER_SECONDS: Final = 30.0  # a client gives its calls ten
_ATTEMPT: Final = "grpc-previous-rpc-attempts"

Entry = dict[str, Any]


class Echo(grpc.GenericRpcHandler):
    """An instance of `echo` that says in a trailer who it is, and counts the calls it gets.

    `Flaky` fails as UNAVAILABLE unless the call is tried again. `stop` closes the port without a
    word to Consul, whose check never runs.
    """

    def __init__(self, number: int, version: str) -> None:
        self.version = version
        self.calls = 0
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self._registration = registration(
            "echo",
            self._server.add_insecure_port("127.0.0.1:0"),
            number=number,
            version=version,
            check=unprobed(),
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of every method there is."""
        flaky = handler_call_details.method.endswith("/Flaky")
        again = any(key == _ATTEMPT for key, _ in handler_call_details.invocation_metadata)

        async def answer(_request: bytes, context: Any) -> bytes:
            self.calls += 1
            context.set_trailing_metadata(((INSTANCE, self.version),))
            if flaky and not again:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not at the first attempt")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    @asynccontextmanager
    async def listed(self, api: ConsulApi) -> AsyncIterator[Self]:
        """Serve, and be listed in Consul as passing, for the block."""
        await self._server.start()
        try:
            await tell(api, self._registration, proven=True)
            yield self
        finally:
            await withdraw(api, self._registration)
            await self.stop()

    async def stop(self) -> None:
        """Close the port at once."""
        await self._server.stop(None)


@asynccontextmanager
async def written(consul: RealConsul, *entries: Entry) -> AsyncIterator[None]:
    """Let Consul have config entries, in this order, for the block."""
    for entry in entries:
        await write(consul, entry)
    try:
        yield
    finally:
        async with aiohttp.ClientSession(consul.url, raise_for_status=True) as session:
            for entry in reversed(entries):
                await session.delete(f"/v1/config/{entry['Kind']}/{entry['Name']}")


async def write(consul: RealConsul, entry: Entry) -> None:
    """Write a config entry, in place of the one that is there."""
    async with aiohttp.ClientSession(consul.url, raise_for_status=True) as session:
        await session.put("/v1/config", json=entry)


def entry(kind: str, **fields: Any) -> Entry:
    """Return a config entry of `echo`."""
    return {"Kind": kind, "Name": "echo", **fields}


def of_version(version: str) -> Entry:
    """Return a subset."""
    return {"Filter": f'Service.Meta.version == "{version}"'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call came to; `instance` is empty where no instance answered."""

    code: int
    instance: str
    details: str = field(default="", compare=False)


class Client:
    """A client in another language, as a process; it makes one call after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._calls = process.stdin
        self._answers = process.stdout

    @classmethod
    @asynccontextmanager
    async def calling(
        cls, command: Sequence[str], upstream: str, bootstrap: Path
    ) -> AsyncIterator[Self]:
        """Run a client of an upstream for the block; it knows nothing but its bootstrap."""
        process = await asyncio.create_subprocess_exec(
            *(*command, f"xds:///{upstream}"),
            env={"PATH": os.environ["PATH"], "GRPC_XDS_BOOTSTRAP": str(bootstrap)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def call(self, method: str = "Get", **headers: str) -> Answer:
        """Make a call with headers, whose names have hyphens in place of underscores.

        A method of another service than echo is named by its path.
        """
        pairs = ((name.replace("_", "-"), value) for name, value in headers.items())
        path = method if method.startswith("/") else f"/{SERVICE}/{method}"
        words = (path, *chain.from_iterable(pairs))
        self._calls.write(" ".join(words).encode() + b"\n")
        async with asyncio.timeout(ANSWER_SECONDS):
            return Answer(**json.loads(await self._answers.readline()))

    async def until(self, wanted: Answer, method: str = "Get") -> None:
        """Call until that is the answer: what changed has reached the client."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while await self.call(method) != wanted:
                pass
