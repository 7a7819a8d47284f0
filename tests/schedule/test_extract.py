import importlib.util
import io
import tarfile
import zipfile
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

from schedule.timetable import Source

TOOL = Path(__file__).parents[2] / "tools" / "nycflights13_extract.py"
FLIGHTS = """\
year,month,day,sched_dep_time,dep_delay,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,distance
2013,10,2,900,NA,1215,NA,AA,1,N1,JFK,LAX,2475
2013,2,1,600,-3,900,4,B6,7,N2,JFK,MCO,944
"""
PLANES = "tailnum,model,seats\nN1,767-223,255\n"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("nycflights13_extract", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sdist(folder: Path, **files: bytes) -> Path:
    """An archive with these data files, named with _ for a point."""
    path = folder / "sdist.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/data/{name.replace('_', '.')}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(text: str) -> bytes:
    """A zip file with one file in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("flights.csv", text)
    return content.getvalue()


def test_the_extract_is_what_the_timetable_reads(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come out by day, with aircraft where they are known, and twice the same."""
    archive = sdist(tmp_path, flights_csv_zip=zipped(FLIGHTS), planes_csv=PLANES.encode())
    outputs = [tmp_path / "one.xz", tmp_path / "two.xz"]
    for output in outputs:
        monkeypatch.setattr("sys.argv", ["extract", str(archive), str(output)])
        tool.main()
    lines = tool.lzma.decompress(outputs[0].read_bytes()).decode().splitlines()
    days = Source(lines).days([date(2013, 2, 1), date(2013, 10, 2)])
    flights = [flight for _, found in days for flight in found]

    assert [(f.number, f.model, f.seats) for f in flights] == [(7, "", None), (1, "767-223", 255)]
    assert lines[2] == "10,2,900,1215,,,AA,1,JFK,LAX,2475,767-223,255"
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_foreign_archive_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    """An archive without the data is an error that names what is missing."""
    with (
        tarfile.open(sdist(tmp_path)) as archive,
        pytest.raises(KeyError, match=r"planes\.csv"),
    ):
        tool.member(archive, "planes.csv")
