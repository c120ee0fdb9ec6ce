"""What nodes had written of a model at a moment, and what of it the hub was asked for before and after."""

from __future__ import annotations

import json
import math
import re
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from bench.cluster import Node, hub_cache
from bench.lab import Lab
from bench.models import LabModel

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_HEADER = struct.Struct("<8sB32sQII")  # of exo_dl.store.partfile
_HEADER_BYTES, _RECORD_BYTES = 128, 32

PIECE_BYTES = 1 << 20
"""A piece of the lab's shards."""
IN_FLIGHT_BYTES = 8 * PIECE_BYTES
"""What four nodes may be writing or passing on at the moment at which holdings are looked at: two pieces each."""

Runs = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """Bytes that some nodes had on their disks.

    Attributes:
        at: when that was, `time.time`.
        runs: path -> runs of bytes ``first <= i < end``.
    """

    at: float
    runs: Runs

    @property
    def total_bytes(self) -> int:
        """All of it, each byte once."""
        return sum(end - first for runs in self.runs.values() for first, end in runs)


@dataclass(frozen=True, slots=True)
class Asked:
    """A line of the hub's log: which bytes were asked for when, and how many were sent."""

    client: str
    at: float
    path: str
    first: int
    end: int
    sent: int

    def overlap(self, runs: Runs, *, end: int) -> int:
        """Bytes of ``runs`` in this answer, up to the byte ``end``."""
        return sum(max(0, min(end, run_end) - max(self.first, first)) for first, run_end in runs.get(self.path, ()))


def held_by(nodes: Iterable[Node], model: LabModel) -> Holdings:
    """What at least one of ``nodes`` has on its disk now: files, and pieces whose digests are written beside them."""
    at = time.time()
    homes = [hub_cache(node.home, model.repo) / "blobs" for node in nodes]
    runs: Runs = {}
    for path, etag in model.etags.items():
        size = (model.folder / path).stat().st_size
        if any((home / etag).exists() for home in homes):
            runs[path] = [(0, size)]
            continue
        pieces: set[int] = set()
        piece_size = 1
        for record in (found for home in homes for found in home.glob(f"{etag}.*.exo-dl.pieces")):
            content = record.read_bytes()
            if len(content) >= _HEADER.size:
                piece_size = _HEADER.unpack_from(content)[4]
                pieces.update(_present(content))
        runs[path] = [(each * piece_size, min(size, (each + 1) * piece_size)) for each in sorted(pieces)]
    return Holdings(at, runs)


def _present(record: bytes) -> Iterator[int]:
    for number, at in enumerate(range(_HEADER_BYTES, len(record) - _RECORD_BYTES + 1, _RECORD_BYTES)):
        if any(record[at : at + _RECORD_BYTES]):
            yield number


def asked(lab: Lab) -> list[Asked]:
    """What the hub (nginx) was asked for, in the order in which the answers ended. To be called when it has ended."""
    return [each for line in lab.hub_log.read_text(encoding="utf-8").splitlines() for each in _asked(json.loads(line))]


def _asked(line: dict[str, Any]) -> Iterator[Asked]:
    found = _RANGE.fullmatch(line["range"] or "")
    if found:
        path = unquote(line["path"].split("?")[0]).partition("/resolve/")[2].partition("/")[2]
        at = line["time"] - line["seconds"]
        yield Asked(line["client"], at, path, int(found[1]), int(found[2]) + 1, line["bytes"])


def read_of(lab: Lab, names: Iterable[str], held: Holdings, *, since: float) -> int:
    """Bytes of ``held`` that the hub sent to the named nodes, in answers that were asked for after ``since``."""
    clients = {lab.net.hub_address(name) for name in names}
    return sum(
        each.overlap(held.runs, end=each.first + each.sent)
        for each in asked(lab)
        if each.client in clients and each.at > since
    )


def read_again(lab: Lab, names: Iterable[str], held: Holdings) -> int:
    """Bytes that were held, and that the named nodes asked the hub for all the same from then on."""
    assert read_of(lab, lab.nodes, held, since=0.0) >= held.total_bytes, "the log shows where it came from"
    return read_of(lab, names, held, since=held.at)


def read_twice(lab: Lab, names: Iterable[str], model: LabModel) -> int:
    """Bytes that the hub sent to the named nodes more than once, all of them together."""
    clients = {lab.net.hub_address(name) for name in names}
    count: dict[str, list[tuple[int, int]]] = {}
    for each in asked(lab):
        if each.client in clients:
            count.setdefault(each.path, []).append((each.first, each.first + each.sent))
    total = 0
    for runs in count.values():
        reached = 0
        for first, end in sorted(runs):
            total += max(0, min(end, reached) - first)
            reached = max(reached, end)
    return total


@dataclass(frozen=True, slots=True)
class LeftLying:
    """What a node had asked the hub for, and nobody held, at the moment from which nothing more was heard of it.

    Attributes:
        bytes: how much that was.
        sent: bytes of it that the hub sent to the node.
        asked_s: seconds until other nodes had asked for all of it; infinite where they never did.
    """

    bytes: int
    sent: int
    asked_s: float


def left_lying(lab: Lab, name: str, held: Holdings) -> LeftLying:
    """What ``name`` was reading at ``held.at``, and how soon others asked for it; ``held`` is what others held then."""
    address = lab.net.hub_address(name)
    every = asked(lab)
    size = sent = 0
    after: list[float] = []
    for each in every:
        if each.client != address or each.at > held.at:
            continue
        for first in range(each.first, each.end, PIECE_BYTES):
            end = min(each.end, first + PIECE_BYTES)
            if any(at <= first < held_end for at, held_end in held.runs[each.path]):
                continue
            size += end - first
            sent += max(0, min(end, each.first + each.sent) - first)
            again = (
                other.at - held.at
                for other in every
                if other.client != address and other.path == each.path and other.first < end and first < other.end
            )
            after.append(min(again, default=math.inf))
    return LeftLying(size, sent, max(after, default=0.0))
