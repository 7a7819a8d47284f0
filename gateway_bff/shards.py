"""Which shard of search a question goes to, where search is divided by the day of departure.

The rule is search's (flights/search/v1/search.proto); Consul's service-router sends calls by the
header to the instances of a shard.
"""

import datetime as dt
from typing import Final

HEADER: Final = "search-shard"
BLOCK_DAYS: Final = 14
_EPOCH: Final = dt.date(1970, 1, 1).toordinal()


def every(shards: int) -> list[tuple[tuple[str, str], ...]]:
    """What the calls carry that go to each of the shards."""
    return [((HEADER, str(shard)),) for shard in range(shards)] if shards > 1 else [()]


def headers(day: dt.date, shards: int) -> tuple[tuple[str, str], ...]:
    """What a call about a day carries; nothing where there is but one shard."""
    if shards == 1:
        return ()
    return ((HEADER, str((day.toordinal() - _EPOCH) // BLOCK_DAYS % shards)),)
