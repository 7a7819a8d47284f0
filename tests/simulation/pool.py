"""Many seeds on several processes; each seed is the same wherever it runs."""

import gc
import logging
import multiprocessing
from collections.abc import Generator, Sequence
from functools import partial

import structlog

from tests.simulation.disk import prepare
from tests.simulation.mutants import planted
from tests.simulation.world import OPERATIONS, Report, simulate


def simulate_all(
    seeds: Sequence[int],
    operations: int = OPERATIONS,
    mutant: str | None = None,
    *,
    workers: int = 2,
) -> Generator[Report]:
    """Run seeds and yield their reports in order; with `mutant`, all with that bug planted.

    Who has seen enough closes it: seeds that are under way are given up.
    """
    run = partial(_simulate, operations=operations, mutant=mutant)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(workers, initializer=_begin) as pool:
        yield from pool.imap(run, seeds)


def replay(seed: int, operations: int = OPERATIONS, mutant: str | None = None) -> str:
    """The command that runs a seed again, exactly."""
    command = f"python -m tests.simulation --seed {seed}"
    if operations != OPERATIONS:
        command += f" --operations {operations}"
    return command if mutant is None else f"{command} --mutant {mutant}"


def _begin() -> None:
    """Load what all seeds need: nothing of it is part of a run."""
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)
    prepare()
    gc.freeze()


def _simulate(seed: int, operations: int, mutant: str | None) -> Report:
    with planted(mutant):
        report = simulate(seed, operations=operations)
    gc.collect()
    return report
