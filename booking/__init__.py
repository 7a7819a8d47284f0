"""The booking service: bookings and the saga that makes them."""

__version__ = "0.1.0"
