"""Itinerary search out of a read model that follows schedule's and pricing's streams."""

__version__ = "0.1.0"
