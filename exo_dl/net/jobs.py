"""What the fetch pool is asked to do, and what it tells: plain data between the event loop and the threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from exo_dl.core.swarm import FetchResult
from exo_dl.net.parts import Parts

__all__ = [
    "FetchEvent",
    "HubJob",
    "JobEnded",
    "PeerJob",
    "PieceDone",
    "PieceTarget",
    "RangeBody",
    "RangeSource",
    "Record",
    "Source",
    "Timeouts",
]

Record = Callable[[int, bytes], object]
"""Called in the pool's thread after a piece's last byte was written and its digest agreed: (piece, BLAKE3).

A `StorageError` or an `OSError` from it ends the job with NO_ROOM, a `KeyError` with CANCELLED.
"""


@dataclass(frozen=True, slots=True)
class PieceTarget:
    """Where a piece goes, and what it must be.

    Attributes:
        piece: its number in the manifest.
        fd: an open file that stays open until the job's `JobEnded` was delivered.
        offset: of its first byte in that file.
        size: bytes, at least 1.
        digest: BLAKE3 (32 bytes) that it must have; None only in a `HubJob`: then the digest is found and reported.
    """

    piece: int
    fd: int
    offset: int
    size: int
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class PeerJob:
    """Pieces from one peer, in the order of its answer.

    Attributes:
        job_id: unique among the jobs that have not ended.
        address: host (a numeric address, or a name) and piece port of the peer.
        path: the request target, ``/v1/pieces/<pull_id>/<first>-<end>``.
        headers: makes the headers of one request (`TicketSigner.headers`); called in a thread, once for each try.
        pieces: what the answer's body holds, one after the other; numbers ascending.
        record: see `Record`.
        held: asked in a thread before a piece is written: True where it is verified on disk already, so that a late
            copy is not written over it.
        adjust_clock: told the peer's Unix time when it answers 401, before one more try (`TicketSigner.adjust`).
        group: the pull: where a limit on bytes holds, pulls share it fairly.
        tls_node: the peer's node id: the bytes go over TLS, and to nobody else; "": in clear.
        stays: one from this peer has just ended: it may answer "busy" while it has slots left for others.
    """

    job_id: int
    address: tuple[str, int]
    path: str
    headers: Callable[[], dict[str, str]]
    pieces: tuple[PieceTarget, ...]
    record: Record
    held: Callable[[int], bool] | None = None
    adjust_clock: Callable[[float], None] | None = None
    group: str = ""
    tls_node: str = ""
    stays: bool = False

    def __post_init__(self) -> None:
        _check_pieces(self.pieces)
        if any(target.digest is None for target in self.pieces):
            raise ValueError("A piece from a peer needs the digest that it must have.")


class Source(Protocol):
    """Where bytes come from: a peer's connection, or the body of a range request."""

    def gather(self, byte_count: int, /) -> bool:
        """Waits a moment until `readinto` gives ``byte_count`` bytes, no more than are still to come; False: too few.

        True may also mean that it cannot be known.
        """
        ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Reads at least one byte, or returns 0 at the end of the range."""
        ...


class RangeBody(Source, Protocol):
    """The body of one range request: `exo_dl.hubs.reader.HubRange`."""

    @property
    def is_whole_file(self) -> bool:
        """Whether the hub sends the file from its beginning instead of the range; what was not asked for is skipped."""
        ...

    def limit(self, end: int, /) -> int:
        """Ends the range at byte ``end`` of the file instead, or soon after it (any thread)."""
        ...

    def abort(self) -> None:
        """Ends a blocked `readinto` with `CancelledPullError` within 100 ms (any thread)."""
        ...

    def close(self) -> None:
        """Done with the range (own thread)."""
        ...


class RangeSource(Protocol):
    """What a `HubJob` reads from: `exo_dl.hubs.reader.HubReader`."""

    def open_range(
        self, url: str, first: int, end: int, *, etag: str = "", stopped: Callable[[], bool] | None = None
    ) -> RangeBody:
        """Asks for the bytes ``first <= i < end``. ``stopped`` is asked once `abort` can reach the call."""
        ...

    def abort(self) -> None:
        """Ends a running `open_range` with `CancelledPullError` within 100 ms (any thread)."""
        ...


@dataclass(frozen=True, slots=True)
class HubJob:
    """A contiguous run of pieces of one blob from the hub.

    Attributes:
        job_id: unique among the jobs that have not ended.
        slot: the hub slot, for names and logs.
        reader: the slot's connection; jobs of one reader run one after the other.
        url: of the file at its commit.
        etag: the digest that the hub must name for it, in hex.
        offset: of the first piece in the blob, which is what is asked of the hub.
        pieces: contiguous, ascending.
        record: see `Record`.
        held: see `PeerJob.held`.
        group: see `PeerJob.group`.
        parts: in how many requests it is read; shared by the jobs of one reader.
        lump_bytes: what is waited for at once: `exo_dl.net.receive.hub_fill_bytes`.
    """

    job_id: int
    slot: int
    reader: RangeSource
    url: str
    etag: str
    offset: int
    pieces: tuple[PieceTarget, ...]
    record: Record
    held: Callable[[int], bool] | None = None
    group: str = ""
    parts: Parts = field(default_factory=Parts)
    lump_bytes: int = 64 << 10

    def __post_init__(self) -> None:
        _check_pieces(self.pieces)


def _check_pieces(pieces: tuple[PieceTarget, ...]) -> None:
    if not pieces:
        raise ValueError("A job without pieces.")
    if any(a.piece >= b.piece for a, b in pairwise(pieces)):
        raise ValueError("The pieces of a job must ascend.")
    if any(target.size < 1 for target in pieces):
        raise ValueError("A piece of a job is empty.")


@dataclass(frozen=True, slots=True)
class PieceDone:
    """A piece is written, its digest agrees, and it is recorded.

    Attributes:
        job_id: the job.
        piece: which.
        digest: BLAKE3 of its bytes.
        size: bytes.
        at_s: when (`time.monotonic`): the event comes up to 50 ms later, which is longer than a piece may take.
    """

    job_id: int
    piece: int
    digest: bytes
    size: int
    at_s: float


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The one end of a job, after all of its `PieceDone`.

    Attributes:
        job_id: the job.
        result: why it ended. DONE: everything up to its end (or where it was trimmed to) came; pieces that another job
            brought meanwhile have their `PieceDone` there.
        detail: for a person; empty for DONE and CANCELLED.
        retry_after_s: what a busy peer or hub asked for; 0 when it named nothing.
        byte_count: bytes of body that arrived, also those of pieces that were not completed.
        seconds: from the start in a thread to the end.
    """

    job_id: int
    result: FetchResult
    detail: str
    retry_after_s: float
    byte_count: int
    seconds: float


FetchEvent = PieceDone | JobEnded


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the pool waits for a peer, in seconds for each phase.

    Attributes:
        connect_s: for the connection.
        answer_s: from the request to the end of the answer's head (a cold disk may have to be read).
        stall_s: without one byte of body.
        slowest_bytes_per_s: an answer may take ``stall_s`` plus its size at this rate, so that a peer that sends byte
            by byte does not keep a thread.
    """

    connect_s: float = 3.0
    answer_s: float = 10.0
    stall_s: float = 10.0
    slowest_bytes_per_s: float = 64 * 1024
