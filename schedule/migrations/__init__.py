"""The schema of schedule's database, step by step."""
