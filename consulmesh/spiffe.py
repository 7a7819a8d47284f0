"""Names of services in certificates (SPIFFE ids), as Consul's CA writes them."""

import re
from dataclasses import dataclass
from typing import Final, Self

_SPIFFE: Final = re.compile(
    r"spiffe://(?P<domain>[^/]+)/ns/default/dc/(?P<datacenter>[^/]+)/svc/(?P<service>[^/]+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeId:
    """The name of a service in a certificate, as Consul's CA writes it."""

    domain: str
    datacenter: str
    service: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a URI; raises ValueError where it names no service of Consul's default namespace."""
        if (match := _SPIFFE.fullmatch(uri)) is None:
            raise ValueError(f"{uri!r} is no SPIFFE id of a service")
        return cls(**match.groupdict())

    def __str__(self) -> str:
        return f"spiffe://{self.domain}/ns/default/dc/{self.datacenter}/svc/{self.service}"
