"""What all tests may use."""

from hypothesis import settings

from tests.databases import database_url, databases, durable_postgres, engine, postgres

__all__ = ["database_url", "databases", "durable_postgres", "engine", "postgres"]

# a slow machine breaks no property
settings.register_profile("flightmesh", deadline=None)
settings.load_profile("flightmesh")
