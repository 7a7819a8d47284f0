"""What can go wrong in a durable stream, and the gRPC status of it at a service's edge."""

from collections.abc import Mapping
from typing import Final

import grpc


class StorageUnavailableError(Exception):
    """The database can't be used now: locked for too long, disk full, unreadable.

    Raised out of a commit it says that the outcome is unknown, as after any lost answer.
    """

    reason = "STORAGE_UNAVAILABLE"


class DatabaseClosedError(Exception):
    """The database was closed: the process drains."""

    reason = "DRAINING"


class DatabaseBusyError(StorageUnavailableError):
    """Too many units wait for the writer: this one was refused before it was queued."""

    reason = "DATABASE_BUSY"


class StreamBrokenError(Exception):
    """What arrived on a stream does not continue what arrived before; nothing of it was applied."""


class PositionMovedError(Exception):
    """The stored position is not the one that was read: another consumer has moved it."""


class LeaseLostError(Exception):
    """Another process holds the lease now."""


STATUS_CODES: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    StorageUnavailableError: grpc.StatusCode.UNAVAILABLE,
    DatabaseClosedError: grpc.StatusCode.UNAVAILABLE,
    DatabaseBusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""For a service to merge into its own table."""
