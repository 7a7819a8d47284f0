"""Tries dead letters again, each when it is due."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Never

import structlog

from eventstream import metrics
from eventstream.inbox import SqlInbox

_log = structlog.get_logger()

_LOOK_AGAIN: Final = timedelta(minutes=1)
"""A wall clock may be set, and another process may have replayed letters."""


async def retry_forever(inbox: SqlInbox[Any], *, look_again: timedelta = _LOOK_AGAIN) -> Never:
    """Apply an inbox's dead letters when they are due. Ends by cancellation only.

    To be run beside the inbox's follower, under the same lease. That spares the work of several
    processes; correct it is without, as a letter is applied within the unit that finds it there.
    """
    longest = look_again.total_seconds()
    try:
        while True:
            inbox.letters_changed.clear()
            left = await _retry(inbox)
            with suppress(TimeoutError):
                async with asyncio.timeout(longest if left is None else min(left, longest)):
                    await inbox.letters_changed.wait()
    finally:
        metrics.DEAD_LETTERS.remove(inbox.source)  # whoever leads now counts them


async def _retry(inbox: SqlInbox[Any]) -> float | None:
    try:
        return await inbox.retry_due()
    except Exception:  # noqa: BLE001 - a watch loop: loud, then the same again
        _log.exception("dead_letters_not_retried", source=inbox.source)
        return None
