"""An event loop on virtual time that runs several simulated processes, each of which can die.

Nothing waits: when no callback is ready the clock jumps to the next timer. Every callback belongs
to the process that asked for it. Those of a frozen process are kept and run, in order, when it
thaws. A dead process is one that never thaws: not even a `finally` of its tasks runs.

Determinism: callbacks run in the order they were scheduled in, and a task's hash is its number, so
that sets of tasks have the same order in every run.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Final, TypeVarTuple, Unpack

_Ts = TypeVarTuple("_Ts")

_PRUNED_AT: Final = 500
"""Tasks of a process: beyond so many, those that are done are forgotten."""
_PATIENCE: Final = 60
"""How often tasks are asked to end, a second apart."""


class StuckError(Exception):
    """Everybody waits for something that nobody will do."""


class Process:
    """One incarnation of a simulated process.

    `skew` is how far its wall clock is ahead, in seconds. A process that was killed comes back as
    another `Process` of the same name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.skew = 0.0
        self.tasks: list[asyncio.Task[Any]] = []
        self.backlog: list[_Entry] = []
        self._pruned_at = _PRUNED_AT

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "alive" if self.alive else "dead"
        return f"<Process {self.name} {state}>"

    def owns(self, task: asyncio.Task[Any]) -> None:
        """Keep a task: what a dead process was doing must not be collected, and so be ended."""
        if len(self.tasks) >= self._pruned_at:
            self.tasks = [one for one in self.tasks if not one.done()]
            self._pruned_at = 2 * len(self.tasks) + _PRUNED_AT
        self.tasks.append(task)


class _Entry:
    """A callback and whose it is; what the loop calls."""

    __slots__ = ("args", "callback", "context", "handle", "loop", "process")

    def __init__(
        self,
        loop: "VirtualLoop",
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        self.loop = loop
        self.process = loop.process
        self.callback = callback
        self.args = args
        self.context = copy_context() if context is None else context  # an empty one is false
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        process = self.process
        if self.handle is not None and self.handle.cancelled():
            return
        if process.frozen or not process.alive:
            process.backlog.append(self)
            return
        self.loop.process = process
        self.callback(*self.args)


class _Task(asyncio.Task[Any]):
    """A task with a number for a hash."""

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number  # before the task is put into sets
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _NoWaiting(selectors.SelectSelector):
    """Advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError("no timer is left and nothing is ready")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `process` is whose callback runs now, `world` the one that nothing happens to."""

    def __init__(self) -> None:
        self._clock = _NoWaiting()
        self.world = Process("world")
        self.process = self.world
        super().__init__(self._clock)
        self._numbers = count(1)
        self.set_task_factory(self._task)

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._clock.now

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call back in the process that runs now."""
        entry = _Entry(self, callback, args, context)
        entry.handle = super().call_soon(entry, context=entry.context)
        return entry.handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """The same: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at an instant, in the process that runs now."""
        entry = _Entry(self, callback, args, context)
        entry.handle = timer = super().call_at(when, entry, context=entry.context)
        return timer

    def run_in_executor(  # type: ignore[override]  # a future, as the caller sees it
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call it at once, on this thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future

    def enter(self, process: Process, callback: Callable[..., object], *args: Any) -> None:
        """Call back soon in another process: how a message, or a signal, arrives."""
        before, self.process = self.process, process
        try:
            self.call_soon(callback, *args, context=Context())
        finally:
            self.process = before

    def spawn(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of another process."""
        before, self.process = self.process, process
        try:
            return self.create_task(work, context=Context())
        finally:
            self.process = before

    def kill(self, process: Process) -> None:
        """Let none of its callbacks run any more."""
        process.alive = False

    async def bury(self, process: Process) -> None:
        """End the tasks of a process, dead or alive, once what they still do can't matter."""
        process.alive = True
        self.thaw(process)
        for _ in range(_PATIENCE):
            left = [task for task in process.tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.sleep(1)
        raise StuckError(f"tasks of {process.name} that can't be cancelled: {left}")

    def freeze(self, process: Process) -> None:
        """Keep its callbacks until it thaws."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        """Run what it should have done meanwhile."""
        process.frozen = False
        backlog, process.backlog = process.backlog, []
        for entry in backlog:
            super().call_soon(entry, context=entry.context)

    def _task(
        self,
        _loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        task = _Task(next(self._numbers), coroutine, loop=self, **options)  # type: ignore[arg-type]  # nobody passes generators
        self.process.owns(task)
        return task
