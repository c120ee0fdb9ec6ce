"""The cache of huggingface_hub as a target: ``blobs/`` by content, ``snapshots/`` of links, ``trees/``, ``refs/``.

A content enters ``blobs/`` as soon as it is verified: its name is its digest, so it is right whatever happens next.
What programs go by comes at the end, in an order that leaves each moment honest: the listing of the commit first (a
snapshot that lacks files then shows it), the links, and ``refs/`` last.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.core.paths import check_path
from exo_dl.errors import StorageError
from exo_dl.store.folder import Folder, bytes_text, disk_errors, free_bytes
from exo_dl.store.osfile import copy_range
from exo_dl.store.tree import CACHEDIR_TAG, write_tree

__all__ = ["HFLayout", "Staged", "cached_blobs", "require_room"]

_log = logging.getLogger(__name__)
_LOCK_WAIT_S = 2.0
_LOCK_LOOK_S = 0.05
# Below this, looking through all repositories of a cache costs more than it can save.
_SEARCH_MIN_BYTES = 1 << 20


class Staged:
    """A held content when the model is published.

    Attributes:
        part: the part file's name in the target folder (gone where the layout has taken it over).
        in_place: the final files that have the content already.
    """

    __slots__ = ("in_place", "part")

    def __init__(self, part: str, in_place: frozenset[Path]) -> None:
        self.part = part
        self.in_place = in_place


def require_room(path: Path, needed_bytes: int) -> None:
    """Raises StorageError with the figures when the disk of ``path`` has less room than ``needed_bytes``."""
    with disk_errors(path):
        free = free_bytes(path)
    if needed_bytes > free:
        raise StorageError(
            f"Too little room for {path}: {bytes_text(needed_bytes)} needed, {bytes_text(free)} free.",
            hint=f"Make {bytes_text(needed_bytes - free)} more room, or choose another disk.",
        )


def cached_blobs(cache: Path, manifest: Manifest, blob: Blob) -> list[Path]:
    """Files in a Hugging Face cache that should have this content: of this repository first, then of others."""
    own = cache / repo_folder(manifest)
    places = [own / "blobs" / blob.etag]
    # Where a cache has no links, the snapshot holds the files themselves.
    places += [own / "snapshots" / manifest.commit / path for path in blob.paths]
    if blob.size >= _SEARCH_MIN_BYTES:
        try:
            others = sorted(entry.name for entry in os.scandir(cache) if "--" in entry.name and entry.name != own.name)
        except OSError:
            others = []
        places += [cache / name / "blobs" / blob.etag for name in others]
    found: dict[tuple[int, int], Path] = {}
    for place in places:
        try:
            # Links are followed for reading: to the blobs of a snapshot, and to the store that caches share.
            status = place.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size == blob.size:
            found.setdefault((status.st_dev, status.st_ino), place)
    return list(found.values())


def repo_folder(manifest: Manifest) -> str:
    """The name of a repository's folder in the cache."""
    return "--".join([f"{manifest.repo_type}s", *manifest.repo.split("/")])


class HFLayout:
    """See `exo_dl.store.publish.Layout`.

    Args:
        hf_cache_dir: the cache ("hub" folder) that programs use; made when missing.
    """

    name = "hf"

    def __init__(self, hf_cache_dir: Path) -> None:
        self.folder = Folder(hf_cache_dir)

    def part_name(self, manifest: Manifest, blob: Blob, node_id: str) -> str:
        """In ``blobs/``, with the node's id, for several nodes may share a cache."""
        return f"{self._blob_name(manifest, blob)}.{node_id}.exo-dl"

    def existing(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """Blobs of that name and size, in this repository's folder and in others."""
        return cached_blobs(self.folder.root, manifest, blob)

    def places(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """One: the blob."""
        return [self.folder.path(self._blob_name(manifest, blob))]

    def check_room(self, needed_bytes: int) -> None:
        """Raises StorageError when the disk has less."""
        require_room(self.folder.root, needed_bytes)

    def parts_folder(self, manifest: Manifest, node_id: str) -> str:
        """Inside of the cache, and so on its disk; with the node's id, as caches are shared."""
        return f"exo-dl/{repo_folder(manifest)}/{manifest.commit}/{node_id}"

    def publish_blob(self, manifest: Manifest, blob: Blob, part: str, *, in_place: frozenset[Path]) -> Path:
        """Renames the part to the blob's name. What is there is replaced in one step: it is not verified, this is."""
        name = self._blob_name(manifest, blob)
        with self._lock(manifest, blob):
            self.folder.rename(part, name)
        return self.folder.path(name)

    def finish(self, manifest: Manifest, revision: str, held: Mapping[int, Staged]) -> Path:
        """Writes the listing, links the held files, then ``refs/``."""
        repo = repo_folder(manifest)
        snapshot = f"{repo}/snapshots/{manifest.commit}"
        if self.folder.lstat("CACHEDIR.TAG") is None:
            self.folder.write("CACHEDIR.TAG", CACHEDIR_TAG)
        write_tree(self.folder, f"{repo}/trees/{manifest.commit}.json", manifest)
        self.folder.make(snapshot)
        for index in held:
            blob = manifest.blobs[index]
            for path in blob.paths:
                self._point(manifest, f"{snapshot}/{path}", blob)
        if revision and revision != manifest.commit:
            check_path(revision)
            ref = f"{repo}/refs/{revision}"
            if self.folder.read(ref, limit=64) != manifest.commit.encode():
                self.folder.write(ref, manifest.commit.encode())
        return self.folder.path(snapshot)

    def _blob_name(self, manifest: Manifest, blob: Blob) -> str:
        return f"{repo_folder(manifest)}/blobs/{blob.etag}"

    def _point(self, manifest: Manifest, name: str, blob: Blob) -> None:
        depth = name.count("/") - 1
        try:
            self.folder.link(name, "../" * depth + f"blobs/{blob.etag}")
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            copy_file(self.folder, self._blob_name(manifest, blob), name, blob.size)

    @contextmanager
    def _lock(self, manifest: Manifest, blob: Blob) -> Iterator[None]:
        """The flock that huggingface_hub takes for this blob. It is a courtesy: renames are safe without it."""
        name = f".locks/{repo_folder(manifest)}/{blob.etag}.lock"
        fd = -1
        try:
            fd = self.folder.open(name, os.O_RDWR, create=True)
            with suppress(OSError):  # another user's
                os.fchmod(fd, 0o664)
            if not _locked(fd):
                _log.info("Another program holds the lock of %s for long; published without it.", blob.etag)
        except (OSError, StorageError) as error:
            _log.debug("%s cannot be locked: %s", self.folder.path(name), error)
        try:
            yield
        finally:
            if fd >= 0:
                os.close(fd)


def _locked(fd: int) -> bool:
    """Whether the file could be locked within `_LOCK_WAIT_S`. Closing it ends the lock."""
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_LOCK_LOOK_S)
        else:
            return True


def copy_file(folder: Folder, source: str, target: str, size: int) -> None:
    """Copies a file inside of a folder, sharing blocks where possible; ``target`` appears whole or not at all."""
    draft = f"{target}.exo-dl-copy"
    with disk_errors(folder.path(target)):
        a = folder.open(source, os.O_RDONLY)
        try:
            b = folder.open(draft, os.O_RDWR | os.O_TRUNC, create=True)
            try:
                copy_range(a, b, size, threading.Event())
                os.fsync(b)
            except OSError:
                folder.remove(draft)
                raise
            finally:
                os.close(b)
        finally:
            os.close(a)
    folder.rename(draft, target)
