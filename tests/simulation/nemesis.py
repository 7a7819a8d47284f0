"""What goes wrong, by chance: one mishap after another, several at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Final

from bench.checker import Recorder
from tests.simulation.clients import Doings
from tests.simulation.disk import SERVICES
from tests.simulation.fleet import Fleet, Instance
from tests.simulation.loop import Process
from tests.simulation.network import FAIR, Network, Weather

_HOUR: Final = 3_600.0
_STEPS: Final = (-24 * _HOUR, -_HOUR, -2.0, 2.0, _HOUR, 24 * _HOUR)
"""How far a clock is set off, in seconds."""
_STORMS: Final = (
    Weather(delay=0.02, lost=0.02, reset=0.05, late=0.02, twice=0.02),
    Weather(delay=0.005, lost=0.1, reset=0.1, late=0.1, twice=0.1),
    Weather(delay=0.3, twice=0.3),
    Weather(late=0.4),
    Weather(reset=0.5),
)
_EVERY: Final = 2.0  # seconds between two mishaps, on average


class Nemesis:
    """Does harm to the fleet and the network."""

    def __init__(self, fleet: Fleet, network: Network, recorder: Recorder, seed: str) -> None:
        self._fleet = fleet
        self._network = network
        self._recorder = recorder
        self._chance = Random(f"{seed}/nemesis")
        self._under_way: set[asyncio.Task[None]] = set()

    async def live(self, doings: Doings) -> None:
        """Do harm until there is nothing left to do; what was begun takes its course."""
        choices: Mapping[str, tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = {
            "kill": (3, self.kill),
            "kill at a unit": (6, self.kill_at_unit),
            "kill a service": (1, self.kill_service),
            "power failure": (1, self.power_failure),
            "freeze": (4, self.freeze),
            "leave": (2, self.leave),
            "clock": (3, self.clock),
            "isolate": (2, self.isolate),
            "storm": (5, self.storm),
            "ill disk": (2, self.ill_disk),
        }
        names, weights = list(choices), [weight for weight, _ in choices.values()]
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / _EVERY))
            if not doings.take(what := self._chance.choices(names, weights)[0]):
                break
            task = asyncio.create_task(choices[what][1]())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def end(self) -> None:
        """Make everything whole again."""
        for task in tuple(self._under_way):
            task.cancel()
        self._network.trace.note("all is made whole")
        self._network.heal()
        self._fleet.heal()

    async def kill(self) -> None:
        """Kill an instance and start it again after a while."""
        await self._kill([self._instance()], self._chance.choice((0.2, 2.0, 8.0)))

    async def kill_at_unit(self) -> None:
        """Kill an instance between a commit and its news, or just before the commit."""
        instance = self._instance()
        self._recorder.nemesis("kill at a unit", instance=instance.name)
        instance.kill_at_unit(committed=self._chance.random() < 0.5)
        await asyncio.sleep(self._seconds(0.5, 4))
        instance.start()

    async def kill_service(self) -> None:
        """Kill all instances of a service."""
        await self._kill(self._fleet.of(self._chance.choice(SERVICES)), self._seconds(0.5, 8))

    async def power_failure(self) -> None:
        """Kill everything; sometimes until holds and quotes have run out."""
        away = 660.0 if self._chance.random() < 0.3 else self._seconds(1, 5)
        await self._kill(list(self._fleet), away)

    async def freeze(self) -> None:
        """Stop an instance for a while, as the scheduler of an overloaded machine does."""
        instance = self._instance()
        process = instance.process
        instance.freeze()
        await asyncio.sleep(self._seconds(0.2, 15))
        if instance.process is process:
            instance.thaw()

    async def leave(self) -> None:
        """Stop an instance in order; its supervisor starts it again."""
        self._instance().leave()

    async def clock(self) -> None:
        """Set the clock of one machine, and later right again."""
        instance = self._instance()
        instance.set_clock(self._chance.choice(_STEPS))
        await asyncio.sleep(self._seconds(1, 30))
        instance.set_clock(0.0)

    async def isolate(self) -> None:
        """Cut a machine off the network for a while."""
        process = self._instance().process
        self._network.trace.note(f"{process.name} is cut off")
        self._network.isolate(process)
        await asyncio.sleep(self._seconds(1, 20))
        self._rejoin(process)

    async def storm(self) -> None:
        """Let messages be lost, late and doubled for a while."""
        self._network.weather = self._chance.choice(_STORMS)
        self._network.trace.note(f"{self._network.weather}")
        await asyncio.sleep(self._seconds(2, 12))
        self._network.weather = FAIR

    async def ill_disk(self) -> None:
        """Let a disk fail now and then, for a while."""
        disk = self._fleet.disks[self._chance.choice(SERVICES)]
        self._network.trace.note(f"the disk of {disk.service} fails")
        disk.ill = True
        await asyncio.sleep(self._seconds(0.2, 5))
        disk.ill = False

    async def _kill(self, instances: list[Instance], away: float) -> None:
        for instance in instances:
            self._recorder.nemesis("kill", instance=instance.name)
            instance.kill()
        await asyncio.sleep(away)
        for instance in instances:
            instance.start()
            await asyncio.sleep(self._seconds(0, 0.2))

    def _rejoin(self, process: Process) -> None:
        self._network.isolated.discard(process.name)
        self._network.trace.note(f"{process.name} is back on the network")

    def _instance(self) -> Instance:
        return self._chance.choice(self._fleet.instances)

    def _seconds(self, least: float, most: float) -> float:
        return self._chance.uniform(least, most)
