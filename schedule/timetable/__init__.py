"""The timetable: real flights of 2013 on today's calendar, with derived returns, or invented ones.

replay = Replay(Airports.load())
with shipped() as lines:
    for day, flights in replay.days(Source(lines), window(today, 30)): ...
replay.report
"""

from schedule.timetable.airports import Airport, Airports
from schedule.timetable.calendar import source_day, window
from schedule.timetable.disruptions import Disruption
from schedule.timetable.replay import Replay, Report
from schedule.timetable.source import MalformedTimetableError, Source, shipped
from schedule.timetable.synthetic import Synthetic

__all__ = [
    "Airport",
    "Airports",
    "Disruption",
    "MalformedTimetableError",
    "Replay",
    "Report",
    "Source",
    "Synthetic",
    "shipped",
    "source_day",
    "window",
]
