"""What all tests may use."""

from tests.databases import database_url, databases, durable_postgres, engine, postgres

__all__ = ["database_url", "databases", "durable_postgres", "engine", "postgres"]
