"""Being known in Consul for as long as one serves.

Registration goes through py-consul; the guard is a blocking query on the agent's own record of
this instance, which answers within milliseconds when the agent no longer has it.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Never, Self

import requests
import structlog
from consul.exceptions import ConsulException
from consul.std import Consul

from consulmesh.consul_api import Answer, ConsulApi, ConsulError, Query
from consulmesh.registration import Registration
from consulmesh.watch import WAIT, Pace

CALL_TIMEOUT = timedelta(seconds=2)
LEAVE_TIMEOUT = timedelta(seconds=1)

log = structlog.get_logger()


class Announcement:
    """Keeps one registration alive from entering the context to leaving it.

    Entering never waits for Consul. An agent that is away, or has forgotten the instance, is told
    within 5 s of its return, and then as passing: the instance served all the time, callers kept
    it meanwhile, and a critical start would take it from them. An id that somebody else registers
    anew is reported and left alone: two processes that fight for an id help nobody.

    All mutable state: whether the agent was ever told, the hash of what it knows of us, and
    whether it failed to answer last time.
    """

    def __init__(self, consul: ConsulApi, registration: Registration) -> None:
        self.registration = registration
        self.registered = asyncio.Event()
        self._consul = consul
        self._query = Query.agent_service(registration.id)
        self._told = False
        self._hash = ""
        self._failing = False
        self._pace = Pace()
        self._guard: asyncio.Task[Never] | None = None
        # One thread, so that a deregistration cannot overtake a registration still under way.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="consul")

    def __repr__(self) -> str:
        return f"Announcement({self.registration.id!r}, registered={self.registered.is_set()})"

    async def __aenter__(self) -> Self:
        self._guard = asyncio.create_task(
            self._keep(), name=f"announce {self.registration.id}", context=contextvars.Context()
        )
        self._guard.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Deregister, in bounded time whatever state Consul is in; may be called twice."""
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        guard.cancel()
        await asyncio.wait([guard])
        self.registered.clear()
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT.total_seconds()):
                await self._administer(self.registration.withdraw, LEAVE_TIMEOUT)
        except (ConsulError, TimeoutError) as error:
            log.warning("consul_deregistration_failed", id=self.registration.id, error=str(error))
        finally:
            self._thread.shutdown(wait=False)

    async def _keep(self) -> Never:
        while True:
            self._pace.begin()
            try:
                pause = await self._turn()
            except ConsulError as error:
                pause = self._failed(error)
            await asyncio.sleep(pause)

    async def _turn(self) -> float:
        """Tell the agent if it must be told, then wait until its record of us changes."""
        if not self._told:
            await self._tell(proven=False)
        began = time.monotonic()
        answer = await self._ask()
        if answer.data is None:
            log.warning("consul_forgot_registration", id=self.registration.id)
            await self._tell(proven=True)
            answer = await self._ask()
        if answer.data is None:
            return self._pace.nonsense()
        if answer.content_hash != self._hash:
            self._known(answer)
            return self._pace.progress()
        waited = time.monotonic() - began >= WAIT.total_seconds()
        return self._pace.progress() if waited else self._pace.nothing(advanced=False)

    async def _ask(self) -> Answer:
        return await self._consul.ask(self._query, content_hash=self._hash, wait=WAIT)

    async def _tell(self, *, proven: bool) -> None:
        self.registered.clear()
        self._hash = ""
        tell = partial(self.registration.tell, proven=proven)
        await self._administer(tell, CALL_TIMEOUT)
        self._told = True

    def _known(self, answer: Answer) -> None:
        self._hash = answer.content_hash
        self._failing = False
        listed = answer.data["Address"], answer.data["Port"]
        if listed != (self.registration.address, self.registration.port):
            log.error("consul_registration_taken", id=self.registration.id, by=listed)
        elif not self.registered.is_set():
            log.info("consul_registered", id=self.registration.id, address=listed)
            self.registered.set()

    def _failed(self, error: ConsulError) -> float:
        if not self._failing:
            log.warning("consul_unreachable", id=self.registration.id, error=str(error))
        self._failing = True
        self._hash = ""
        return self._pace.failure()

    def _ended(self, guard: asyncio.Task[Never]) -> None:
        if not guard.cancelled() and (error := guard.exception()):
            log.error("consul_announcement_died", id=self.registration.id, exc_info=error)

    async def _administer(self, call: Callable[[Consul], object], limit: timedelta) -> None:
        """Make one call of py-consul, off the event loop; raises ConsulError."""

        def work() -> None:
            with self._consul.administration(limit) as client:
                call(client)

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (ConsulException, requests.RequestException) as error:
            raise ConsulError(f"{type(error).__name__}: {error}") from error
