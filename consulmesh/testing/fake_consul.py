"""A Consul for tests: the part of the HTTP API that the mesh uses, with faults on demand.

It behaves as the real one does, which one suite of tests checks against both. What it does not
do: ACLs, routers, splitters, resolvers, filters other than `Service.Meta.<key> == "<value>"`, and
the removal of instances that stay critical.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from consulmesh.testing.consul_routes import ConsulRoutes
from consulmesh.testing.consul_state import ConsulState
from consulmesh.testing.fake_agent import FakeAgent, Fault
from consulmesh.testing.ports import free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that came; `at` in monotonic seconds."""

    at: float
    method: str
    path: str


class FakeConsul:
    """Listens on a port of its own, the same one after a restart; an async context manager."""

    def __init__(self) -> None:
        self.agent = FakeAgent()
        self.requests: list[Request] = []
        self.port = free_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> ConsulState:
        """What it knows."""
        return self.agent.state

    @property
    def fault(self) -> Fault | None:
        """What is wrong with it; set it to make it so, None heals."""
        return self.agent.fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self.agent.fault = fault

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        self.agent.close()

    async def start(self, *, empty: bool = False) -> None:
        """Listen, with what was known before the stop or, `empty`, as if it had been wiped."""
        if empty:
            self.lose_state()
        self._runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()

    async def stop(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def kill(self) -> None:
        """Stop without a farewell; the fake knows no other way."""
        await self.stop()

    def pause(self) -> None:
        """Answer nothing; connections stay open."""
        self.fault = Fault.HANGS

    def resume(self) -> None:
        """Answer again, also what waited."""
        self.fault = None

    def lose_state(self) -> None:
        """Forget everything and begin with low indexes again."""
        self.agent.lose_state()

    def requests_of(self, path: str) -> list[Request]:
        """Return the requests whose path starts so."""
        return [request for request in self.requests if request.path.startswith(path)]

    def _app(self) -> web.Application:
        routes = ConsulRoutes(self.agent)
        app = web.Application(middlewares=[self._recorded, routes.faulty])
        app.add_routes(routes.table())
        return app

    @web.middleware
    async def _recorded(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        self.requests.append(Request(at=time.monotonic(), method=request.method, path=request.path))
        return await handler(request)
