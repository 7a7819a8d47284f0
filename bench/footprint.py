"""What the idle system costs: `python -m bench.footprint --seconds 20`.

Resident memory of each process, and the share of a core that it uses.
"""

import argparse
import asyncio

import psutil

from bench.subject import Subject
from tools.programs import Settings


def cpu_seconds(process: psutil.Process) -> float:
    """CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    async with Subject.attach(Settings()) as subject:
        processes = {name: psutil.Process(subject.pid(name)) for name in subject.memory()}
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        await asyncio.sleep(seconds)
        used = {name: cpu_seconds(process) - before[name] for name, process in processes.items()}
        memory = subject.memory()
    print(f"{'process':18} {'MiB':>6} {'CPU %':>6} {'threads':>7}")
    for name, process in processes.items():
        share = 100 * used[name] / seconds
        print(f"{name:18} {memory[name]:6.0f} {share:6.2f} {process.num_threads():7}")
    print(f"{'all':18} {sum(memory.values()):6.0f} {100 * sum(used.values()) / seconds:6.2f}")


if __name__ == "__main__":
    asyncio.run(main())
