import asyncio
from collections.abc import Iterator

import pytest

from tests.simulation.loop import Process, StuckError, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """A loop that is closed in the end."""
    made = VirtualLoop()
    yield made
    made.close()


def ticking(loop: VirtualLoop, process: Process) -> list[float | str]:
    """What a process does every second, and in the end."""
    log: list[float | str] = []

    async def tick() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                log.append(loop.time())
        finally:
            log.append("end")

    loop.spawn(process, tick())
    return log


def test_waiting_takes_no_time(loop: VirtualLoop) -> None:
    """A day goes by at once."""
    loop.run_until_complete(asyncio.sleep(86_400))

    assert loop.time() == 86_400


def test_a_dead_process_does_nothing_more(loop: VirtualLoop) -> None:
    """Not even the `finally` of its tasks runs, until it is buried."""
    process = Process("mortal")
    log = ticking(loop, process)
    loop.run_until_complete(asyncio.sleep(2.5))
    loop.kill(process)
    loop.run_until_complete(asyncio.sleep(10))
    before_the_funeral = log.copy()
    loop.run_until_complete(loop.bury(process))

    assert before_the_funeral == [1, 2]
    assert log[-1] == "end"


def test_a_frozen_process_goes_on_where_it_stopped(loop: VirtualLoop) -> None:
    """What came due meanwhile is done when it thaws."""
    process = Process("frozen")
    log = ticking(loop, process)
    loop.run_until_complete(asyncio.sleep(1.5))
    loop.freeze(process)
    loop.run_until_complete(asyncio.sleep(5))
    while_frozen = log.copy()
    loop.thaw(process)
    loop.run_until_complete(asyncio.sleep(1.2))
    loop.run_until_complete(loop.bury(process))

    assert while_frozen == [1]
    assert log[1:3] == [6.5, 7.5]


def test_a_timeout_that_was_left_in_time_does_not_fire_after_a_thaw(loop: VirtualLoop) -> None:
    """A timer that came due in the freezer can still be cancelled by what runs before it."""
    process = Process("frozen")
    came = asyncio.Event()
    outcome: list[str] = []

    async def wait() -> None:
        try:
            async with asyncio.timeout(3):
                await came.wait()
                outcome.append("came")
        except TimeoutError:
            outcome.append("too late")

    loop.spawn(process, wait())
    loop.run_until_complete(asyncio.sleep(1))
    loop.freeze(process)
    loop.enter(process, came.set)
    loop.run_until_complete(asyncio.sleep(5))
    loop.thaw(process)
    loop.run_until_complete(asyncio.sleep(1))

    assert outcome in (["came"], ["too late"])
    assert len(outcome) == 1


def test_a_world_without_timers_is_stuck(loop: VirtualLoop) -> None:
    """Waiting for what nobody will do is an error, not a hang."""
    with pytest.raises(StuckError):
        loop.run_until_complete(asyncio.Event().wait())


def test_sets_of_tasks_have_an_order(loop: VirtualLoop) -> None:
    """The hash of a task is its number, wherever it lies in memory."""

    async def hashes() -> list[int]:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(3)]
        await asyncio.gather(*tasks)
        return [hash(task) for task in tasks]

    first, *following = loop.run_until_complete(hashes())

    assert following == [first + 1, first + 2]
