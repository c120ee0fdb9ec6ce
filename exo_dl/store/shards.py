"""The folder of a node that wants parts of files: safetensors files of the kept tensors, and what a loader needs.

Each file has a header of its own; the tensors' bytes move from the part file by `copy_file_range`, which shares blocks
where the file system can and where both places lie alike in their blocks (`_fill`). The part file stays as it is: its
pieces have digests that the other nodes know, and go on to be served. ``exo_dl.json`` says what the folder is.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.errors import StorageError
from exo_dl.formats import safetensors
from exo_dl.formats.tensors import FileStructure, Tensor
from exo_dl.store.filling import Filled, Filling
from exo_dl.store.folder import Folder, disk_errors
from exo_dl.store.publish import Layout
from exo_dl.store.selection import Selection
from exo_dl.store.slots import Slot

__all__ = ["NOTE_NAME", "Source", "Sources", "finish_folder", "mend_parts", "write_parts"]

NOTE_NAME = "exo_dl.json"
_DRAFTS = ".exo-dl-draft"
_NOTE_LIMIT = 16 << 20
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# A loader's person may edit a small file of the folder, and must not change the cache with it.
_LINKED_FROM_BYTES = 16 << 20
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of one file are.

    Attributes:
        path: the file's path in the repository.
        blob: its content.
        fd: its bytes at their own offsets; those that this node does not hold are a hole.
        part: the name of the part file in the target folder; None where ``fd`` is of a whole file.
        piece: the digest of a piece, by its number in the manifest; None where it is not held.
    """

    path: str
    blob: Blob
    fd: int
    part: str | None
    piece: Callable[[int], bytes | None]

    def digest(self, ranges: Iterable[tuple[int, int]]) -> str:
        """One digest for the pieces that hold these bytes: it changes with any of them."""
        size, first = self.blob.piece_size, self.blob.first_piece
        pieces = {first + n for begin, end in ranges for n in range(begin // size, -(-end // size))}
        return blake3(b"".join(self.piece(n) or b"" for n in sorted(pieces))).hexdigest()


class Sources:
    """Where the files of one pull are read.

    Args:
        slots: by blob index.
        manifest: the model.
        fd_of: opens a blob.
        piece: the digest of a piece.
    """

    def __init__(
        self,
        slots: Mapping[int, Slot],
        manifest: Manifest,
        fd_of: Callable[[int], int],
        piece: Callable[[int], bytes | None],
    ) -> None:
        self._slots = {path: slots[blob.index] for blob in manifest.blobs if blob.index in slots for path in blob.paths}
        self._fd_of = fd_of
        self._piece = piece

    def __call__(self, path: str) -> Source:
        """One of the files."""
        slot = self._slots[path]
        fd = self._fd_of(slot.blob.index)
        is_part = slot.part is not None and slot.source is None
        return Source(path, slot.blob, fd, slot.part_name if is_part else None, self._piece)


def finish_folder(
    layout: Layout,
    node_id: str,
    manifest: Manifest,
    selection: Selection,
    whole: Sequence[str],
    sources: Sources,
    stop: threading.Event,
) -> tuple[Path | None, tuple[str, ...]]:
    """What is to be done about the folder of parts at the end of a pull.

    Args:
        layout: the target.
        node_id: this node.
        manifest: the model.
        selection: what of it was pulled.
        whole: the files that are here whole and verified.
        sources: where files are read.
        stop: ends it within milliseconds.

    Returns:
        The folder where the pull was for parts; and the files of which an earlier pull had put wrong parts there.

    Raises:
        StorageError, FormatError: as `write_parts`.
    """
    if selection.parts or selection.folder:
        base = layout.parts_folder(manifest, node_id)
        found = [sources(path) for path in (*selection.parts, *whole)]
        return write_parts(layout.folder, base, manifest, selection, found, stop), ()
    if layout.name == "hf":
        return None, mend_parts(layout.folder, layout.parts_folder(manifest, node_id), manifest, whole, sources, stop)
    if layout.name == "dir" and set(_listed(layout.folder, "").get("files", {})) <= set(whole):
        layout.folder.remove(NOTE_NAME)  # these are whole files now
    return None, ()


def write_parts(
    folder: Folder,
    base: str,
    manifest: Manifest,
    selection: Selection,
    sources: Sequence[Source],
    stop: threading.Event,
) -> Path:
    """Writes a node's folder, or leaves it as it is where it is that already. The index comes last.

    Args:
        folder: the target.
        base: the folder's name in there; empty: the target itself.
        manifest: the model.
        selection: what of it.
        sources: the files of `Selection.parts`, and those that are wanted whole.
        stop: ends it within milliseconds.

    Raises:
        StorageError: the disk fails, or ``stop`` was set.
        FormatError: a header that is not what it was when the placement was made.
    """
    at = f"{base}/" if base else ""
    structures = {s.path: _structure(s) for s in sources if s.path.endswith(".safetensors")}
    kept = {path: _kept(structures[path], selection.parts[path]) for path in selection.parts}
    plans = {path: _plan(structures[path], tensors, sparse=selection.sparse) for path, tensors in kept.items()}
    sizes = {s.path: plans[s.path].size if s.path in plans else s.blob.size for s in sources}
    weights = {s.path: kept.get(s.path, structures[s.path].tensors) for s in sources if s.path in structures}
    indexes = _indexes(weights)
    note = _note(manifest, selection, sources, sizes, kept)
    old = folder.read(f"{at}{NOTE_NAME}", limit=_NOTE_LIMIT)
    if old == note and all(folder.is_file(f"{at}{path}", size=size) for path, size in sizes.items()):
        return folder.path(base) if base else folder.root
    with Filled(folder, stop) as filled:
        for source in sources:
            if stop.is_set():
                raise StorageError(f"The folder of {manifest.repo} was not written: the pull has ended.")
            draft = f"{at}{_DRAFTS}/{source.path}"
            folder.remove(draft)
            if source.path in plans:
                plan = plans[source.path]
                if not (selection.sparse and source.part and folder.hard_link(draft, source.part)):
                    filled.fill(draft, source.fd, plan)
            elif base and source.path not in indexes and not _link_whole(folder, draft, source):
                filled.fill(draft, source.fd, Filling(source.blob.size, b"", ((0, 0, source.blob.size),)))
    for path in {*indexes, NOTE_NAME, *_stale(old, sizes)}:
        folder.remove(f"{at}{path}")
    for source in sources:
        draft = f"{at}{_DRAFTS}/{source.path}"
        if folder.lstat(draft) is not None:
            folder.rename(draft, f"{at}{source.path}")
        folder.prune(draft.rpartition("/")[0])
    folder.write(f"{at}{NOTE_NAME}", note)
    for path, data in indexes.items():
        folder.write(f"{at}{path}", data)
    return folder.path(base) if base else folder.root


def _structure(source: Source) -> FileStructure:
    with disk_errors(source.path):
        first = os.pread(source.fd, safetensors.LENGTH_BYTES, 0)
        size = safetensors.header_size(first, source.blob.size, file=source.path)
        return safetensors.parse_header(os.pread(source.fd, size, 0), source.blob.size, file=source.path)


def _kept(structure: FileStructure, ranges: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """The tensors that lie inside of the ranges."""
    runs = _merged(ranges)
    return tuple(t for t in structure.tensors if t.size and any(a <= t.begin and t.end <= b for a, b in runs))


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _plan(structure: FileStructure, tensors: Sequence[Tensor], *, sparse: bool) -> Filling:
    runs = _merged((t.begin, t.end) for t in tensors)
    if sparse:
        end = max((t.end for t in structure.tensors), default=structure.header_bytes)
        head = (0, 0, structure.header_bytes)
        return Filling(end, b"", (head, *((a, a, b - a) for a, b in runs)))
    metadata = {key: str(value) for key, value in structure.metadata.items()}
    header = safetensors.build_header(tensors, metadata)
    if runs:
        # Where the longest run lies alike in the blocks of both files, a file system can share them.
        ahead = longest = shift = 0
        for begin, end in runs:
            if end - begin > longest:
                longest, shift = end - begin, (begin - ahead - len(header)) % _BLOCK_BYTES
            ahead += end - begin
        if shift % 8 == 0:
            header = (len(header) - 8 + shift).to_bytes(8, "little") + header[8:] + b" " * shift
    at, moves = len(header), []
    for begin, end in runs:
        moves.append((begin, at, end - begin))
        at += end - begin
    return Filling(at, header, tuple(moves))


def _link_whole(folder: Folder, draft: str, source: Source) -> bool:
    """Makes a large file that is wanted whole the same as in the cache; small ones are copied. Whether it did."""
    if source.blob.size < _LINKED_FROM_BYTES:
        return False
    place = Path(os.path.realpath(f"/proc/self/fd/{source.fd}"))
    return place.is_relative_to(folder.root) and folder.hard_link(draft, place.relative_to(folder.root).as_posix())


def _indexes(weights: Mapping[str, Sequence[Tensor]]) -> dict[str, bytes]:
    """For each group of shards the index that names what is kept of it: path -> content."""
    groups: dict[str, list[str]] = {}
    for path in weights:
        stem = _SHARD.sub("", path.removesuffix(".safetensors"))
        groups.setdefault(f"{stem}.safetensors.index.json", []).append(path)
    found = {}
    for path, files in groups.items():
        names = {tensor.name: file.rpartition("/")[2] for file in files for tensor in weights[file]}
        found[path] = safetensors.build_index(names, sum(t.size for file in files for t in weights[file]))
    return found


def _note(
    manifest: Manifest,
    selection: Selection,
    sources: Sequence[Source],
    sizes: Mapping[str, int],
    kept: Mapping[str, Sequence[Tensor]],
) -> bytes:
    files: dict[str, dict[str, object]] = {}
    for source in sorted(sources, key=lambda s: s.path):
        entry: dict[str, object] = {"size": sizes[source.path], "of": source.blob.etag, "of_size": source.blob.size}
        if source.path in kept:
            ranges = selection.parts[source.path]
            entry |= {"tensors": len(kept[source.path]), "ranges": [list(run) for run in ranges]}
            entry["pieces"] = source.digest(ranges)
        files[source.path] = entry
    document = {
        "format": 1,
        "hub": manifest.hub,
        "repo_type": manifest.repo_type,
        "repo": manifest.repo,
        "commit": manifest.commit,
        "layout": "sparse: what is absent reads as zeros" if selection.sparse else "tensors",
        **selection.note,
        "files": files,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


_OUR_KEYS = ("format", "hub", "repo_type", "repo", "commit", "layout", "files")


def _listed(folder: Folder, base: str) -> dict[str, Any]:
    """The note of a folder; empty where there is none that can be read as one."""
    try:
        note = json.loads(folder.read(f"{base}/{NOTE_NAME}".lstrip("/"), limit=_NOTE_LIMIT) or b"{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) and isinstance(note.get("files", {}), dict) else {}


def mend_parts(
    folder: Folder,
    base: str,
    manifest: Manifest,
    whole: Sequence[str],
    sources: Sources,
    stop: threading.Event,
) -> tuple[str, ...]:
    """Writes a node's folder anew where a file turns out to be another than the one that its parts were taken from.

    Args:
        folder: the target.
        base: the folder's name in there.
        manifest: the model.
        whole: the files that are here whole and verified.
        sources: where files are read.
        stop: ends it within milliseconds.

    Returns:
        The files whose parts were wrong; empty where the folder is right, is not there, or has parts of other files.

    Raises:
        StorageError: the disk fails.
    """
    note = _listed(folder, base)
    files = note.get("files", {})
    if not files or not files.keys() <= set(whole):
        return ()
    try:
        parts = {
            path: [(int(a), int(b)) for a, b in entry["ranges"]] for path, entry in files.items() if "ranges" in entry
        }
        found = {path: sources(path) for path in files}
        wrong = tuple(path for path in parts if found[path].digest(parts[path]) != files[path].get("pieces"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()
    if wrong:
        more = {key: value for key, value in note.items() if key not in _OUR_KEYS}
        sparse = str(note.get("layout", "")).startswith("sparse")
        indexes = frozenset(found[path].blob.index for path in files if path not in parts)
        selection = Selection(0, indexes, parts, folder=True, sparse=sparse, note=more)
        write_parts(folder, base, manifest, selection, list(found.values()), stop)
    return wrong


def _stale(old: bytes | None, sizes: Mapping[str, int]) -> set[str]:
    """Files that an earlier placement left here and that this one does not have."""
    try:
        listed = json.loads(old or b"{}").get("files", {})
        names = {name for name in listed if isinstance(name, str)}
    except (ValueError, AttributeError):
        return set()
    return {name for name in names if name not in sizes and ".." not in name.split("/") and not name.startswith("/")}
