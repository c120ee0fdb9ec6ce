"""The listing of a commit that huggingface_hub (1.20 and later) keeps beside its snapshots.

With it, a snapshot that lacks files is known to lack them; without it, huggingface_hub takes what is there for all.
Format: ``huggingface_hub/_tree_cache.py``.
"""

from __future__ import annotations

import hashlib
import json

from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.store.folder import Folder

__all__ = ["CACHEDIR_TAG", "write_tree"]

_LIMIT_BYTES = 64 << 20
CACHEDIR_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag.\n"
    b"# For information about cache directory tags, see:\n"
    b"#\thttps://bford.info/cachedir/\n"
)


def _pointer_oid(entry: FileEntry) -> str:
    """The git object id of an LFS file's pointer: git stores the pointer, so the hub lists this id."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry.etag}\nsize {entry.size}\n"
    return hashlib.sha1(f"blob {len(text)}\0{text}".encode(), usedforsecurity=False).hexdigest()


def _entry(entry: FileEntry) -> dict[str, object]:
    if len(entry.digest) == 32:
        oid = entry.git_oid.hex() or _pointer_oid(entry)
        return {"size": entry.size, "blob_id": oid, "lfs_sha256": entry.etag, "lfs_size": entry.size}
    return {"size": entry.size, "blob_id": entry.etag or entry.git_oid.hex()}


def _known(data: bytes | None) -> dict[str, dict[str, object]]:
    """The entries of an existing listing; empty when it is damaged or of another format."""
    try:
        tree = json.loads(data or b"")
        files = tree["files"] if tree["format_version"] == 1 else {}
        return {path: info for path, info in files.items() if isinstance(info["blob_id"], str)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_tree(folder: Folder, name: str, manifest: Manifest) -> None:
    """Writes the listing of the whole commit: the selected files and the others.

    An existing listing is kept where it agrees, for it may know more (Xet hashes, files that this manifest leaves out).
    """
    old = _known(folder.read(name, limit=_LIMIT_BYTES))
    files = dict(old)
    for entry in (*manifest.files, *manifest.unselected):
        new = _entry(entry)
        known = old.get(entry.path, {})
        if any(known.get(key) != value for key, value in new.items() if key != "blob_id" or "lfs_sha256" not in new):
            files[entry.path] = new
    if files != old:
        tree = {"format_version": 1, "files": {path: files[path] for path in sorted(files)}}
        folder.write(name, json.dumps(tree, indent=1).encode())
