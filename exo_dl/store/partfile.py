"""One blob while it is being put together: the bytes in place, and beside them the digest of each written piece.

The record of a piece is one `pwrite` of 32 bytes into ``<name>.pieces`` right after its bytes were written: both are
with the kernel then, and a killed process loses neither. After a power cut a record may stand without its bytes, so
records are always checked against the bytes before they are believed. A blob of one piece has no ``.pieces``: its own
digest is all that is needed.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence

from exo_dl.core.manifest import Blob
from exo_dl.errors import StorageError
from exo_dl.store.folder import Folder, disk_errors, write_bytes
from exo_dl.store.osfile import Graveyard, allocated_bytes, deallocate, preallocate

__all__ = ["PartBusyError", "PartFile"]

DIGEST_BYTES = 32
_ABSENT = bytes(DIGEST_BYTES)
_HEADER = struct.Struct("<8sB32sQII")
_HEADER_BYTES = 128
_MAGIC = b"EXODLP1\n"


class PartBusyError(StorageError):
    """Another pull is putting this very file together."""


def _header(blob: Blob) -> bytes:
    packed = _HEADER.pack(_MAGIC, len(blob.digest), blob.digest, blob.size, blob.piece_size, blob.piece_count)
    return packed.ljust(_HEADER_BYTES, b"\0")


class PartFile:
    """A part file that this object holds locked.

    Attributes:
        name: relative to ``folder``.
        fd: the data, open for reading and writing.
    """

    def __init__(self, folder: Folder, name: str, blob: Blob, fd: int, record_fd: int) -> None:
        self.folder = folder
        self.name = name
        self.blob = blob
        self.fd = fd
        self._record_fd = record_fd

    @classmethod
    def open(cls, folder: Folder, name: str, blob: Blob, *, reserve: Sequence[tuple[int, int]] = ()) -> PartFile:
        """Opens or makes the part file ``name``. A file of another size or record of another blob is emptied.

        Args:
            folder: where it lies.
            name: its path in there.
            blob: what is put together.
            reserve: byte ranges (offset, size) to reserve room for.

        Raises:
            PartBusyError: it is open already, in this process or another.
            StorageError: the disk fails; a file that was made here is removed again.
        """
        fresh = folder.lstat(name) is None
        fd = folder.open(name, os.O_RDWR, create=True)
        record_fd = -1
        try:
            with disk_errors(folder.path(name)):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    fresh = False
                    raise PartBusyError(f"{folder.path(name)} is in use by another pull.") from None
                whole = os.fstat(fd).st_size == blob.size
                if not whole:
                    os.ftruncate(fd, 0)
                    os.ftruncate(fd, blob.size)
                if blob.piece_count > 1:
                    record_fd = folder.open(f"{name}.pieces", os.O_RDWR, create=True)
                    if not whole or os.pread(record_fd, _HEADER_BYTES, 0) != _header(blob):
                        os.ftruncate(record_fd, 0)
                        # Zeros are written, not left as a hole: a full disk must show now and not at some later piece.
                        write_bytes(record_fd, _header(blob) + _ABSENT * blob.piece_count, 0)
                for offset, size in reserve:
                    preallocate(fd, offset, size)
        except StorageError:
            os.close(fd)
            if record_fd >= 0:
                os.close(record_fd)
            if fresh:
                folder.remove(name)
                folder.remove(f"{name}.pieces")
            raise
        return cls(folder, name, blob, fd, record_fd)

    @staticmethod
    def peek(folder: Folder, name: str, blob: Blob) -> tuple[list[tuple[int, bytes]], int]:
        """What an earlier run left under ``name``, without opening it for work.

        Returns:
            The recorded pieces of the blob with their digests (for a blob of one piece: piece 0 with an empty digest),
            and the bytes that the file takes on disk.
        """
        status = folder.lstat(name)
        if status is None or status.st_size != blob.size:
            return [], 0
        on_disk = allocated_bytes(status)
        if blob.piece_count == 1:
            return [(0, b"")] if on_disk else [], on_disk
        data = folder.read(f"{name}.pieces", limit=_HEADER_BYTES + DIGEST_BYTES * blob.piece_count)
        if data is None or not data.startswith(_header(blob)):
            return [], on_disk
        return _records(data[_HEADER_BYTES:]), on_disk

    def record(self, piece: int, digest: bytes) -> None:
        """Notes that ``piece`` (numbered within the blob) is written and has this BLAKE3 digest (32 bytes)."""
        if self._record_fd >= 0:
            os.pwrite(self._record_fd, digest, _HEADER_BYTES + DIGEST_BYTES * piece)

    def erase(self, piece: int) -> None:
        """The piece is lost again."""
        self.record(piece, _ABSENT)

    def still(self, piece: int, digest: bytes) -> bool:
        """Whether the record of ``piece`` still names this digest. A blob of one piece has none, and it is true."""
        at = _HEADER_BYTES + DIGEST_BYTES * piece
        return self._record_fd < 0 or os.pread(self._record_fd, DIGEST_BYTES, at) == digest

    def recorded(self) -> list[tuple[int, bytes]]:
        """The recorded pieces, in order, with their digests; not checked against the bytes."""
        if self._record_fd < 0:
            return []
        return _records(os.pread(self._record_fd, DIGEST_BYTES * self.blob.piece_count, _HEADER_BYTES))

    def sync(self) -> None:
        """Returns when the data is on disk."""
        with disk_errors(self.folder.path(self.name)):
            os.fdatasync(self.fd) if hasattr(os, "fdatasync") else os.fsync(self.fd)

    def release_room(self, runs: Sequence[tuple[int, int]]) -> None:
        """Gives back the room of byte ranges (offset, size) that hold nothing."""
        with disk_errors(self.folder.path(self.name)):
            for offset, size in runs:
                deallocate(self.fd, offset, size)

    def detach(self) -> int:
        """Ends the record and hands the data's descriptor over; the object is of no use after this."""
        fd, self.fd = self.fd, -1
        if self._record_fd >= 0:
            os.close(self._record_fd)
            self._record_fd = -1
        return fd

    def close(self, graveyard: Graveyard) -> None:
        """Lets the file go (lock too). A late writer's bytes vanish."""
        if self.fd >= 0:
            graveyard.bury(self.detach(), blind=True)

    def unlink(self) -> None:
        """Removes the file and its record."""
        self.folder.remove(self.name)
        self.unlink_record()

    def unlink_record(self) -> None:
        """Removes the record alone: the data was published."""
        self.folder.remove(f"{self.name}.pieces")


def _records(data: bytes) -> list[tuple[int, bytes]]:
    digests = (data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES))
    return [
        (piece, digest) for piece, digest in enumerate(digests) if digest != _ABSENT and len(digest) == DIGEST_BYTES
    ]
