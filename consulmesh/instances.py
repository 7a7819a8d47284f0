"""The instances of a service as Consul lists them, and which of them to believe in."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Self

MAINTENANCE = ("_service_maintenance:", "_node_maintenance")
REREGISTRATION_WINDOW = timedelta(seconds=40)
"""Until an agent that lost its state has told Consul of all instances again.

They tell the agent within 5 s of its return. Where one does so during a full sync, the agent's
anti-entropy is silent for 15 to 30 s (`retryFullSync` in Consul's agent/ae; met with 1.22).
"""


class Status(StrEnum):
    """The worst of an instance's checks, as Consul names it."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locality:
    """Where something runs, as Consul names it; "" is unknown."""

    region: str = ""
    zone: str = ""

    @classmethod
    def of(cls, said: Mapping[str, Any] | None) -> Self:
        """Read a `Locality` of Consul's API."""
        said = said or {}
        return cls(region=said.get("Region", ""), zone=said.get("Zone", ""))

    def told(self) -> dict[str, str]:
        """Write it as Consul's API does."""
        return {"Region": self.region, "Zone": self.zone}

    def distance(self, other: "Locality") -> int:
        """0 in one zone of one region, 1 in one region, else 2, also where one is unknown."""
        if not self.region or self.region != other.region:
            return 2
        return 0 if self.zone and self.zone == other.zone else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One registered instance; `weight` is the one its registration gives for its status."""

    id: str
    address: str
    port: int
    weight: int
    version: str
    status: Status
    meta: Mapping[str, str]
    locality: Locality = Locality()

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where it listens."""
        return self.address, self.port


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One entry of a health answer.

    `unproven`: critical without a reason, because no probe has run yet; Consul shows the reason
    of a probe that failed from the start only minutes later.
    """

    instance: Instance
    unproven: bool

    @property
    def usable(self) -> bool:
        """Whether calls may be sent to it: neither critical, in maintenance nor weightless."""
        return self.instance.status is not Status.CRITICAL and self.instance.weight > 0

    @property
    def identity(self) -> tuple[str, tuple[str, int]]:
        """What must be equal for two entries to mean the same process."""
        return self.instance.id, self.instance.endpoint

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Read one element of /v1/health/service."""
        service, checks = entry["Service"], entry["Checks"]
        status = _worst(check["Status"] for check in checks)
        meta = service.get("Meta") or {}
        instance = Instance(
            id=service["ID"],
            address=service["Address"] or entry["Node"]["Address"],
            port=service["Port"],
            weight=_weight(service.get("Weights") or {}, status),
            version=meta.get("version", ""),
            status=status,
            meta=meta,
            locality=Locality.of(service.get("Locality") or entry["Node"].get("Locality")),
        )
        return cls(instance=instance, unproven=_unproven(checks))


class Believed:
    """The usable instances of one target: those listed, and those that may only be forgotten.

    A single instance that deregisters is gone at once. But within the window after an interruption
    (an agent that lost its state answers with an empty list until the instances have told it
    again), or after a list of several was emptied at one stroke, instances that are absent or
    that are unproven stay, until they are listed, another takes their address, or the
    window is over. Keeping a dead one costs little: gRPC does not pick what it cannot connect to.

    All mutable state: the current set, the size of the last list, and the end of the window.
    """

    def __init__(
        self,
        window: timedelta = REREGISTRATION_WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window.total_seconds()
        self._clock = clock
        self._current: tuple[Instance, ...] = ()
        self._listed = 0
        self._until = float("-inf")

    def update(self, entries: Sequence[Listed], resumed_at: float) -> tuple[Instance, ...]:
        """Take a list that Consul gave, and when it last resumed answering; return the set."""
        self._until = max(self._until, resumed_at + self._window)
        if self._listed > 1 and not entries:
            self.open_window()
        self._listed = len(entries)
        usable = {listed.instance.endpoint: listed.instance for listed in entries if listed.usable}
        kept = self._forgotten(entries) if self._clock() < self._until else ()
        self._current = tuple(
            sorted([*usable.values(), *kept], key=lambda instance: instance.endpoint)
        )
        return self._current

    def open_window(self) -> None:
        """Believe no absence for the length of the window from now."""
        self._until = max(self._until, self._clock() + self._window)

    def uncertain_for(self, entries: Sequence[Listed]) -> float | None:
        """Seconds after which the same list would mean something else; None if it never would.

        0 where the window ended since `update`: what that kept must still be looked at again.
        """
        return max(0.0, self._until - self._clock()) if self._forgotten(entries) else None

    def _forgotten(self, entries: Sequence[Listed]) -> tuple[Instance, ...]:
        unproven = {listed.identity for listed in entries if listed.unproven}
        ids = {listed.instance.id for listed in entries}
        endpoints = {listed.instance.endpoint for listed in entries}
        return tuple(
            instance
            for instance in self._current
            if (instance.id, instance.endpoint) in unproven
            or (instance.id not in ids and instance.endpoint not in endpoints)
        )


def _worst(statuses: Iterable[str]) -> Status:
    found = set(statuses)
    if found <= {Status.PASSING}:
        return Status.PASSING
    return Status.WARNING if found <= {Status.PASSING, Status.WARNING} else Status.CRITICAL


def _weight(weights: Mapping[str, int], status: Status) -> int:
    return weights.get("Warning" if status is Status.WARNING else "Passing", 1)


def _unproven(checks: Iterable[Mapping[str, Any]]) -> bool:
    critical = [check for check in checks if check["Status"] == Status.CRITICAL]
    return bool(critical) and not any(
        check.get("Output") or check["CheckID"].startswith(MAINTENANCE) for check in critical
    )
