"""What a hub served, read from its access log: one JSON object a line, from `bench.hub` or `bench.nginx_hub`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

__all__ = ["Request", "Served", "read_requests", "summarize"]

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log.

    Attributes:
        path: the URL's path, unquoted, without a query.
        first: offset of the first byte that was sent.
        sent: bytes of the body that left the hub, whether or not the client still took them.
    """

    method: str
    path: str
    status: int
    first: int
    sent: int

    @property
    def is_file(self) -> bool:
        """Whether bytes of one of a repository's files were asked for, at the hub or where it redirects to."""
        return self.method == "GET" and any(
            part in self.path for part in ("/resolve/", "/_storage/", "/resolve-cache/")
        )


@dataclass(frozen=True, slots=True)
class Served:
    """Sums over requests for files.

    Attributes:
        total_bytes: all bytes of bodies.
        twice_bytes: those of them that had been served before.
        requests: number of requests that sent anything.
        api_requests: number of requests for anything else than a file's bytes.
    """

    total_bytes: int
    twice_bytes: int
    requests: int
    api_requests: int


def read_requests(log: Path, *, offset: int = 0) -> list[Request]:
    """The requests in a log, from the byte ``offset`` on. A last line that is still being written is left out."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().split(b"\n")[:-1]
    return [_request(json.loads(line)) for line in lines if line.strip()]


def _request(fields: dict[str, object]) -> Request:
    found = _RANGE.search(str(fields.get("range") or ""))
    status = int(str(fields["status"]))
    return Request(
        method=str(fields["method"]),
        path=unquote(str(fields["path"]).split("?")[0]),
        status=status,
        first=int(found.group(1)) if found and status == 206 else 0,
        sent=int(str(fields["bytes"])) if status in (200, 206) else 0,
    )


def summarize(requests: Iterable[Request]) -> Served:
    """Counts what the hub served, and what of it more than once."""
    runs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    count = others = 0
    for request in requests:
        if not request.is_file:
            others += 1
        elif request.sent:
            count += 1
            runs[request.path].append((request.first, request.first + request.sent))
    total = sum(end - first for parts in runs.values() for first, end in parts)
    once = sum(_union_bytes(parts) for parts in runs.values())
    return Served(total_bytes=total, twice_bytes=total - once, requests=count, api_requests=others)


def _union_bytes(parts: list[tuple[int, int]]) -> int:
    total = reached = 0
    for first, end in sorted(parts):
        total += max(0, end - max(first, reached))
        reached = max(reached, end)
    return total
