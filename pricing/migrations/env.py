"""Alembic's entry: the schema of the pricing service."""

from eventstream.migrate import run_env
from pricing.tables import metadata

run_env(metadata)
