"""How the coordinator sizes, places and divides leases: arithmetic without state.

Work is counted in *cost*: bytes, plus a fixed overhead for each blob that is touched, because a request for a small
file costs a round trip whatever its size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, mask, run_end

__all__ = [
    "BLOB_OVERHEAD_BYTES",
    "REPORT_S",
    "START_S",
    "CostMap",
    "Lease",
    "ReadTwice",
    "Split",
    "choose_run",
    "choose_split",
    "lease_part",
    "least_lease_s",
    "seconds_left",
    "slowed_rate",
    "split_lease",
    "wave_s",
]

BLOB_OVERHEAD_BYTES = 256 << 10
REPORT_S = 0.3
"""Nodes tell their progress at least this often, seconds."""
START_S = 0.1
"""From a grant to the first byte, seconds."""
_SMALL_BYTES, _SMALL_PART = BLOB_OVERHEAD_BYTES, 0.05
_MARGIN_S = 0.3
# Each lease is a few requests, as it is asked for in parts and files end in it: some times 64 MiB, for that mean.
_WAVE_BYTES, _WAVE_PART, _WAVE_LEAST_S = 260 << 20, 0.35, 2.0
_PART_MIN, _PART_MAX, _KEPT_S = 0.7, 0.92, 1.7
_FRONT_PART, _FRONT_BEFORE = 0.4, 0.3
_LEAST_S, _LEAST_MAX_S, _LEAST_PART = 0.2, 5.0, 0.015
_TWICE_PART, _CUT_PART = 0.009, 0.005  # of all that is needed
_UNDER_WAY_S = 0.06
_LARGE_GAIN_S = 0.5
_LEAST_CUT_BYTES = 1 << 20


@dataclass(slots=True)
class Lease:
    """A lease as its coordinator knows it. ``rate`` is bytes/s, 0 when unknown; times are on the clock of ``now``.

    ``cut_for`` is the connection for which its node was told, at ``cut_at``, to end at ``cut``; until the node has
    answered, it may be reading what lies behind.
    """

    lease_id: int
    node: str
    slot: int
    first: int
    end: int
    position: int
    rate: float
    granted_at: float
    moved_at: float
    duplicate: bool = False
    cut: int = 0
    cut_at: float = 0.0
    cut_for: tuple[str, int] | None = None

    @property
    def rest(self) -> int:
        """The pieces that are still to come, as a set."""
        return mask(self.position, self.end)


class Split(NamedTuple):
    """A cut: the new end of the lease, the seconds that this saves, and what the hub may have sent in vain, bytes."""

    end: int
    saved_s: float
    wasted: float


class CostMap:
    """Cost of runs and sets of pieces of one manifest.

    Attributes:
        small: the pieces of files for which a request costs about as much as their bytes do, or more; empty where
            these are a large part of all: then they are read in long runs, like others.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        blobs = [b for b in manifest.blobs if b.piece_count]
        self._blobs = blobs
        self._firsts = [b.first_piece for b in blobs]
        self._starts: list[float] = []
        cost = 0.0
        sizes: dict[int, tuple[int, int, int]] = {}
        for blob in blobs:
            self._starts.append(cost)
            cost += blob.size + BLOB_OVERHEAD_BYTES
            last = blob.size - (blob.piece_count - 1) * blob.piece_size
            self._classify(sizes, blob.first_piece, blob.end_piece - 1, blob.piece_size)
            self._classify(sizes, blob.end_piece - 1, blob.end_piece, last + BLOB_OVERHEAD_BYTES)
        self.total = cost
        self._classes = [(bits, total / count) for bits, total, count in sizes.values()]
        small = [blob for blob in blobs if blob.size <= _SMALL_BYTES]
        few = sum(blob.size + BLOB_OVERHEAD_BYTES for blob in small) <= _SMALL_PART * cost
        self.small = sum(mask(blob.first_piece, blob.end_piece) for blob in small) if few else 0

    @staticmethod
    def _classify(sizes: dict[int, tuple[int, int, int]], first: int, end: int, size: int) -> None:
        if end > first:
            bits, total, count = sizes.get(size.bit_length(), (0, 0, 0))
            sizes[size.bit_length()] = (bits | mask(first, end), total + size * (end - first), count + end - first)

    def at(self, piece: int) -> float:
        """Cost of all pieces before ``piece``."""
        if piece >= self._manifest.piece_count:
            return self.total
        index = bisect_right(self._firsts, piece) - 1
        blob = self._blobs[index]
        inside = piece - blob.first_piece
        return self._starts[index] + (BLOB_OVERHEAD_BYTES + inside * blob.piece_size if inside else 0)

    def run(self, first: int, end: int) -> float:
        """Cost of a run of pieces; the overhead of a blob is counted where its first piece is in the run."""
        return self.at(end) - self.at(first)

    def of(self, bits: int) -> float:
        """Cost of a set, to within a few percent, without looking at single pieces."""
        return sum((bits & members).bit_count() * mean for members, mean in self._classes)

    def piece_at(self, cost: float) -> int:
        """The piece that is being read once ``cost`` is spent."""
        if cost >= self.total or not self._blobs:
            return self._manifest.piece_count
        index = max(0, bisect_right(self._starts, cost) - 1)
        blob = self._blobs[index]
        inside = max(0.0, cost - self._starts[index] - BLOB_OVERHEAD_BYTES)
        return min(blob.first_piece + int(inside // blob.piece_size), blob.end_piece - 1)

    def round_up(self, cost: float) -> int:
        """The first piece boundary at or after ``cost``."""
        piece = self.piece_at(cost)
        return piece if self.at(piece) >= cost else piece + 1


class ReadTwice:
    """What the hub may send twice in a pull: pieces that two nodes race for, and what is under way when a lease is cut.

    Args:
        costs: costs of the pieces.
        needed: the pieces that anybody wants (a set), now.
    """

    def __init__(self, costs: CostMap, needed: Callable[[], int]) -> None:
        self._costs = costs
        self._needed = needed
        self._cut = 0.0
        self._raced = 0.0

    def race(self, cost: float, *, first_ever: bool = False) -> bool:
        """Pieces of this cost shall be given to a second node. Notes it where it may be.

        Args:
            cost: of all that may come twice.
            first_ever: also where it is more than is left, but nothing was raced for before.
        """
        left = max(0.0, self._costs.of(self._needed()) * _TWICE_PART - self._cut - self._raced)
        if cost > left and (self._raced or not first_ever):
            return False
        self._raced += cost
        return True

    def cut(self, split: Split, end: int) -> bool:
        """The pieces ``split.end <= i < end`` shall be taken from a lease. Notes it where it may be.

        The hub has sent on by then what the sockets on the way had room for. Where that saves more than half a second
        it may be twice as much in all.
        """
        waste = min(split.wasted, self._costs.run(split.end, end))
        allowed = max(_LEAST_CUT_BYTES, self._costs.of(self._needed()) * _CUT_PART)
        if self._cut + waste > allowed * (2 if split.saved_s >= _LARGE_GAIN_S else 1):
            return False
        self._cut += waste
        return True


def lease_part(left_s: float) -> float:
    """How much of its fair share of all that is left a connection is leased, where that takes ``left_s`` seconds.

    The rest is leased later, when rates are known better. Each lease is a request: the less is kept back, the fewer.
    """
    return min(_PART_MAX, max(_PART_MIN, 1 - _KEPT_S / left_s)) if left_s > 0 else 1.0


def least_lease_s(whole_s: float) -> float:
    """Seconds that a lease lasts at least, where there is so much, in a pull that takes ``whole_s`` seconds in all."""
    return min(_LEAST_MAX_S, max(_LEAST_S, _LEAST_PART * whole_s))


def wave_s(total_rate: float, connections: float, whole_s: float) -> float:
    """Seconds that a lease lasts at most: the digests of files are behind by about as much.

    Long enough that in a pull of many gigabytes the mean request is of more than 64 MiB; a part of a short pull, for
    else its first leases would last to its end.

    Args:
        total_rate: all connections together, bytes/s, > 0.
        connections: their number, > 0.
        whole_s: the whole pull.
    """
    return max(_WAVE_LEAST_S, min(_WAVE_PART * whole_s, _WAVE_BYTES * connections / total_rate))


def front_part(before: float) -> float:
    """How much shorter than others a lease is, when what other leases are to read before it is ``before``.

    As much as all read in the time of a lease is 1. Leases that begin together would end together, and all that is
    behind the first of a file be hashed then. So those at the front end first.
    """
    return _FRONT_PART + (1 - _FRONT_PART) * min(1.0, before / _FRONT_BEFORE)


def choose_run(free: int, costs: CostMap, *, aim: float, least: float) -> tuple[int, int]:
    """The first run of free pieces, as far as it costs about ``aim``.

    The digest of a whole file can only be computed from its front, so all nodes read near the front of what is left:
    where each had a part of a file for itself most of the file would still be to hash when its last byte has come. All
    disks write about in order so too.

    Args:
        free: pieces to choose from, not empty.
        costs: costs of the pieces.
        aim: cost wanted.
        least: a rest that costs less than this is taken along.
    """
    start = first_set(free)
    stop = run_end(free, start)
    end = min(stop, max(start + 1, costs.piece_at(costs.at(start) + aim)))
    if costs.run(end, stop) <= least:
        end = stop
    return start, end


def choose_split(
    costs: CostMap, *, position: float, floor: int, end: int, victim_rate: float, thief_rate: float, start_s: float
) -> tuple[int, float]:
    """Where to cut a lease so that its holder and the taker of its tail would end at the same time.

    Args:
        costs: costs of the pieces.
        position: the holder's position as cost, extrapolated to now.
        floor: first piece that may be cut off: what is before it is read, or about to be.
        end: end of the lease.
        victim_rate: the holder's rate.
        thief_rate: the taker's rate.
        start_s: seconds until the taker's first byte.

    Returns:
        The new end of the lease (``end`` when there is nothing to cut off), and the seconds that it saves.
    """
    rest = costs.at(end) - position
    taken = (rest - victim_rate * start_s) * thief_rate / (thief_rate + victim_rate)
    even = costs.round_up(costs.at(end) - max(0.0, taken))
    before = rest / victim_rate
    best = end, 0.0
    for cut in (max(floor, even), max(floor, even - 1)):
        if cut < end:
            after = max((costs.at(cut) - position) / victim_rate, start_s + costs.run(cut, end) / thief_rate)
            best = max(best, (cut, before - after), key=lambda x: x[1])
    return best


def split_lease(costs: CostMap, lease: Lease, *, rate: float, thief_rate: float, now: float) -> Split:
    """Where to cut a lease that is read at ``rate`` for one that reads at ``thief_rate``."""
    # It cannot be further than the piece that it is at: it would have told.
    piece = costs.run(lease.position, lease.position + 1)
    ahead = min(rate * (now - lease.moved_at), piece + rate * REPORT_S)
    position = min(costs.at(lease.position) + ahead, costs.at(lease.end))
    least = lease.position + 1
    floors = (max(least, costs.round_up(position + rate * _MARGIN_S)), least)
    safe, near = (
        choose_split(
            costs,
            position=position,
            floor=floor,
            end=lease.end,
            victim_rate=rate,
            thief_rate=thief_rate,
            start_s=START_S,
        )
        for floor in floors
    )
    # A slow node keeps its next piece for seconds. It may have begun it, but not for longer than it is silent about.
    if near[1] >= safe[1] + _LARGE_GAIN_S:
        return Split(*near, wasted=rate * (REPORT_S + _UNDER_WAY_S))
    return Split(*safe, wasted=rate * _UNDER_WAY_S)


def slowed_rate(costs: CostMap, lease: Lease, end: int, rate: float, now: float) -> float:
    """What a lease is read at, bytes/s, where it gets to ``end`` just now, or will at the earliest.

    Pieces that take longer than they should tell of a link that became slow, before the mean rate does.
    """
    silent = now - lease.moved_at - REPORT_S
    return min(rate, costs.run(lease.position, end) / silent) if silent > 0 else rate


def seconds_left(costs: CostMap, lease: Lease, rate: float, now: float) -> float:
    """Seconds until a lease is read to its end at ``rate``; it has pieces left."""
    rest_s = costs.run(lease.position, lease.end) / rate
    piece_s = costs.run(lease.position, lease.position + 1) / rate
    return max(rest_s - min(now - lease.moved_at, piece_s), rest_s / (lease.end - lease.position) / 4)
