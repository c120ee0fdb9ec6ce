"""The headers of a model's weights, read before anything is pulled: from files that are here, else from the hub.

One node asks, a few KiB for each file. What is read so only decides who wants what; the bytes themselves are verified
as all others when they are pulled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.errors import FormatError, HubError, IntegrityError, UnknownStructureError
from exo_dl.formats import safetensors
from exo_dl.formats.tensors import FileStructure, ModelStructure
from exo_dl.formats.weights import beside, is_weights, main_set
from exo_dl.hubs.base import Hub
from exo_dl.hubs.reader import HubReader, RedirectCache
from exo_dl.store.verify import BlobHasher

__all__ = ["Structure", "read_structure"]

_FIRST_BYTES = 16 << 10
_MAX_CONFIG_BYTES = 4 << 20
_MAX_FILES = 2000
_READERS = 6


@dataclass(frozen=True, slots=True)
class Structure:
    """What a model is made of.

    Attributes:
        model: the tensors of the files that can be divided.
        config: of the model; None where it has none.
        beside: files that every node keeps whole, path -> bytes.
        note: which other weights no node gets, for a person; empty where there are none.
    """

    model: ModelStructure
    config: Mapping[str, Any] | None
    beside: Mapping[str, int]
    note: str


def read_structure(manifest: Manifest, hub: Hub, local: Callable[[Blob], Sequence[Path]]) -> Structure:
    """Reads all headers. Blocks.

    Args:
        manifest: the files.
        hub: where they are.
        local: files of this node that should have a content.

    Raises:
        UnknownStructureError: there is nothing that can be divided.
        FormatError: a header or an index that is damaged or lies.
        HubError, HubBusyError, AccessError, NotFoundError: as the hub answers.
    """
    files = _Files(manifest, hub, local)
    sizes = {f.path: f.size for f in manifest.files}
    weights = main_set(sizes)
    if weights is None:
        kind = "GGUF" if any(path.endswith(".gguf") for path in sizes) else "these"
        raise UnknownStructureError(
            f"{manifest.repo} has no safetensors files: {kind} files are moved whole.",
            hint="Say who gets which file with --place files and --want NODE='GLOB'.",
        )
    if weights.missing:
        raise FormatError(f"{manifest.repo} lacks {weights.missing[0]!r}, or it was left out of this pull.")
    folder = weights.folder
    # All at once, for each costs a round trip: an index hardly ever names other files than those that look like it.
    with ThreadPoolExecutor(_READERS, "headers") as pool:
        config = pool.submit(files.config, f"{folder}/config.json" if folder else "config.json")
        index = None if weights.index is None else pool.submit(files.whole, weights.index)
        headers = {path: pool.submit(files.header, path) for path in weights.files[:_MAX_FILES]}
        chosen = list(weights.files)
        if index is not None and weights.index is not None:
            named = safetensors.parse_index(index.result(), file=weights.index, files=files.all_paths)
            chosen = sorted(set(named.weight_map.values()))
            if absent := [path for path in chosen if path not in sizes]:
                raise FormatError(f"{weights.index!r} names {absent[0]!r}, which is not among the files of this pull.")
        if len(chosen) > _MAX_FILES:
            raise FormatError(f"{manifest.repo} has its weights in {len(chosen)} files; {_MAX_FILES} are the most.")
        headers |= {path: pool.submit(files.header, path) for path in chosen if path not in headers}
        model = ModelStructure({path: headers[path].result() for path in chosen}, "safetensors")
    kept = beside(sizes, weights)
    left = [path for path in sizes if path not in chosen and path not in kept and is_weights(path)]
    note = ""
    if left:
        size = sum(sizes[path] for path in left)
        note = f"No node gets {', '.join(left[:3])}{' and others' if left[3:] else ''} ({size} bytes): other weights."
    return Structure(model, config.result(), kept, note)


class _Files:
    """Beginnings of files, each read from where it is nearest."""

    def __init__(self, manifest: Manifest, hub: Hub, local: Callable[[Blob], Sequence[Path]]) -> None:
        self._manifest = manifest
        self._hub = hub
        self._local = local
        self._redirects = RedirectCache()
        self._blobs = {path: blob for blob in manifest.blobs for path in blob.paths}
        # An index may name files that this pull leaves out, but none that the repository does not have.
        self.all_paths = frozenset(f.path for f in (*manifest.files, *manifest.unselected))

    def header(self, path: str) -> FileStructure:
        """The structure of a safetensors file."""
        blob = self._blobs[path]
        for place in self._local(blob):
            try:
                with open(place, "rb") as file:
                    size = safetensors.header_size(file.read(safetensors.LENGTH_BYTES), blob.size, file=path)
                    file.seek(0)
                    return safetensors.parse_header(file.read(size), blob.size, file=path)
            except (OSError, FormatError):
                continue  # the hub has it too
        data = self._read(path, 0, min(_FIRST_BYTES, blob.size))
        size = safetensors.header_size(data, blob.size, file=path)
        if size > len(data):
            data += self._read(path, len(data), size)
        return safetensors.parse_header(data, blob.size, file=path)

    def whole(self, path: str) -> bytes:
        """A small file, with the digest that the hub lists: what is found here may be damaged, or not yet all there."""
        blob = self._blobs[path]
        if blob.size > safetensors.MAX_INDEX_BYTES:
            raise FormatError(f"{path!r} has {blob.size} bytes: too large for what it should be.")
        for place in self._local(blob):
            try:
                with open(place, "rb") as file:
                    data = file.read(blob.size + 1)
            except OSError:
                continue
            if _is_content(blob, data):
                return data
        data = self._read(path, 0, blob.size) if blob.size else b""
        if not _is_content(blob, data):
            raise IntegrityError(
                f"{path!r} does not have the digest that the hub lists for it.", hint="Try again later."
            )
        return data

    def config(self, path: str) -> Mapping[str, Any] | None:
        """``config.json``; None where there is none that can be read as one."""
        blob = self._blobs.get(path)
        if blob is None or blob.size > _MAX_CONFIG_BYTES:
            return None
        try:
            found = json.loads(self.whole(path))
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _read(self, path: str, first: int, end: int) -> bytes:
        blob = self._blobs[path]
        reader = HubReader(self._hub.headers_for, redirects=self._redirects)
        try:
            url = self._hub.file_url(self._manifest, path)
            data = memoryview(bytearray(end - first))
            with reader.open_range(url, first, end, etag=blob.etag, size=blob.size) as body:
                at = 0
                while at < len(data) and (count := body.readinto(data[at:])):
                    at += count
            if at < len(data):
                raise HubError(f"The hub's copy of {path!r} is shorter than it says.")
            return bytes(data)
        finally:
            reader.close()


def _is_content(blob: Blob, data: bytes) -> bool:
    digest = BlobHasher(blob.digest, blob.size)
    digest.update(data)
    return digest.matches()
