"""Hears of other processes' commits from PostgreSQL, on a connection of its own."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final, Never

import psycopg
import structlog

_log = structlog.get_logger()

_CHANNEL: Final = "eventstream"
_FIRST_PAUSE: Final = 0.05  # seconds
_LONGEST_PAUSE: Final = 1.0


def notice(sender: str) -> str:
    """Return the command that tells all listeners of a database that `sender` has committed."""
    return f"NOTIFY {_CHANNEL}, '{sender}'"


async def listen(arguments: dict[str, Any], sender: str, told: Callable[[], None]) -> Never:
    """Call `told` at each notice of anybody but `sender`; ends by cancellation only.

    A connection that breaks is replaced; as something may have been missed, `told` is called once
    there is another.
    """
    ears = _Ears(arguments, sender, told)
    while True:
        try:
            await ears.open()
        except (psycopg.Error, OSError) as error:
            ears.broken(error)
        await asyncio.sleep(ears.pause())


class _Ears:
    """State: `_failures` in a row, for the pauses, and so that an outage is logged once."""

    def __init__(self, arguments: dict[str, Any], sender: str, told: Callable[[], None]) -> None:
        self._arguments = arguments
        self._sender = sender
        self._told = told
        self._failures = 0

    async def open(self) -> None:
        """Listen until the connection breaks, which is an error of psycopg."""
        connection = await psycopg.AsyncConnection.connect(**self._arguments)
        async with connection, aclosing(connection.notifies()) as notices:
            await connection.execute(f"LISTEN {_CHANNEL}")
            self._hears()
            async for heard in notices:
                if heard.payload != self._sender:
                    self._told()

    def _hears(self) -> None:
        if self._failures:
            _log.info("database_heard_again", attempts=self._failures)
        self._failures = 0
        self._told()

    def broken(self, error: Exception) -> None:
        """Remember a failure."""
        if not self._failures:
            _log.warning("database_not_heard", error=str(error))
        self._failures += 1

    def pause(self) -> float:
        """Seconds until the next attempt."""
        longest = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        return random.uniform(longest / 2, longest)  # noqa: S311 - only to spread processes
