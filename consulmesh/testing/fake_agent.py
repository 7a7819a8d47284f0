"""The agent inside a fake Consul: its state, its probes, and what is wrong with it."""

import asyncio
import contextvars
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Never

from consulmesh.testing.consul_state import ConsulState, Registered
from consulmesh.testing.probes import probe_for_ever


class Fault(StrEnum):
    """What may be wrong with a Consul that listens at all."""

    ERRORS = "every request is answered with 500"
    HANGS = "no request is answered"
    EMPTY_LISTS = "every list is empty"
    INDEX_ZERO = "every answer comes at once, with index 0"
    INDEX_BACKWARDS = "every answer comes at once, with a lower index than the last"


class FakeAgent:
    """Answers what the routes ask; all mutable state is here and in `state`."""

    def __init__(self) -> None:
        self.state = ConsulState()
        self._fault: Fault | None = None
        self._backwards = 0
        self._probes: dict[str, list[asyncio.Task[Never]]] = {}

    @property
    def fault(self) -> Fault | None:
        """What is wrong now; setting it takes effect on requests that are waiting, too."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._backwards = self.state.index
        self.state.wake()

    def lose_state(self) -> None:
        """Forget everything and begin with low indexes again."""
        self.stop_probes(*self._probes)
        old, self.state = self.state, ConsulState()
        old.wake()

    def close(self) -> None:
        """Stop probing."""
        self.stop_probes(*self._probes)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition, the end of the time, another fault or the loss of the state."""
        state, fault = self.state, self._fault
        if fault in {Fault.INDEX_ZERO, Fault.INDEX_BACKWARDS}:
            return
        await state.until(
            lambda: condition() or self._fault is not fault or self.state is not state, seconds
        )

    async def answers_again(self) -> None:
        """Wait while nothing is answered."""
        while self._fault is Fault.HANGS:
            await self.until(lambda: False, 3600)

    def index_of(self, topic: str) -> int:
        """Return the index to show for a topic."""
        if self._fault is Fault.INDEX_ZERO:
            return 0
        if self._fault is Fault.INDEX_BACKWARDS:
            self._backwards = max(1, self._backwards - 1)
            return self._backwards
        return self.state.index_of(topic)

    def start_probes(self, registered: Registered) -> None:
        """Probe the checks of a registration from now on, in place of those it had before."""
        service_id = registered.service["ID"]
        self.stop_probes(service_id)
        self._probes[service_id] = [
            asyncio.create_task(
                probe_for_ever(check["Definition"], partial(self._probed, service_id, check_id)),
                context=contextvars.Context(),
            )
            for check_id, check in registered.checks.items()
            if check["Definition"]
        ]

    def stop_probes(self, *service_ids: str) -> None:
        """Probe them no longer."""
        for service_id in service_ids:
            for probe in self._probes.pop(service_id, ()):
                probe.cancel()

    def _probed(self, service_id: str, check_id: str, status: str, output: str) -> None:
        check = self.state.services[service_id].checks[check_id]
        if check["Status"] == status:
            return  # a new output alone is shown minutes later only (check_update_interval)
        self.state.set_check(service_id, {**check, "Status": status, "Output": output})
