"""The public door: REST and server-sent events in front of the mesh."""

__version__ = "0.1.0"
