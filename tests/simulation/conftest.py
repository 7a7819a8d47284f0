from tests.chaos.conftest import _figures

__all__ = ["_figures"]
