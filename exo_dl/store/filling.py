"""Files made of runs of other files: copied by the kernel, and written to the disk while the next are copied."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from types import TracebackType

from exo_dl.errors import StorageError
from exo_dl.store.folder import Folder, disk_errors, write_bytes
from exo_dl.store.osfile import copy_range, start_writeback

__all__ = ["Filled", "Filling"]

_STEP_BYTES = 16 << 20
_MAX_UNSYNCED = 64


@dataclass(frozen=True, slots=True)
class Filling:
    """A file to be written: its size, its header, and (offset in the source, offset in it, bytes) of what follows."""

    size: int
    header: bytes
    runs: tuple[tuple[int, int, int], ...]


class Filled:
    """Files that are being filled, for a with statement. What is copied is written to the disk meanwhile; they are
    synced together: one after the other each would wait for a commit of the file system's journal of its own.
    """

    def __init__(self, folder: Folder, stop: threading.Event) -> None:
        self._folder = folder
        self._stop = stop
        self._unsynced: list[tuple[str, int]] = []

    def __enter__(self) -> Filled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle(sync=error is None)

    def _settle(self, *, sync: bool) -> None:
        unsynced, self._unsynced = self._unsynced, []
        try:
            for name, fd in unsynced if sync else ():
                with disk_errors(self._folder.path(name)):
                    os.fsync(fd)
        finally:
            for _, fd in unsynced:
                os.close(fd)

    def fill(self, name: str, source: int, plan: Filling) -> None:
        """Makes a file as planned, of what the descriptor ``source`` reads.

        Raises:
            StorageError: the disk fails, or ``stop`` was set.
        """
        fd = self._folder.open(name, os.O_RDWR | os.O_TRUNC, create=True)
        try:
            with disk_errors(self._folder.path(name)):
                os.ftruncate(fd, plan.size)
                if plan.header:
                    write_bytes(fd, plan.header, 0)
                for source_at, target_at, size in plan.runs:
                    self._copy(name, source, fd, source_at, target_at, size)
        except BaseException:
            os.close(fd)
            raise
        self._unsynced.append((name, fd))
        if len(self._unsynced) >= _MAX_UNSYNCED:
            self._settle(sync=True)

    def _copy(self, name: str, source: int, target: int, source_at: int, target_at: int, size: int) -> None:
        for done in range(0, size, _STEP_BYTES):
            step = min(_STEP_BYTES, size - done)
            places = {"source_at": source_at + done, "target_at": target_at + done}
            if not copy_range(source, target, step, self._stop, **places):
                raise StorageError(f"{self._folder.path(name)} was not written to its end: the pull has ended.")
            start_writeback(target, target_at + done, step)
