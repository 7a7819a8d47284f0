"""Content codings: gzip, for who takes it and where it pays (RFC 9110 §8.4, §12.5.3).

Event streams are never coded: an event must not wait for the next one to fill a block.
"""

import gzip
from functools import lru_cache
from typing import Final

from gateway_bff.negotiation import qualities

SMALLEST: Final = 1024  # bytes: what is shorter fits a packet as it is
_LEVEL: Final = 3  # as fast as 1 on such JSON and shorter; from 4 on twice as slow


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """True where gzip is taken, and at least as gladly as no coding."""
    named = qualities(accept_encoding)
    wanted = named.get("gzip", named.get("x-gzip", named.get("*", 0.0)))
    return wanted > 0 and wanted >= named.get("identity", 0.0)


def gzipped(body: bytes) -> bytes:
    """The body in gzip; equal bodies are equal bytes."""
    return gzip.compress(body, _LEVEL, mtime=0)
