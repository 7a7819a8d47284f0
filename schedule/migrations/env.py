"""Alembic's entry point."""

from eventstream.migrate import run_env
from schedule.tables import metadata

run_env(metadata)
