"""Folders served as repositories: digests, a commit made from the content, and the JSON that a hub says about them.

A root has ``<org>/<name>/...`` for models and ``datasets/<org>/<name>/...``, ``spaces/<org>/<name>/...`` for the rest.
Needs nothing but Python's own library, so that a hub can run where exo-dl is not installed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "REVISIONS",
    "DigestCache",
    "Repo",
    "RepoFile",
    "file_item",
    "git_sha1",
    "load_repo",
    "repo_folder",
    "scan_root",
]

REVISIONS = ("main", "v1.0")
"""Names that each repository's one commit has."""

_LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".onnx", ".h5", ".npz", ".msgpack", ".model")
_LFS_FROM_BYTES = 10 << 20
_READ_BYTES = 1 << 20


def git_sha1(content: bytes) -> str:
    """The id that git has for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository. ``oid`` is the git sha1 (of the pointer, where ``sha256`` is set: an LFS file)."""

    path: str
    size: int
    oid: str
    sha256: str

    @property
    def etag(self) -> str:
        """What the hub gives as ETag, without quotes."""
        return self.sha256 or self.oid

    @property
    def pointer_bytes(self) -> int:
        """Size of the LFS pointer."""
        return len(_pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Repo:
    """A folder as a repository."""

    repo_type: str
    repo: str
    folder: Path
    commit: str
    files: dict[str, RepoFile] = field(repr=False)

    def has_revision(self, revision: str) -> bool:
        """Whether ``revision`` names its commit."""
        return revision == self.commit or revision in REVISIONS

    def info(self, *, blobs: bool = True, gated: str | bool = False, private: bool = False) -> dict[str, Any]:
        """The answer to ``/api/models/<id>``."""
        siblings: list[dict[str, Any]] = []
        for file in self.files.values():
            item: dict[str, Any] = {"rfilename": file.path}
            if blobs:
                item |= {"size": file.size, "blobId": file.oid}
                if file.sha256:
                    item["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_bytes}
            siblings.append(item)
        return {
            "_id": self.commit[:24],
            "id": self.repo,
            "modelId": self.repo,
            "author": self.repo.partition("/")[0],
            "sha": self.commit,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": private,
            "gated": gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }

    def tree(self, folder: str = "", *, recursive: bool = True) -> list[dict[str, Any]] | None:
        """The answer to ``/api/models/<id>/tree/<rev>/<folder>``; None where there is no such folder."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        items: dict[str, dict[str, Any]] = {}
        for file in self.files.values():
            if not file.path.startswith(prefix):
                continue
            parts = file.path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                items.setdefault(name, {"type": "directory", "oid": git_sha1(name.encode()), "size": 0, "path": name})
            if recursive or len(parts) == 1:
                items[file.path] = file_item(file)
        return list(items.values()) if items or not prefix else None

    def refs(self) -> dict[str, Any]:
        """The answer to ``/api/models/<id>/refs``."""
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": self.commit} for name in REVISIONS[1:]]
        main = {"name": REVISIONS[0], "ref": f"refs/heads/{REVISIONS[0]}", "targetCommit": self.commit}
        return {"branches": [main], "tags": tags, "converts": []}


def file_item(file: RepoFile) -> dict[str, Any]:
    """A file in the answers to tree and paths-info."""
    item: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.sha256:
        item["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_bytes}
    return item


class DigestCache:
    """Digests of files in a JSON file beside the served root, so that a hub with large models starts at once.

    Args:
        root: the served root; the cache is ``.<name>.digests.json`` in the folder above it.
    """

    def __init__(self, root: Path) -> None:
        root = root.resolve()
        self._path = root.parent / f".{root.name}.digests.json"
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        try:
            loaded = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return
        if isinstance(loaded, dict):
            self._known = loaded

    def digests(self, path: Path) -> tuple[str, str]:
        """Git sha1 and sha256 of a file, read only when it has changed."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(path))
        if known is not None and known[:3] == mark:
            return known[3], known[4]
        sha1 = hashlib.sha1(b"blob %d\0" % stat.st_size, usedforsecurity=False)
        sha256 = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                sha1.update(block)
                sha256.update(block)
        self.put(path, sha1.hexdigest(), sha256.hexdigest())
        return sha1.hexdigest(), sha256.hexdigest()

    def put(self, path: Path, sha1: str, sha256: str) -> None:
        """Remembers digests that the caller has computed."""
        stat = path.stat()
        self._known[str(path)] = [stat.st_size, stat.st_mtime_ns, stat.st_ino, sha1, sha256]
        self._changed = True

    def save(self) -> None:
        """Writes the cache where that is possible; where it is not, the next start takes longer."""
        if not self._changed:
            return
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._path)
        except OSError:
            return
        self._changed = False


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _repo_file(folder: Path, path: str, cache: DigestCache) -> RepoFile:
    at = folder / path
    size = at.stat().st_size
    sha1, sha256 = cache.digests(at)
    if path.endswith(_LFS_SUFFIXES) or size >= _LFS_FROM_BYTES:
        return RepoFile(path, size, git_sha1(_pointer(sha256, size)), sha256)
    return RepoFile(path, size, sha1, "")


def repo_folder(root: Path, repo_type: str, repo: str) -> Path:
    """Where a repository lies in a root."""
    return root / ("" if repo_type == "model" else f"{repo_type}s") / repo


def load_repo(root: Path, repo_type: str, repo: str, cache: DigestCache) -> Repo:
    """Reads a folder as a repository. Its commit is a digest of its paths and contents."""
    folder = repo_folder(root, repo_type, repo)
    names = sorted(
        (Path(where) / name).relative_to(folder).as_posix() for where, _, names in os.walk(folder) for name in names
    )
    files = {name: _repo_file(folder, name, cache) for name in names}
    lines = [f"{file.oid} {file.path}\n" for file in files.values()]
    commit = hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()
    return Repo(repo_type, repo, folder, commit, files)


def scan_root(root: Path, cache: DigestCache) -> dict[tuple[str, str], Repo]:
    """All repositories in a root, by type and id."""
    found: dict[tuple[str, str], Repo] = {}
    for repo_type in ("model", "dataset", "space"):
        base = repo_folder(root, repo_type, "")
        for folder in sorted(base.glob("*/*")) if base.is_dir() else ():
            if folder.is_dir() and not (repo_type == "model" and folder.parent.name in ("datasets", "spaces")):
                repo = f"{folder.parent.name}/{folder.name}"
                found[repo_type, repo] = load_repo(root, repo_type, repo, cache)
    cache.save()
    return found
