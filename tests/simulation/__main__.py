"""Runs simulations: `python -m tests.simulation --seed 4711 --trace`, or `--seeds 1-1000`."""

import argparse
import sys
import time
from collections.abc import Sequence

from tests.simulation.mutants import MUTANTS
from tests.simulation.pool import replay, simulate_all
from tests.simulation.world import OPERATIONS, Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 where no seed broke a promise."""
    asked = _parser().parse_args(arguments)
    seeds = [asked.seed] if asked.seed is not None else asked.seeds
    workers = 1 if len(seeds) == 1 else asked.workers
    began = time.perf_counter()
    broken = 0
    for report in simulate_all(seeds, asked.operations, asked.mutant, workers=workers):
        broken += not report.holds
        if asked.trace:
            print(*report.trace, sep="\n")
        if asked.trace or not report.holds or len(seeds) == 1:
            print(_account(report, asked.operations, asked.mutant))
    print(f"{len(seeds)} seeds, {broken} broken, {time.perf_counter() - began:.0f} s")
    return 1 if broken else 0


def _account(report: Report, operations: int, mutant: str | None) -> str:
    doings = ", ".join(f"{what} {count}" for what, count in sorted(report.done.items()))
    judged = ", ".join(f"{count} {what}" for what, count in report.judged.items())
    lines = [
        f"seed {report.seed}: {report.seconds:.1f} simulated seconds, trace {report.digest[:12]}",
        f"  {doings}",
        f"  {judged}",
        *(f"  BROKEN {violation}" for violation in report.violations),
    ]
    if not report.holds:
        lines.append(f"  replay: {replay(report.seed, operations, mutant)} --trace")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one seed, with an account of it")
    which.add_argument("--seeds", type=_range, help="many: FIRST-LAST")
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--mutant", choices=MUTANTS, help="with a bug planted")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    return parser


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


if __name__ == "__main__":
    sys.exit(main())
