"""Bring a version of a service to its users: `python -m tools.release COMMAND SERVICE …`.

Versions are those that instances have in Consul's Meta. Every command writes Consul's config
entries (rollout.py), and refuses what would leave calls without an instance or change what an
operator wrote.
"""
