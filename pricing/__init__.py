"""Fares and quotes: what a flight costs now, and prices that hold. All prices are synthetic."""

__version__ = "0.1.0"
