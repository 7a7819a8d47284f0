"""Durable streams over gRPC: transactional outbox, resumable watch with snapshot, inbox, leases.

The owner of some rows writes each change and its event in one transaction, and serves a Watch RPC:

    OUTBOX = Outbox(METADATA, "schedule")

    async with Database.open(url, migrations="schedule:migrations") as db:
        await db.write(lambda c: (change(c), OUTBOX.append(c, key, event.SerializeToString(), now)))
        feed = Feed(db, OUTBOX, event=FlightEvent, snapshot=rows_after)
        async for batch in feed.watch(request.cursor if request.HasField("cursor") else None):
            yield WatchFlightsResponse(
                phase=batch.phase,
                cursor=batch.cursor,
                events=batch.events,
                read_time=batch.read_time,
            )

Who wants a copy follows it into an inbox, where events and position are one transaction too:

    inbox = SqlInbox(db, InboxTables(METADATA, "pricing"), "schedule", key=…, apply=…, …)
    ask = lambda cursor: WatchFlightsRequest(cursor=cursor)
    watch = lambda cursor: stub.WatchFlights(ask(cursor), wait_for_ready=True)
    follower = Follower("schedule", watch, inbox)
    mesh.start(follower.run(), name="follow schedule")
    mesh.start(retry_forever(inbox), name="retry dead letters")
    await follower.caught_up.wait()

What holds: sequence numbers are gapless and in commit order; a reader continues at any cursor that
is kept, and gets a snapshot otherwise, never a gap; half a snapshot is never a position; events are
absolute and versioned, so seeing one again changes nothing.

A name is imported when it is first asked for: a consumer with a store of its own uses `Follower`,
and need not pay 16 MB and a fifth of a second for SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventstream.admin import InboxServicer, add_inbox_service
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
    from eventstream.parts import part_end
    from eventstream.retention import Retention, trim_forever
    from eventstream.retries import retry_forever
    from eventstream.steps import Step
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
    "InboxServicer",
    "InboxTables",
    "Lease",
    "LeaseLostError",
    "LeaseTable",
    "Outbox",
    "PositionMovedError",
    "Retention",
    "SqlInbox",
    "Step",
    "StorageUnavailableError",
    "StreamBrokenError",
    "UtcDateTime",
    "WatchResponse",
    "add_inbox_service",
    "database_url",
    "insert_into",
    "part_end",
    "retry_forever",
    "trim_forever",
]

_MODULES = {
    "admin": ("InboxServicer", "add_inbox_service"),
    "columns": ("UtcDateTime",),
    "database": ("Database",),
    "dead_letters": ("DeadLetter",),
    "dialects": ("insert_into",),
    "errors": (
        "STATUS_CODES",
        "DatabaseBusyError",
        "DatabaseClosedError",
        "LeaseLostError",
        "PositionMovedError",
        "StorageUnavailableError",
        "StreamBrokenError",
    ),
    "feed": ("Batch", "Feed"),
    "follower": ("Follower", "Inbox", "WatchResponse"),
    "inbox": ("InboxTables", "SqlInbox"),
    "lease": ("Lease", "LeaseTable"),
    "outbox": ("Head", "Outbox"),
    "parts": ("part_end",),
    "retention": ("Retention", "trim_forever"),
    "retries": ("retry_forever",),
    "steps": ("Step",),
    "urls": ("database_url",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # to a type checker a name that is not there must be an error

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
