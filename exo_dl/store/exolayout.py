"""A folder that exo takes as a complete model: ``<models directory>/<org>--<name>/<path>``.

exo looks for an index of safetensors files and for the files that it names, and for nothing else. So a file is
verified before it gets its name, and the index comes last; a model of a single file gets one that is made here.
Everything is put together under ``.exo-dl`` beside the models, where exo does not look.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.errors import StorageError, UsageError
from exo_dl.formats import safetensors
from exo_dl.store.folder import Folder, disk_errors
from exo_dl.store.hflayout import Staged, cached_blobs, copy_file, require_room

__all__ = ["ExoLayout", "check_for_exo", "default_models_dir"]

_INDEX = ".safetensors.index.json"
_INDEX_LIMIT = 64 << 20


def default_models_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where exo keeps its models: ``EXO_DEFAULT_MODELS_DIR``, or the folder of its platform."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("EXO_DEFAULT_MODELS_DIR", "").strip():
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / ".exo" / "models"
    return Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "exo" / "models"


class ExoLayout:
    """See `exo_dl.store.publish.Layout`.

    Args:
        root: the models directory; made when missing.
        hf_cache_dir: a Hugging Face cache to look for contents in; None: none.
    """

    name = "exo"

    def __init__(self, root: Path, *, hf_cache_dir: Path | None = None) -> None:
        self.folder = Folder(root)
        self._cache = hf_cache_dir

    def part_name(self, manifest: Manifest, blob: Blob, node_id: str) -> str:
        """Under ``.exo-dl/<node>/<model>/``."""
        return f".exo-dl/{node_id}/{_model(manifest)}/{blob.etag}"

    def existing(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """The files of these names in the model's folder, then blobs of the cache."""
        names = (f"{_model(manifest)}/{path}" for path in blob.paths)
        own = [self.folder.path(name) for name in names if self.folder.is_file(name, size=blob.size)]
        return own + (cached_blobs(self._cache, manifest, blob) if self._cache is not None else [])

    def places(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """One for each path."""
        return [self.folder.path(f"{_model(manifest)}/{path}") for path in blob.paths]

    def check_room(self, needed_bytes: int) -> None:
        """Raises StorageError when the disk has less."""
        require_room(self.folder.root, needed_bytes)

    def parts_folder(self, manifest: Manifest, node_id: str) -> str:
        """There is none: exo takes complete models."""
        raise StorageError("exo takes complete models only.", hint="Use another --layout for parts of a model.")

    def publish_blob(self, manifest: Manifest, blob: Blob, part: str, *, in_place: frozenset[Path]) -> Path:
        """Leaves the part where it is, with a copy for each further path of the same content."""
        for number, _ in enumerate(self._missing(manifest, blob, in_place)[1:], 1):
            copy_file(self.folder, part, f"{part}.{number}", blob.size)
        return self.folder.path(part)

    def finish(self, manifest: Manifest, revision: str, held: Mapping[int, Staged]) -> Path:
        """Renames everything into place, the indexes last.

        Raises:
            StorageError: also where the files that were selected are no model that exo takes.
        """
        model = _model(manifest)
        moves: list[tuple[str, str]] = []
        for index, staged in held.items():
            names = self._missing(manifest, manifest.blobs[index], staged.in_place)
            moves += [(f"{staged.part}.{n}" if n else staged.part, name) for n, name in enumerate(names)]
        self.folder.make(model)
        for old, new in sorted(moves, key=lambda move: move[1].endswith(_INDEX)):
            if new.endswith(_INDEX):
                self._check_index(model, manifest, old)
            self.folder.rename(old, new)
        with disk_errors(self.folder.path(model)):
            fd = os.open(self.folder.path(model), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._make_index(model, manifest)
        for parent in {staged.part.rpartition("/")[0] for staged in held.values()}:
            self.folder.prune(parent)
        return self.folder.path(model)

    def _missing(self, manifest: Manifest, blob: Blob, in_place: frozenset[Path]) -> list[str]:
        names = [f"{_model(manifest)}/{path}" for path in blob.paths]
        return [name for name in names if self.folder.path(name) not in in_place]

    def _check_index(self, model: str, manifest: Manifest, index: str) -> None:
        """An index that names what was left out makes a model that exo takes and cannot load."""
        try:
            listed = set(json.loads(self.folder.read(index, limit=_INDEX_LIMIT) or b"")["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StorageError(f"The index of {manifest.repo} cannot be read, so exo could not load it.") from None
        missing = sorted(str(name) for name in listed if self.folder.lstat(f"{model}/{name}") is None)
        if missing:
            raise StorageError(
                f"{manifest.repo} was not given to exo: its index names {missing[0]!r}, which was not selected.",
                hint="Pull it without --include and --exclude.",
            )

    def _make_index(self, model: str, manifest: Manifest) -> None:
        """An index for a model of one file, which has none."""
        if any(f.path.endswith(_INDEX) for f in manifest.files):
            return
        names: dict[str, str] = {}
        total = 0
        weights = [f for f in manifest.files if "/" not in f.path and f.path.endswith(".safetensors")]
        for entry in weights:
            fd = self.folder.open(f"{model}/{entry.path}", os.O_RDONLY)
            try:
                with disk_errors(self.folder.path(f"{model}/{entry.path}")):
                    size = safetensors.header_size(os.pread(fd, 8, 0), entry.size, file=entry.path)
                    header = safetensors.parse_header(os.pread(fd, size, 0), entry.size, file=entry.path)
            finally:
                os.close(fd)
            names |= {tensor.name: entry.path for tensor in header.tensors}
            total += sum(tensor.size for tensor in header.tensors)
        self.folder.write(f"{model}/model{_INDEX}", safetensors.build_index(names, total))


def check_for_exo(manifest: Manifest) -> None:
    """Raises UsageError where no model that exo takes can come of these files."""
    if not any(f.path.endswith(".safetensors") for f in manifest.files):
        raise UsageError(
            f"{manifest.repo} has no safetensors files, and exo loads no others.", hint="Use another --layout."
        )


def _model(manifest: Manifest) -> str:
    return manifest.repo.replace("/", "--")
