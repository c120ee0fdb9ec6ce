"""A plain folder as a target: the repository's files under their names, as ``hf download --local-dir`` leaves them.

Everything is put together under ``.exo-dl/<node>/`` and renamed into place at the very end, so that a pull that fails
or is cancelled changes nothing that a program can see.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.store.folder import Folder, disk_errors
from exo_dl.store.hflayout import Staged, cached_blobs, copy_file, require_room
from exo_dl.store.tree import CACHEDIR_TAG, write_tree

__all__ = ["DirLayout"]

_log = logging.getLogger(__name__)
_META = ".cache/huggingface"


class DirLayout:
    """See `exo_dl.store.publish.Layout`.

    Args:
        path: the folder; made when missing.
        hf_cache_dir: a Hugging Face cache to look for contents in; None: none.
    """

    name = "dir"

    def __init__(self, path: Path, *, hf_cache_dir: Path | None = None) -> None:
        self.folder = Folder(path)
        self._cache = hf_cache_dir

    def part_name(self, manifest: Manifest, blob: Blob, node_id: str) -> str:
        """Under ``.exo-dl/<node>/``."""
        return f".exo-dl/{node_id}/{blob.etag}"

    def existing(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """The files of these names in the folder, then blobs of the cache."""
        own = [self.folder.path(path) for path in blob.paths if self.folder.is_file(path, size=blob.size)]
        return own + (cached_blobs(self._cache, manifest, blob) if self._cache is not None else [])

    def places(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """One for each path."""
        return [self.folder.path(path) for path in blob.paths]

    def check_room(self, needed_bytes: int) -> None:
        """Raises StorageError when the disk has less."""
        require_room(self.folder.root, needed_bytes)

    def parts_folder(self, manifest: Manifest, node_id: str) -> str:
        """The folder itself."""
        return ""

    def publish_blob(self, manifest: Manifest, blob: Blob, part: str, *, in_place: frozenset[Path]) -> Path:
        """Leaves the part where it is, with a copy for each further path of the same content."""
        for number, _ in enumerate(self._missing(blob, in_place)[1:], 1):
            copy_file(self.folder, part, f"{part}.{number}", blob.size)
        return self.folder.path(part)

    def finish(self, manifest: Manifest, revision: str, held: Mapping[int, Staged]) -> Path:
        """Renames everything into place, with the notes that ``hf`` reads to know files as up to date."""
        with disk_errors(self.folder.root), self._alone():
            if self.folder.lstat(f"{_META}/.gitignore") is None:
                self.folder.write(f"{_META}/.gitignore", b"*")
                self.folder.write(f"{_META}/CACHEDIR.TAG", CACHEDIR_TAG)
            write_tree(self.folder, f"{_META}/trees/{manifest.commit}.json", manifest)
            for index, staged in held.items():
                blob = manifest.blobs[index]
                for number, path in enumerate(self._missing(blob, staged.in_place)):
                    self._set_aside(path)
                    self.folder.rename(f"{staged.part}.{number}" if number else staged.part, path)
                for path in blob.paths:
                    note = f"{manifest.commit}\n{blob.etag}\n{time.time()}\n"
                    self.folder.write(f"{_META}/download/{path}.metadata", note.encode())
        for parent in {staged.part.rpartition("/")[0] for staged in held.values()}:
            self.folder.prune(parent)
        return self.folder.root

    def _missing(self, blob: Blob, in_place: frozenset[Path]) -> list[str]:
        return [path for path in blob.paths if self.folder.path(path) not in in_place]

    def _set_aside(self, path: str) -> None:
        """Keeps a file that did not come from a hub unchanged: it may be somebody's own work."""
        status = self.folder.lstat(path)
        if status is None:
            return
        note = (self.folder.read(f"{_META}/download/{path}.metadata", limit=4096) or b"").split()
        try:
            # huggingface_hub's own rule: not changed later than a second after it was noted.
            if len(note) == 3 and status.st_mtime - 1 <= float(note[2]):
                return
        except ValueError:
            _log.debug("%s has a damaged note.", path)
        kept = f".exo-dl/replaced/{time.strftime('%Y%m%d-%H%M%S')}/{path}"
        self.folder.rename(path, kept)
        _log.warning("%s had other content; it is kept as %s.", self.folder.path(path), self.folder.path(kept))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One node at a time puts files into the folder."""
        os.makedirs(self.folder.root, exist_ok=True)
        fd = os.open(self.folder.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
