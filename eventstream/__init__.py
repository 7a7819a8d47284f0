"""Durable streams over gRPC: transactional outbox, resumable watch with snapshot, inbox, leases."""

from eventstream.columns import UtcDateTime
from eventstream.database import Database
from eventstream.dialects import insert_into
from eventstream.errors import (
    STATUS_CODES,
    DatabaseBusyError,
    DatabaseClosedError,
    LeaseLostError,
    PositionMovedError,
    SlowReaderError,
    StorageUnavailableError,
    StreamBrokenError,
)
from eventstream.outbox import Outbox
from eventstream.urls import database_url

__all__ = [
    "STATUS_CODES",
    "Database",
    "DatabaseBusyError",
    "DatabaseClosedError",
    "LeaseLostError",
    "Outbox",
    "PositionMovedError",
    "SlowReaderError",
    "StorageUnavailableError",
    "StreamBrokenError",
    "UtcDateTime",
    "database_url",
    "insert_into",
]
