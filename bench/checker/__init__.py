"""The judge of invariants I1 to I9: over the databases, and what clients were told.

    report = judge(history.read(file), urls)
    assert report.holds, report

It reads tables by SQL and messages by the contracts in `protos/`, and none of the code it judges.
"""

from bench.checker.databases import Urls
from bench.checker.history import History, read, read_file
from bench.checker.judgement import Report, judge
from bench.checker.messages import booking_told, quote_told
from bench.checker.recorder import Recorder
from bench.checker.rest import under_way
from bench.checker.violation import Violation

__all__ = [
    "History",
    "Recorder",
    "Report",
    "Urls",
    "Violation",
    "booking_told",
    "judge",
    "quote_told",
    "read",
    "read_file",
    "under_way",
]
