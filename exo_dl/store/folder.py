"""A folder that is entered through its descriptor only: no link planted inside of it leads anywhere else."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from exo_dl.errors import StorageError
from exo_dl.store.parents import Parents

__all__ = ["Folder", "bytes_text", "disk_errors", "free_bytes", "write_bytes"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def bytes_text(size: int) -> str:
    """``size`` as a person reads it: "12.3 GB" (powers of 1000)."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk of ``path``, which need not exist yet.

    Raises:
        OSError: the disk gives no answer.
    """
    while True:
        try:
            status = os.statvfs(path)
        except FileNotFoundError:
            if path == path.parent:
                raise
            path = path.parent
        else:
            return status.f_bavail * status.f_frsize


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns each OSError of the block into a StorageError that names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        raise _storage_error(error, Path(path)) from error


def _storage_error(error: OSError, path: Path) -> StorageError:
    code = error.errno
    if code in (errno.ENOSPC, errno.EDQUOT):
        try:
            free = f" ({bytes_text(free_bytes(path))} free)"
        except OSError:
            free = ""
        return StorageError(f"The disk is full{free}: {path} cannot be written.", hint="Make room, then pull again.")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = "is on a read-only file system" if code == errno.EROFS else "may not be written by this user"
        return StorageError(f"{path} {why}.", hint="Choose another folder, or change who may write there.")
    if code in (errno.ELOOP, errno.ENOTDIR):
        return StorageError(
            f"{path} passes through a symbolic link or through something that is no folder.",
            hint="Inside of a target folder links are not followed: name the real folder as the target.",
        )
    return StorageError(f"{path}: {error.strerror or error}.", hint="Check the disk and the folder.")


def write_bytes(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _enter(root: str, name: str, create: bool) -> int:
    """Opens the folder ``name`` ("": the root)."""
    if create:
        os.makedirs(root, exist_ok=True)
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in name.split("/") if name else ():
            if part in ("", ".", ".."):
                raise OSError(errno.EINVAL, f"{name!r} is no plain relative path")
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=at)
            except FileNotFoundError:
                if not create:
                    raise
                with suppress(FileExistsError):  # Another node may have made it just now.
                    os.mkdir(part, dir_fd=at)
                inner = os.open(part, _DIRECTORY, dir_fd=at)
            os.close(at)
            at = inner
    except BaseException:
        os.close(at)
        raise
    return at


class Folder:
    """Files and folders below ``root``, named by relative paths with "/" (no "..", checked by the caller).

    The root itself may be reached through links: a person chose it. Every method raises StorageError where the disk
    fails.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        root_text = str(self.root)
        # Not of bound methods: the descriptors are closed when this object is gone.
        self._parents = Parents(enter=partial(_enter, root_text), path=partial(os.path.join, root_text))

    def path(self, name: str) -> Path:
        """The absolute path of ``name``."""
        return self.root / name

    @contextmanager
    def _at(self, name: str, *, create: bool) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that holds ``name``, and the last part of ``name``."""
        parent, slash, last = name.rpartition("/")
        if slash and not parent:
            raise OSError(errno.EINVAL, f"{name!r} is no plain relative path")
        with self._parents.at(parent, create=create) as at:
            yield at, last

    def open(self, name: str, flags: int, *, create: bool = False) -> int:
        """Opens a file; ``create`` makes it and its parents where they are missing."""
        with disk_errors(self.path(name)):
            return self.open_raw(name, flags, create=create)

    def open_raw(self, name: str, flags: int, *, create: bool = False) -> int:
        """`open` that raises OSError, for callers that expect one."""
        with self._at(name, create=create) as (at, last):
            more = os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            return os.open(last, flags | more, 0o666, dir_fd=at)

    def folds_names(self) -> bool:
        """Whether this disk takes names for one that differ in case, or in the form of their Unicode, alone."""
        stem = f".{secrets.token_hex(6)}"
        with disk_errors(self.root), self._at(f"{stem}-\u00e9A", create=True) as (at, last):
            os.close(os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=at))
            try:
                for twin in (f"{stem}-\u00e9a", f"{stem}-e\u0301A"):
                    with suppress(FileNotFoundError):
                        os.stat(twin, dir_fd=at, follow_symlinks=False)
                        return True
            finally:
                os.unlink(last, dir_fd=at)
        return False

    def make(self, name: str) -> Path:
        """Makes the folder ``name`` with its parents."""
        with disk_errors(self.path(name)), self._at(f"{name}/x", create=True):
            return self.path(name)

    def lstat(self, name: str) -> os.stat_result | None:
        """Status of ``name`` itself, links not followed; None where there is nothing, or a link on the way."""
        try:
            with self._at(name, create=False) as (at, last):
                return os.stat(last, dir_fd=at, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise _storage_error(error, self.path(name)) from error

    def is_file(self, name: str, *, size: int) -> bool:
        """True for a plain file of ``size`` bytes."""
        status = self.lstat(name)
        return status is not None and stat.S_ISREG(status.st_mode) and status.st_size == size

    def names(self, name: str) -> list[str]:
        """What is in the folder ``name``; empty when there is none."""
        try:
            with self._at(f"{name}/x", create=False) as (at, _):
                return os.listdir(at)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def rename(self, old: str, new: str) -> None:
        """Renames a file; a file at ``new`` is replaced in one step."""
        with (
            disk_errors(self.path(new)),
            self._at(old, create=False) as (source, a),
            self._at(new, create=True) as (to, b),
        ):
            os.replace(a, b, src_dir_fd=source, dst_dir_fd=to)

    def link(self, name: str, target: str) -> None:
        """Makes ``name`` a symbolic link to ``target``; replaces what else is there in one step.

        Raises:
            StorageError: with an errno of EPERM or EOPNOTSUPP as its cause where there are no symbolic links.
        """
        with disk_errors(self.path(name)), self._at(name, create=True) as (at, last):
            try:
                if os.readlink(last, dir_fd=at) == target:
                    return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
            draft = f".{secrets.token_hex(6)}.exo-dl"
            os.symlink(target, draft, dir_fd=at)
            try:
                os.replace(draft, last, src_dir_fd=at, dst_dir_fd=at)
            except OSError:
                os.unlink(draft, dir_fd=at)
                raise

    def hard_link(self, name: str, old: str) -> bool:
        """Makes ``name``, which is not there yet, the same file as ``old``. False where the file system cannot."""
        try:
            with self._at(old, create=False) as (source, a), self._at(name, create=True) as (to, b):
                os.link(a, b, src_dir_fd=source, dst_dir_fd=to, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            raise _storage_error(error, self.path(name)) from error
        return True

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens when there is none."""
        try:
            with self._at(name, create=False) as (at, last):
                os.unlink(last, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _storage_error(error, self.path(name)) from error

    def prune(self, name: str) -> None:
        """Removes the folder ``name`` and its parents as long as they are empty."""
        while name:
            try:
                with self._at(name, create=False) as (at, last):
                    os.rmdir(last, dir_fd=at)
            except OSError:
                return  # Not empty, or gone: either is fine.
            name = name.rpartition("/")[0]

    def read(self, name: str, *, limit: int) -> bytes | None:
        """The content of a small file; None where there is none or it is longer than ``limit`` bytes."""
        try:
            fd = self.open_raw(name, os.O_RDONLY)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file, disk_errors(self.path(name)):
            data = file.read(limit + 1)
        return data if len(data) <= limit else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file in one step: readers see the old content or the new, also after a power cut."""
        with disk_errors(self.path(name)), self._at(name, create=True) as (at, last):
            draft = f".{secrets.token_hex(6)}.exo-dl"
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=at)
            try:
                try:
                    write_bytes(fd, data, 0)
                    os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
                finally:
                    os.close(fd)
                os.replace(draft, last, src_dir_fd=at, dst_dir_fd=at)
            except OSError:
                os.unlink(draft, dir_fd=at)
                raise
