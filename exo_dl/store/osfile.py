"""Calls on files that Python's `os` lacks or that need a fallback; and descriptors that nobody gets again too early."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
import time
from collections import deque

__all__ = ["Graveyard", "allocated_bytes", "copy_range", "deallocate", "preallocate", "start_writeback"]

_LINUX = sys.platform.startswith("linux")
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_SYNC_WRITE = 2
_COPY_BYTES = 8 << 20
# A file system that cannot do a thing says so with one of these; what was asked for is then only an optimisation.
_CANNOT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ESPIPE, errno.EXDEV, errno.EPERM}

_libc = ctypes.CDLL(None, use_errno=True) if _LINUX else None


def _call(name: str, *args: object) -> int:
    """The errno of a libc function, 0 when it worked, ENOSYS where there is none."""
    function = getattr(_libc, name, None) if _libc is not None else None
    if function is None:
        return errno.ENOSYS
    return 0 if function(*args) == 0 else ctypes.get_errno()


def preallocate(fd: int, offset: int, size: int) -> None:
    """Reserves blocks for a range, so that later writes into it cannot meet a full disk.

    Not `os.posix_fallocate`: where a file system cannot do it, glibc writes into every block instead. There this
    function does nothing.

    Raises:
        OSError: the disk is full, or another failure of the disk.
    """
    code = _call("fallocate", fd, 0, ctypes.c_int64(offset), ctypes.c_int64(size))
    if code and code not in _CANNOT:
        raise OSError(code, os.strerror(code))


def deallocate(fd: int, offset: int, size: int) -> None:
    """Gives the blocks of a range back; its bytes read as zeros. Does nothing where the file system cannot."""
    code = _call("fallocate", fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(size))
    if code and code not in _CANNOT:
        raise OSError(code, os.strerror(code))


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Asks the kernel to begin writing a range to disk now: the sync at the end of a file then finds little to do."""
    code = _call("sync_file_range", fd, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_WRITE)
    if code and code not in _CANNOT:
        raise OSError(code, os.strerror(code))


def allocated_bytes(status: os.stat_result) -> int:
    """Bytes on disk of a file, at most its size."""
    return min(status.st_blocks * 512, status.st_size)


def copy_range(
    source: int, target: int, size: int, stop: threading.Event, *, source_at: int = 0, target_at: int = 0
) -> bool:
    """Copies ``size`` bytes from one file over those of another; shares blocks where the file system can.

    Args:
        source: descriptor to read.
        target: descriptor to write.
        size: bytes.
        stop: ends the copy within 8 MiB.
        source_at: offset of the first byte to read.
        target_at: where it goes.

    Returns:
        False when ``stop`` was set before the end.

    Raises:
        OSError: of the disk; EIO when the source is shorter than ``size``.
    """
    by_kernel = hasattr(os, "copy_file_range")
    at = 0
    while at < size:
        if stop.is_set():
            return False
        step = min(_COPY_BYTES, size - at)
        if by_kernel:
            try:
                done = os.copy_file_range(source, target, step, source_at + at, target_at + at)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                by_kernel = False
                continue
        else:
            done = os.pwrite(target, os.pread(source, step, source_at + at), target_at + at)
        if done == 0:
            raise OSError(errno.EIO, "the file to copy from is shorter than it was")
        at += done
    return True


class Graveyard:
    """Descriptors that no new user gets, but that a thread may still use for a moment.

    A number that is closed at once can be given to another file while a late thread writes to it. So a buried
    descriptor keeps its number for ``grace_s`` seconds.
    """

    def __init__(self, *, grace_s: float = 60.0) -> None:
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._buried: deque[tuple[float, int]] = deque()

    def bury(self, fd: int, *, blind: bool) -> None:
        """Closes ``fd`` after the grace time.

        Args:
            fd: the descriptor.
            blind: from now on it leads to ``/dev/null``; its file is let go (locks too) at once.
        """
        if blind:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, fd, inheritable=False)
            os.close(null)
        now = time.monotonic()
        with self._lock:
            self._buried.append((now + self._grace_s, fd))
            due = []
            while self._buried and self._buried[0][0] <= now:
                due.append(self._buried.popleft()[1])
        for old in due:
            os.close(old)
