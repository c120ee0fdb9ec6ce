"""What a `PullStore` knows in memory: 33 bytes for each piece, and one slot for each blob."""

from __future__ import annotations

import enum
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from exo_dl.core.manifest import Blob
from exo_dl.core.pieces import iter_bits, iter_runs, mask
from exo_dl.store.folder import Folder, disk_errors
from exo_dl.store.library import HeldBlob
from exo_dl.store.osfile import Graveyard
from exo_dl.store.partfile import PartBusyError, PartFile
from exo_dl.store.verify import is_content

__all__ = [
    "PieceTable",
    "ReadFiles",
    "Slot",
    "Stage",
    "end_claim",
    "evict_pieces",
    "leave_part",
    "open_part",
    "piece_set",
]

_DIGEST = 32
_MAX_SAME_PARTS = 8
_ABSENT, _EXPECTED, _HELD = 0, 1, 2
_BITS = bytes(ord("1") if state == _HELD else ord("0") for state in range(256))


def piece_set(indexes: Iterable[int]) -> int:
    """The set of these pieces; in time linear to its size, which adding up single bits is not."""
    data = bytearray()
    for index in indexes:
        if index >> 3 >= len(data):
            data.extend(bytes((index >> 3) + 1 - len(data)))
        data[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(data, "little")


class PieceTable:
    """State and BLAKE3 digest of every piece. Single operations are atomic; callers order them by their slot's lock."""

    def __init__(self, count: int) -> None:
        self._state = bytearray(count)
        self._digests = bytearray(_DIGEST * count)
        self._lock = threading.Lock()

    def is_held(self, piece: int) -> bool:
        """True when its verified bytes are on this disk."""
        return self._state[piece] == _HELD

    def all_held(self, first: int, end: int) -> bool:
        """True when every piece of the run is held."""
        return self._state.count(_HELD, first, end) == end - first

    @property
    def have(self) -> int:
        """The held pieces, as a set."""
        return int(b"0" + self._state.translate(_BITS)[::-1], 2)

    def hold(self, piece: int, digest: bytes) -> None:
        """The piece is on this disk and has this digest."""
        with self._lock:
            self._digests[_DIGEST * piece : _DIGEST * (piece + 1)] = digest
            self._state[piece] = _HELD

    def drop(self, piece: int) -> None:
        """Nothing is known of the piece any more."""
        with self._lock:
            self._state[piece] = _ABSENT

    def digest(self, piece: int) -> bytes | None:
        """The digest of a held piece."""
        return self._read(piece) if self._state[piece] == _HELD else None

    def expected(self, piece: int) -> bytes | None:
        """The digest of a held or announced piece."""
        return self._read(piece) if self._state[piece] != _ABSENT else None

    def digests(self, blob: Blob) -> bytes:
        """All digests of a blob whose pieces are held."""
        return bytes(self._digests[_DIGEST * blob.first_piece : _DIGEST * blob.end_piece])

    def expect(self, first: int, digests: bytes) -> int:
        """See `PullStore.expect`."""
        count = len(digests) // _DIGEST
        end = first + count
        with self._lock:
            if not any(self._state[first:end]):
                self._digests[_DIGEST * first : _DIGEST * end] = digests
                self._state[first:end] = bytes([_EXPECTED]) * count
                return 0
            if self._digests[_DIGEST * first : _DIGEST * end] == digests and all(self._state[first:end]):
                return 0
            conflicts = 0
            for index in range(count):
                piece, digest = first + index, digests[_DIGEST * index : _DIGEST * (index + 1)]
                if self._state[piece] == _ABSENT:
                    self._digests[_DIGEST * piece : _DIGEST * (piece + 1)] = digest
                    self._state[piece] = _EXPECTED
                elif self._read(piece) != digest:
                    conflicts |= 1 << piece
            return conflicts

    def _read(self, piece: int) -> bytes:
        return bytes(self._digests[_DIGEST * piece : _DIGEST * (piece + 1)])


class Stage(enum.Enum):
    """How far a blob has come."""

    OPEN = "pieces are missing, or its digest is not known yet"
    WAITING = "its digest is right; a late writer has not let go yet"
    PUBLISHING = "on its way to its place"
    PUBLISHED = "in its place"
    SUSPECT = "its digest is wrong"


@dataclass(slots=True)
class Slot:
    """One blob of a pull.

    Attributes:
        blob: which.
        wanted_here: its wanted pieces, as a set numbered in the blob. One numbered in the manifest takes a bit for each
            piece of all blobs before it, and there can be thousands of files.
        part_name: its part file in the target folder.
        full: all of its pieces are wanted: its digest is checked.
        whole: it is to be published as it is.
        lock: guards what follows.
        stage: how far it is.
        part: its part file, when open.
        source: a whole verified file, where there is one.
        inode: of ``source``, to notice that it was replaced.
        fd: of ``source``, opened on demand; -1.
        in_place: final files that are known to be right.
        contested: held pieces that another writer had claimed as well; read again before publication.
        known: files that the library vouches for.
        candidates: files that may have the content; not read yet.
        recorded: an earlier run left pieces in the part file that are not checked yet.
        on_disk: bytes that the part file took on disk at the start.
    """

    blob: Blob
    wanted_here: int
    part_name: str
    full: bool
    whole: bool
    lock: threading.RLock = field(default_factory=threading.RLock)
    stage: Stage = Stage.OPEN
    part: PartFile | None = None
    source: Path | None = None
    inode: int = -1
    fd: int = -1
    in_place: set[Path] = field(default_factory=set)
    contested: set[int] = field(default_factory=set)
    known: list[HeldBlob] = field(default_factory=list)
    candidates: list[Path] = field(default_factory=list)
    recorded: bool = False
    on_disk: int = 0

    @property
    def wanted(self) -> int:
        """Its wanted pieces, as a set numbered in the manifest."""
        return self.wanted_here << self.blob.first_piece

    @property
    def pieces(self) -> int:
        """All its pieces, as a set."""
        return mask(self.blob.first_piece, self.blob.end_piece)

    def byte_runs(self, pieces: int) -> list[tuple[int, int]]:
        """Offset and size in the blob of each run of ``pieces`` (a set numbered in the manifest)."""
        blob, runs = self.blob, []
        for first, end in iter_runs(pieces & self.pieces):
            offset = (first - blob.first_piece) * blob.piece_size
            runs.append((offset, min(blob.size, (end - blob.first_piece) * blob.piece_size) - offset))
        return runs


class ReadFiles:
    """Descriptors of whole files, opened on demand, at most ``limit`` at once: a repository can have 50,000 files."""

    def __init__(self, graveyard: Graveyard, *, limit: int = 256) -> None:
        self._graveyard = graveyard
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Slot] = OrderedDict()

    def fd(self, slot: Slot) -> int:
        """The descriptor of the slot's source.

        Raises:
            KeyError: the file is gone, or is no longer the one that was verified.
        """
        with self._lock:
            if slot.fd < 0:
                if slot.source is None:
                    raise KeyError(slot.blob.first_piece)
                try:
                    fd = os.open(slot.source, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise KeyError(slot.blob.first_piece) from error
                status = os.fstat(fd)
                if (status.st_ino, status.st_size) != (slot.inode, slot.blob.size):
                    os.close(fd)
                    raise KeyError(slot.blob.first_piece)
                slot.fd = fd
            self._use(slot)
            return slot.fd

    def adopt(self, slot: Slot, fd: int, source: Path) -> None:
        """Takes ``fd``, until now a part's, over for reading: the same number, from now on read-only, of ``source``."""
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        status, own = os.fstat(reading), os.fstat(fd)
        # A place that was there before is another file of the same content. So is what another node that shares the
        # folder has put there since; anybody else's file is read before it is believed.
        if source not in slot.in_place and (status.st_dev, status.st_ino) != (own.st_dev, own.st_ino):
            try:
                if status.st_size != slot.blob.size or not is_content(reading, slot.blob):
                    raise OSError(errno.ESTALE, "another file was put in its place")
            except BaseException:
                os.close(reading)
                raise
        with self._lock:
            os.dup2(reading, fd, inheritable=False)
            os.close(reading)
            if slot.fd >= 0:
                self._graveyard.bury(slot.fd, blind=False)
            slot.fd, slot.source, slot.inode = fd, source, os.fstat(fd).st_ino
            self._use(slot)

    def _use(self, slot: Slot) -> None:
        self._open[slot.blob.index] = slot
        self._open.move_to_end(slot.blob.index)
        while len(self._open) > self._limit:
            _, oldest = self._open.popitem(last=False)
            self._graveyard.bury(oldest.fd, blind=False)
            oldest.fd = -1

    def close(self, slots: Iterable[Slot]) -> None:
        """Ends all reading."""
        with self._lock:
            self._open.clear()
            for slot in slots:
                slot.source = None
                if slot.fd >= 0:
                    self._graveyard.bury(slot.fd, blind=True)
                    slot.fd = -1


def leave_part(slot: Slot, folder: Folder, table: PieceTable, graveyard: Graveyard, *, keep: bool) -> None:
    """Ends the slot's part file at the close of a pull. With the slot's lock.

    Args:
        slot: the blob.
        folder: where its part file is.
        table: what is held.
        graveyard: takes the descriptor.
        keep: pieces that are recorded stay, and room that holds nothing is given back; else all goes.
    """
    part, blob = slot.part, slot.blob
    slot.part = None
    if slot.stage is Stage.PUBLISHED and part is None:
        return
    if part is None:
        if folder.lstat(slot.part_name) is None or (keep and slot.recorded):
            return
        try:
            part = PartFile.open(folder, slot.part_name, blob)
        except PartBusyError:
            return
    if blob.piece_count > 1:
        kept = piece_set(index for index, _ in part.recorded()) << blob.first_piece
    else:
        kept = slot.pieces if slot.recorded or table.all_held(blob.first_piece, blob.end_piece) else 0
    if keep and kept:
        part.release_room(slot.byte_runs(slot.pieces & ~kept))
    else:
        part.unlink()
    for number in range(1, len(blob.paths)):
        folder.remove(f"{part.name}.{number}")
    part.close(graveyard)


def end_claim(claims: dict[int, int], piece: int) -> int:
    """Ends one writer's claim on a piece; the number of others left."""
    left = claims.get(piece, 0) - 1
    if left > 0:
        claims[piece] = left
    else:
        claims.pop(piece, None)
    return max(left, 0)


def evict_pieces(slot: Slot, pieces: int, table: PieceTable, claimed: Container[int], graveyard: Graveyard) -> int:
    """Gives back the room of pieces of an open part file that this node does not want; all of it where nothing is left.

    Returns:
        The pieces that are gone.
    """
    with slot.lock:
        part = slot.part
        if part is None or slot.stage is not Stage.OPEN:
            return 0
        gone = 0
        for piece in iter_bits(pieces & slot.pieces & ~slot.wanted):
            if table.is_held(piece) and piece not in claimed:
                with disk_errors(part.folder.path(part.name)):
                    part.erase(piece - slot.blob.first_piece)
                table.drop(piece)
                slot.contested.discard(piece)
                gone |= 1 << piece
        part.release_room(slot.byte_runs(gone))
        wanted = slot.wanted or slot.whole or any(piece in claimed for piece in iter_bits(slot.pieces))
        if not wanted and not any(table.is_held(piece) for piece in iter_bits(slot.pieces)):
            part.unlink()
            part.close(graveyard)
            slot.part = None
    return gone


def open_part(slot: Slot, folder: Folder) -> PartFile:
    """Opens a slot's part file; or one beside it, when another pull of this node is at work on that content."""
    name = slot.part_name
    for number in range(2, _MAX_SAME_PARTS):
        try:
            part = PartFile.open(folder, name, slot.blob, reserve=slot.byte_runs(slot.wanted))
        except PartBusyError:
            name = f"{slot.part_name}-{number}"
        else:
            slot.part_name = name
            return part
    raise PartBusyError(f"{folder.path(slot.part_name)} is in use by too many pulls.")
