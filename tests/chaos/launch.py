"""What it takes to run a service as a process, in a form that travels."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things take in these services, in seconds: shorter than in production.

    `lease` and `patience` are those of sagas, `hold` how long seats are set aside, `takeover` how
    long a dead holder of a lease is waited for.
    """

    lease: float = 1.0
    patience: float = 20.0
    hold: float = 600.0
    takeover: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """An instance of a service: where it serves and keeps its files, and whom it calls.

    `url` is its database's; `targets` are gRPC's, by upstream; `environ` is added to an environment
    without any of the project's variables; `first_day` is the ordinal of the day at which the tiny
    timetable begins.
    """

    service: str
    slot: int
    port: int
    folder: str
    url: str
    targets: Mapping[str, str]
    first_day: int
    environ: Mapping[str, str] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)

    def dump(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """From text."""
        values = json.loads(text)
        return cls(**values | {"pace": Pace(**values["pace"])})
