"""The schema of the pricing database, as Alembic runs it."""
