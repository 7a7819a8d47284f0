"""Durable streams over gRPC: transactional outbox, resumable watch with snapshot, inbox, leases."""

from eventstream.columns import UtcDateTime
from eventstream.database import Database
from eventstream.dead_letters import DeadLetter
from eventstream.dialects import insert_into
from eventstream.errors import (
    STATUS_CODES,
    DatabaseBusyError,
    DatabaseClosedError,
    LeaseLostError,
    PositionMovedError,
    StorageUnavailableError,
    StreamBrokenError,
)
from eventstream.feed import Batch, Feed
from eventstream.follower import Follower, Inbox, WatchResponse
from eventstream.inbox import InboxTables, SqlInbox
from eventstream.lease import Lease, LeaseTable
from eventstream.outbox import Head, Outbox
from eventstream.retention import Retention, trim_forever
from eventstream.urls import database_url

__all__ = [
    "STATUS_CODES",
    "Batch",
    "Database",
    "DatabaseBusyError",
    "DatabaseClosedError",
    "DeadLetter",
    "Feed",
    "Follower",
    "Head",
    "Inbox",
    "InboxTables",
    "Lease",
    "LeaseLostError",
    "LeaseTable",
    "Outbox",
    "PositionMovedError",
    "Retention",
    "SqlInbox",
    "StorageUnavailableError",
    "StreamBrokenError",
    "UtcDateTime",
    "WatchResponse",
    "database_url",
    "insert_into",
    "trim_forever",
]
