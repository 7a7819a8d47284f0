"""The instances of a service as Consul lists them, and which of them to believe in."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MAINTENANCE = "_service_maintenance:"


class Status(StrEnum):
    """The worst of an instance's checks, as Consul names it."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One registered instance; `weight` is the one of its status, from its registration."""

    id: str
    address: str
    port: int
    weight: int
    version: str
    status: Status
    meta: Mapping[str, str]

    @property
    def usable(self) -> bool:
        """Whether calls may be sent to it: neither critical, in maintenance nor weightless."""
        return self.status is not Status.CRITICAL and self.weight > 0
