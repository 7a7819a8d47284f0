"""Whether a canary fails more calls than the stable version, by what their instances count.

Every server counts the calls that it answered, by method and status (`/metrics`, on the port that
Meta `metrics_port` names). Counted is what was added since the first look; a process that was
restarted begins anew.
"""

import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import sqrt
from typing import Any, Final, Self

from prometheus_client.parser import text_string_to_metric_families

FAMILY: Final = "rpc_server_call_duration_seconds"
FAULTS: Final = frozenset(
    {
        "UNKNOWN",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)
"""What is the server's fault; other codes tell clients of theirs, whatever the version."""

_NOT_OURS: Final = ("grpc.", "xds.", "envoy.")  # health, load and the like: no user asks
_PATIENCE: Final = 2.0  # seconds for an answer
_CERTAIN: Final = 2.33  # standard deviations: one canary in a hundred looks that bad by chance


@dataclass(frozen=True, slots=True)
class Tally:
    """Calls that were answered, and how many of them are the server's fault."""

    calls: float = 0.0
    errors: float = 0.0

    def __add__(self, other: Self) -> "Tally":
        return Tally(self.calls + other.calls, self.errors + other.errors)

    def __sub__(self, other: Self) -> "Tally":
        return Tally(self.calls - other.calls, self.errors - other.errors)

    def __str__(self) -> str:
        return f"{self.errors:.0f} of {self.calls:.0f} calls ({self.share:.1%})"

    @property
    def share(self) -> float:
        """The part of the calls that failed."""
        return self.errors / self.calls if self.calls else 0.0

    @property
    def surely(self) -> float:
        """What the share is at least, with so few calls (Wilson's lower bound)."""
        if not self.calls:
            return 0.0
        n, z = self.calls, _CERTAIN
        spread = z * sqrt(self.share * (1 - self.share) / n + z * z / (4 * n * n))
        return max(0.0, (self.share + z * z / (2 * n) - spread) / (1 + z * z / n))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When a canary is judged, and what it may do."""

    lasting: timedelta = timedelta(minutes=5)
    window: timedelta = timedelta(minutes=1)
    interval: timedelta = timedelta(seconds=1)
    min_calls: int = 50
    margin: float = 0.01  # a share of failing calls above that of the stable version


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One instance of one start; `url` is of its metrics."""

    key: tuple[str, str]
    version: str
    passing: bool
    url: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Process":
        """Read one element of Consul's health endpoint."""
        service = entry["Service"]
        meta = service.get("Meta") or {}
        address = service["Address"] or entry["Node"]["Address"]
        host = f"[{address}]" if ":" in address else address
        port = meta.get("metrics_port")
        return cls(
            key=(service["ID"], meta.get("start_time", "")),
            version=meta.get("version", ""),
            passing=all(check["Status"] == "passing" for check in entry["Checks"]),
            url=f"http://{host}:{port}/metrics" if port else "",
        )


def counted(text: str) -> Tally:
    """The calls in a scrape."""
    tally = Tally()
    for family in text_string_to_metric_families(text):
        if family.name != FAMILY:
            continue
        for sample in family.samples:
            method = sample.labels.get("rpc_method", "")
            if sample.name == f"{FAMILY}_count" and not method.startswith(_NOT_OURS):
                fault = sample.labels["rpc_response_status_code"] in FAULTS
                tally += Tally(sample.value, sample.value if fault else 0.0)
    return tally


def scrape(url: str) -> Tally | None:
    """What a process counted so far; None where it does not say."""
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310 - of an instance that Consul lists
            return counted(answer.read().decode())
    except (OSError, ValueError):
        return None


class Comparison:
    """The calls of each version within the last while.

    All mutable state: each process's last count, and what was added when, the oldest first.
    """

    def __init__(
        self,
        window: timedelta,
        *,
        scrape: Callable[[str], Tally | None] = scrape,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window.total_seconds()
        self._scrape = scrape
        self._clock = clock
        self._last: dict[tuple[str, str], Tally] = {}
        self._added: deque[tuple[float, str, Tally]] = deque()

    def look(self, processes: Iterable[Process]) -> None:
        """Ask every process how many calls it has answered."""
        for process in processes:
            tally = self._scrape(process.url) if process.url else None
            if tally is None:
                continue
            added = tally - self._last.get(process.key, tally)
            self._last[process.key] = tally
            if added.calls > 0:
                self._added.append((self._clock(), process.version, added))
        while self._added and self._added[0][0] < self._clock() - self._window:
            self._added.popleft()

    def of(self, version: str) -> Tally:
        """The calls of a version."""
        return sum((added for _, whose, added in self._added if whose == version), Tally())


def is_worse(canary: Tally, stable: Tally, terms: Terms) -> bool:
    """Whether a canary fails more than it may, beyond what so few calls show by chance."""
    return canary.calls >= terms.min_calls and canary.surely > stable.share + terms.margin
