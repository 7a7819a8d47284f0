"""The schema of the booking database, as Alembic runs it."""
