"""Where the bytes of pieces lie: what the store hands to the threads that move them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Extent"]


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in an open file.

    The descriptor belongs to the store. It stays usable until the store is closed, and for a minute after that it
    leads to an empty file, so a thread that is late reads nothing and writes nowhere. Nobody else closes it.

    Attributes:
        fd: descriptor for `os.pread`, `os.pwrite` and `os.sendfile`; its file position means nothing.
        offset: of the first byte in that file.
        size: bytes.
    """

    fd: int
    offset: int
    size: int
