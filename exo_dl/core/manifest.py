"""A model at a pinned commit: its files, and the arithmetic between files and pieces.

Files with the same digest are one *blob*. Pieces are numbered through all blobs in the order of their first path, so
one integer names a piece within a manifest, and a run of neighbouring pieces may cross from one small blob to the next.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from exo_dl.core.paths import check_path
from exo_dl.core.pieces import union
from exo_dl.errors import ProtocolError

__all__ = [
    "MAX_FILES",
    "MAX_PIECES",
    "PIECE_MAX_BYTES",
    "PIECE_MIN_BYTES",
    "Blob",
    "FileEntry",
    "Manifest",
    "Span",
    "piece_size_for",
    "pull_id_for",
]

PIECE_MIN_BYTES = 1 << 20
PIECE_MAX_BYTES = 16 << 20
MAX_FILES = 50_000
MAX_PIECES = 4_000_000
_PIECES_AIMED_AT = 1024


def piece_size_for(size: int) -> int:
    """Bytes of a piece in a file of ``size`` bytes: a power of two in 1..16 MiB, about 1024 pieces a file."""
    piece = PIECE_MIN_BYTES
    while piece < PIECE_MAX_BYTES and size > piece * _PIECES_AIMED_AT:
        piece *= 2
    return piece


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a manifest.

    Attributes:
        path: the path in the repository, with "/" between folders; checked by `check_path`.
        size: bytes.
        digest: sha256 (32 bytes), or the git blob sha1 (20 bytes) where the hub has no sha256.
        git_oid: the object id that the hub lists (of the pointer, for LFS files); empty when unknown.
    """

    path: str
    size: int
    digest: bytes
    git_oid: bytes = b""

    @property
    def etag(self) -> str:
        """The digest as the hub's ETag has it, and as the Hugging Face cache names the blob."""
        return self.digest.hex()


