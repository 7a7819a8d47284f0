"""Alembic's entry: the schema of the booking service."""

from booking.tables import metadata
from eventstream.migrate import run_env

run_env(metadata)
