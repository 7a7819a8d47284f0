"""The figures of the fault rows, and the two sizes they come in.

A row is short in `make test` and as long as the scoreboard says in `make chaos`, which sets
`FLIGHTMESH_CHAOS=long`; what is asserted is the same.
"""

import os
from typing import Final

LONG: Final = os.environ.get("FLIGHTMESH_CHAOS") == "long"
"""Whether the rows have the scoreboard's sizes."""

SHARE: Final = float(os.environ.get("FLIGHTMESH_CHAOS_SHARE", "1"))
"""How much of the scoreboard's size the rows that take hours have: 0.1 for a tenth."""

_told: list[str] = []


def figure(row: str, text: str) -> None:
    """Tell the figure of a row ("S1"); printed when its test is over, also without `-s`."""
    _told.append(f"{row}: {text}")


def at_most(trials: int) -> str:
    """Say what no failure in so many trials is worth: a bound, at 95 %, on how often there is one.

    The rule of three: (1 - p)^n = 0.05 at p = 3/n.
    """
    return f"0 of {trials:,}, so <= {3 / trials:.2g} at 95 %"


def untold() -> list[str]:
    """Return the figures since the last time."""
    lines = _told.copy()
    _told.clear()
    return lines