@dataclass(frozen=True, slots=True)
class Blob:
    """One distinct content of a manifest. ``piece_count`` is 0 for an empty file."""

    index: int
    digest: bytes
    size: int
    piece_size: int
    first_piece: int
    piece_count: int
    paths: tuple[str, ...]

    @property
    def end_piece(self) -> int:
        """One past its last piece."""
        return self.first_piece + self.piece_count

    @property
    def etag(self) -> str:
        """The digest in hex."""
        return self.digest.hex()

    @property
    def is_sha256(self) -> bool:
        """False where the digest is a git blob sha1."""
        return len(self.digest) == 32


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``offset .. offset + size`` of one blob."""

    blob: int
    offset: int
    size: int


@dataclass(frozen=True)
class Manifest:
    """The files of one pull.

    Attributes:
        hub: kind of hub, "huggingface".
        repo_type: "model", "dataset" or "space".
        repo: "org/name".
        commit: 40 hex digits.
        files: the selected files, sorted by path.
        unselected: the other files of the commit, sorted by path.
    """

    hub: str
    repo_type: str
    repo: str
    commit: str
    files: tuple[FileEntry, ...]
    unselected: tuple[FileEntry, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.files) + len(self.unselected) > MAX_FILES:
            raise ProtocolError(f"{self.repo} has more than {MAX_FILES} files.")
        seen: set[str] = set()
        for entry in self.files:
            check_path(entry.path)
            if entry.path in seen:
                raise ProtocolError(f"{self.repo} lists {entry.path!r} twice.")
            seen.add(entry.path)
            if len(entry.digest) not in (20, 32):
                raise ProtocolError(f"{entry.path!r} has a digest of {len(entry.digest)} bytes instead of 20 or 32.")
            if entry.size < 0:
                raise ProtocolError(f"{entry.path!r} has a negative size.")
        if self.piece_count > MAX_PIECES:
            raise ProtocolError(f"{self.repo} has more than {MAX_PIECES} pieces.")

    @cached_property
    def blobs(self) -> tuple[Blob, ...]:
        """The distinct contents, in the order of their first path."""
        paths: dict[bytes, list[str]] = {}
        sizes: dict[bytes, int] = {}
        for entry in self.files:
            paths.setdefault(entry.digest, []).append(entry.path)
            if sizes.setdefault(entry.digest, entry.size) != entry.size:
                raise ProtocolError(f"{entry.path!r} has the digest of another file and another size.")
        blobs: list[Blob] = []
        first = 0
        for index, (digest, names) in enumerate(paths.items()):
            size = sizes[digest]
            piece = piece_size_for(size)
            count = -(-size // piece)
            blobs.append(Blob(index, digest, size, piece, first, count, tuple(names)))
            first += count
        return tuple(blobs)

    @cached_property
    def piece_count(self) -> int:
        """Number of pieces of all blobs."""
        return self.blobs[-1].end_piece if self.blobs else 0

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all blobs, each content once."""
        return sum(blob.size for blob in self.blobs)

    @cached_property
    def _firsts(self) -> list[int]:
        return [blob.first_piece for blob in self.blobs]

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for blob in self.blobs:
            starts.append(starts[-1] + blob.size)
        return starts

    def blob_of(self, piece: int) -> Blob:
        """The blob that holds ``piece``. Empty blobs hold none."""
        if not 0 <= piece < self.piece_count:
            raise ProtocolError(f"Piece {piece} is outside of this pull's {self.piece_count} pieces.")
        return self.blobs[bisect_right(self._firsts, piece) - 1]

    def span(self, piece: int) -> Span:
        """Where ``piece`` lies."""
        blob = self.blob_of(piece)
        offset = (piece - blob.first_piece) * blob.piece_size
        return Span(blob.index, offset, min(blob.piece_size, blob.size - offset))

    def piece_bytes(self, piece: int) -> int:
        """Size of ``piece`` in bytes."""
        return self.span(piece).size

    def position(self, piece: int) -> int:
        """Bytes of all pieces before ``piece``; ``piece`` may be `piece_count`."""
        if piece >= self.piece_count:
            return self.total_bytes
        blob = self.blob_of(piece)
        return self._starts[blob.index] + (piece - blob.first_piece) * blob.piece_size

    def run_bytes(self, first: int, end: int) -> int:
        """Bytes of the pieces ``first <= i < end``."""
        return self.position(end) - self.position(first)

    def piece_at(self, position: int) -> int:
        """The piece that holds the byte at ``position`` (see `position`); `piece_count` at or past the end."""
        if position >= self.total_bytes:
            return self.piece_count
        index = bisect_right(self._starts, position) - 1
        while self.blobs[index].size == 0:
            index += 1
        blob = self.blobs[index]
        return blob.first_piece + (position - self._starts[index]) // blob.piece_size

    def spans(self, first: int, end: int) -> Iterator[Span]:
        """The bytes of a run of pieces, one span for each blob that it touches, in order."""
        at = first
        while at < end:
            blob = self.blob_of(at)
            stop = min(end, blob.end_piece)
            offset = (at - blob.first_piece) * blob.piece_size
            yield Span(blob.index, offset, min(blob.size, (stop - blob.first_piece) * blob.piece_size) - offset)
            at = stop

    def set_bytes(self, bits: int) -> int:
        """Bytes of a set of pieces (see `exo_dl.core.pieces`), at a cost that hardly grows with their number."""
        lowest = bits & -bits
        if not bits & (bits + lowest):
            return self.run_bytes(lowest.bit_length() - 1, bits.bit_length()) if bits else 0
        odd = bits & self._odd_pieces
        byte_count = (bits ^ odd).bit_count() * self._usual_bytes
        return byte_count + sum((odd & plane).bit_count() << k for k, plane in self._size_planes) if odd else byte_count

    @cached_property
    def _usual_bytes(self) -> int:
        """What most pieces have."""
        counts = Counter[int]()
        for blob in self.blobs:
            counts[blob.piece_size] += blob.size // blob.piece_size
        return max(counts, key=lambda size: counts[size], default=0)

    @cached_property
    def _odd_pieces(self) -> int:
        """The set of all pieces that have another size."""
        runs = []
        for blob in self.blobs:
            whole = blob.size // blob.piece_size if blob.piece_size == self._usual_bytes else 0
            runs.append((blob.first_piece + whole, blob.end_piece))
        return union(runs, self.piece_count)

    @cached_property
    def _size_planes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of all pieces, bit-sliced: pairs of ``k`` and the set of those pieces whose size has bit ``k``."""
        planes: dict[int, list[tuple[int, int]]] = {}
        for blob in self.blobs:
            if blob.piece_count:
                last = blob.end_piece - 1
                planes.setdefault(blob.piece_size.bit_length() - 1, []).append((blob.first_piece, last))
                size = blob.size - (blob.piece_count - 1) * blob.piece_size
                for k in range(size.bit_length()):
                    if size >> k & 1:
                        planes.setdefault(k, []).append((last, last + 1))
        return tuple((k, union(runs, self.piece_count)) for k, runs in sorted(planes.items()))


def pull_id_for(manifest: Manifest, layout: str, placement: str = "") -> str:
    """The id of the pull of these files: 20 hex digits, the same on whichever node it starts.

    Args:
        manifest: the files.
        layout: where they go.
        placement: the key of who wants what (`exo_dl.core.wants`); empty: every target everything.
    """
    key = [
        manifest.hub,
        manifest.repo_type,
        manifest.repo,
        manifest.commit,
        layout,
        [[f.path, f.size, f.etag] for f in manifest.files],
        *([placement] if placement else []),
    ]
    return hashlib.sha256(json.dumps(key, ensure_ascii=False).encode()).hexdigest()[:20]
