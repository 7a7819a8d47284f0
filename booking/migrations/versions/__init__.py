"""Released steps of the schema: never changed, only added to."""
