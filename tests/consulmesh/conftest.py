"""What all tests of the mesh may use."""

from tests.consulmesh.secured import authority

__all__ = ["authority"]
