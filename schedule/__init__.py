"""The timetable, the dated flights, and their seats."""

__version__ = "0.1.0"
