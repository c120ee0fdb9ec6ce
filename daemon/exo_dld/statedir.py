"""The state directory of one daemon: its lock, and the node id that outlives restarts."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from exo_dl.errors import AlreadyRunningError, StorageError
from exo_dl.net.identity import is_node_id, new_node_id

__all__ = ["StateDir"]


class StateDir:
    """A state directory that belongs to this process alone until `close`.

    Args:
        path: made, with mode 0700, where it is missing.

    Raises:
        AlreadyRunningError: another daemon uses it.
        StorageError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError(
                f"The state directory {path} cannot be used: {error.strerror}.",
                hint="Choose another one with --state-dir, or correct its permissions.",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise AlreadyRunningError(
                f"A daemon{f' (process {pid})' if pid.isdigit() else ''} already uses the state directory {path}.",
                hint="Stop it first, or give this one another --state-dir and HF_HOME.",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def node_id(self) -> str:
        """This node's id, made at the first start."""
        path = self.path / "node_id"
        try:
            text = path.read_text("ascii").strip()
            if is_node_id(text):
                return text
        except (FileNotFoundError, UnicodeDecodeError):
            pass
        except OSError as error:
            raise StorageError(f"The node id in {path} cannot be read: {error.strerror}.") from error
        text = new_node_id()
        staged = path.with_suffix(".new")
        try:
            staged.write_text(text + "\n", "ascii")
            os.replace(staged, path)
        except OSError as error:
            raise StorageError(f"The node id cannot be stored in {path}: {error.strerror}.") from error
        return text

    def close(self) -> None:
        """Gives the directory free."""
        os.close(self._fd)
