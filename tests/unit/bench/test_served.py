from __future__ import annotations

import json
from pathlib import Path

from bench.served import Served, read_requests, summarize


def write_log(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def get(path: str, *, first: int, sent: int, status: int = 206) -> dict[str, object]:
    return {"method": "GET", "path": path, "range": f"bytes={first}-", "status": status, "bytes": sent}


def test_bytes_served_twice_are_counted_by_place_not_by_request(tmp_path: Path) -> None:
    file = "/lab/model/resolve/abc/a%20b.bin"
    log = write_log(
        tmp_path / "log",
        get(file, first=0, sent=100),
        get(file, first=90, sent=100),
        get(file, first=300, sent=10),
        get(file, first=0, sent=310),
        get("/lab/model/resolve/abc/other", first=0, sent=7),
    )
    # 0-190 and 300-310 came before the request for all 310 bytes; 90-100 came twice before that.
    assert summarize(read_requests(log)) == Served(total_bytes=527, twice_bytes=210, requests=5, api_requests=0)


def test_a_whole_answer_begins_at_the_start_whatever_was_asked_for(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", get("/lab/model/resolve/abc/x", first=50, sent=100, status=200))
    assert [request.first for request in read_requests(log)] == [0]


def test_refusals_and_questions_are_not_bytes_of_files(tmp_path: Path) -> None:
    log = write_log(
        tmp_path / "log",
        get("/lab/model/resolve/abc/x", first=0, sent=30, status=429),
        {"method": "HEAD", "path": "/lab/model/resolve/abc/x", "range": "", "status": 200, "bytes": 0},
        {"method": "GET", "path": "/api/models/lab/model?blobs=true", "range": "", "status": 200, "bytes": 900},
    )
    assert summarize(read_requests(log)) == Served(total_bytes=0, twice_bytes=0, requests=0, api_requests=2)


def test_reading_goes_on_where_the_last_one_ended_and_waits_for_whole_lines(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", get("/m/x/resolve/c/f", first=0, sent=1))
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write(json.dumps(get("/m/x/resolve/c/f", first=1, sent=2)) + "\n" + '{"method": "GE')
    assert [request.sent for request in read_requests(log, offset=offset)] == [2]
