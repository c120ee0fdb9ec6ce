"""What this node holds, in one SQLite file: verified contents and where they are, models, pulls, and small values.

A content that was verified once is believed again as long as its file has the same size, inode and times; anything
else is read anew. The times include the change time, which no program can set back.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exo_dl.core.manifest import Blob, FileEntry
from exo_dl.core.paths import check_path
from exo_dl.errors import NotFoundError, StorageError, UsageError
from exo_dl.store.folder import disk_errors
from exo_dl.store.verify import BlobHasher, read_chunks

__all__ = ["FileCheck", "HeldBlob", "Library", "ModelRecord", "check_file", "verify_model"]

_log = logging.getLogger(__name__)
_VERSION = 1
_SCHEMA = """
CREATE TABLE blobs (
    path BLOB PRIMARY KEY, digest BLOB NOT NULL, size INTEGER NOT NULL, inode INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, piece_size INTEGER NOT NULL, pieces BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX blobs_by_digest ON blobs (digest);
CREATE TABLE models (
    hub TEXT NOT NULL, repo_type TEXT NOT NULL, repo TEXT NOT NULL, commit_id TEXT NOT NULL, layout TEXT NOT NULL,
    path TEXT NOT NULL, files TEXT NOT NULL, revisions TEXT NOT NULL, added_at REAL NOT NULL,
    PRIMARY KEY (hub, repo_type, repo, commit_id, layout, path)
);
CREATE TABLE pulls (
    pull_id TEXT PRIMARY KEY, generation INTEGER NOT NULL, payload BLOB NOT NULL, updated_at REAL NOT NULL
);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = 1;
"""
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A verified content on this disk. ``pieces`` has 32 bytes of BLAKE3 for each piece."""

    path: Path
    pieces: bytes


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model that was published on this node.

    Attributes:
        hub: kind of hub.
        repo_type: "model", "dataset" or "space".
        repo: "org/name".
        commit: 40 hex digits.
        revisions: the names by which it was asked for.
        layout: "hf" or "dir".
        path: the folder that programs open.
        files: the selected files.
        complete: every file is there with its size (its content was verified when it was published).
    """

    hub: str
    repo_type: str
    repo: str
    commit: str
    revisions: tuple[str, ...]
    layout: str
    path: Path
    files: tuple[FileEntry, ...]
    complete: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of its contents, each once."""
        return sum({entry.digest: entry.size for entry in self.files}.values())


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file that was read again. ``problem`` is for a person; empty when ``ok``."""

    path: str
    size: int
    ok: bool
    problem: str


class Library:
    """The state database. Thread-safe.

    Args:
        db_path: the SQLite file; made when missing.

    Raises:
        StorageError: it is damaged, of a newer version, or cannot be written. Every method raises it too.
    """

    def __init__(self, db_path: Path) -> None:
        self._path = db_path
        self._lock = threading.RLock()
        with disk_errors(db_path):
            os.makedirs(db_path.parent, exist_ok=True)
        with self._errors():
            self._db = sqlite3.connect(db_path, timeout=10.0, check_same_thread=False, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
        except StorageError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        elif version > _VERSION:
            raise StorageError(
                f"The state database {self._path} was written by a newer exo-dl (format {version}).",
                hint="Use that version, or another --state-dir.",
            )
        finding = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if finding != "ok":
            raise sqlite3.DatabaseError(str(finding))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"The state database {self._path} cannot be used: {error}.",
                hint="Check that its folder exists, can be written and has room.",
            ) from error
        except sqlite3.Error as error:
            raise StorageError(
                f"The state database {self._path} is damaged: {error}.",
                hint="Move this file away and start again: models stay where they are and are read once more.",
            ) from error

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock, self._errors():
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        """Closes the file."""
        with self._lock, self._errors():
            self._db.close()

    # Contents

    def find(self, blob: Blob) -> list[HeldBlob]:
        """The files that were verified to be this content and are unchanged since."""
        rows = self._rows(
            "SELECT path, inode, mtime_ns, ctime_ns, pieces FROM blobs"
            " WHERE digest = ? AND size = ? AND piece_size = ?",
            (blob.digest, blob.size, blob.piece_size),
        )
        found = []
        for path, inode, mtime_ns, ctime_ns, pieces in rows:
            if not isinstance(path, bytes) or not isinstance(pieces, bytes) or len(pieces) != 32 * blob.piece_count:
                continue  # A damaged row: the file is read again where it is wanted.
            name = Path(os.fsdecode(path))
            try:
                status = os.stat(name)
            except (OSError, ValueError):
                continue  # Perhaps on a disk that is not mounted now.
            same = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            if stat.S_ISREG(status.st_mode) and same == (blob.size, inode, mtime_ns, ctime_ns):
                found.append(HeldBlob(name, pieces))
            else:
                self.forget(name)
        return found

    def remember(self, held: Iterable[tuple[Path, Blob, bytes, os.stat_result]]) -> None:
        """Notes verified files: path, content, BLAKE3 of its pieces one after the other, and the file's status."""
        rows = [
            (os.fsencode(path), b.digest, b.size, st.st_ino, st.st_mtime_ns, st.st_ctime_ns, b.piece_size, pieces)
            for path, b, pieces, st in held
        ]
        with self._use() as db:
            db.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def forget(self, path: Path) -> None:
        """What was known of this file is no longer true."""
        with self._use() as db:
            db.execute("DELETE FROM blobs WHERE path = ?", (os.fsencode(path),))

    # Models

    def add_model(self, record: ModelRecord, revision: str) -> None:
        """Notes a published model. A model already noted gets the files and the revision added."""
        files = {entry.path: entry for entry in record.files}
        revisions = [revision] if revision and revision != record.commit else []
        with self._use() as db:
            noted = self._noted(_OF_REPO, (record.hub, record.repo_type, record.repo))
            for old in [model for model in noted if _key(model) == _key(record)]:
                files = {entry.path: entry for entry in old.files} | files
                revisions = [*old.revisions, *(r for r in revisions if r not in old.revisions)]
            listed = [[f.path, f.size, f.digest.hex(), f.git_oid.hex()] for _, f in sorted(files.items())]
            # A name that now means this commit means no other one of the repository any more.
            for other in noted if revision else []:
                rest = [r for r in other.revisions if r != revision]
                if other.commit != record.commit and len(rest) != len(other.revisions):
                    db.execute(_SET_REVISIONS, (json.dumps(rest), *_key(other)))
            db.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*_key(record), json.dumps(listed), json.dumps(revisions), time.time()),
            )

    def _noted(self, query: str, values: tuple[object, ...] = ()) -> list[ModelRecord]:
        models = []
        for hub, repo_type, repo, commit, layout, path, files, revisions in self._rows(query, values):
            try:
                entries = tuple(
                    FileEntry(check_path(p), int(n), bytes.fromhex(d), bytes.fromhex(oid))
                    for p, n, d, oid in json.loads(files)
                )
                names = tuple(map(str, json.loads(revisions)))
                where = Path(path)
                record = ModelRecord(hub, repo_type, repo, commit, names, layout, where, entries, complete=False)
            except (ValueError, TypeError, AttributeError, RecursionError, UsageError):
                _log.warning("A model in the state database has a damaged row; it is not listed.")
                continue
            models.append(record)
        return models

    def models(self) -> list[ModelRecord]:
        """The models that this node holds, newest first. A model whose folder is not there (now) is left out."""
        return [
            replace(m, complete=all(_size_of(m.path / entry.path) == entry.size for entry in m.files))
            for m in self._noted(_ALL_MODELS)
            if m.path.is_dir()
        ]

    def find_models(self, repo: str, revision: str = "") -> list[ModelRecord]:
        """The models of a repository on this node, newest first; with ``revision``: of that name or commit only.

        Raises:
            NotFoundError: there is none.
        """
        found = [m for m in self.models() if m.repo == repo and (not revision or revision in (m.commit, *m.revisions))]
        if not found:
            name = f"{repo}@{revision}" if revision else repo
            raise NotFoundError(f"{name} is not on this node.", hint="`exo-dl ls` shows what is.")
        return found

    # Pulls and values

    def save_pull(self, pull_id: str, *, generation: int, payload: bytes) -> None:
        """Keeps what is needed to take a pull up again after a restart."""
        with self._use() as db:
            db.execute("INSERT OR REPLACE INTO pulls VALUES (?, ?, ?, ?)", (pull_id, generation, payload, time.time()))

    def pulls(self) -> list[tuple[str, int, bytes]]:
        """The kept pulls, oldest first: (pull id, generation, payload)."""
        rows = self._rows("SELECT pull_id, generation, payload FROM pulls ORDER BY updated_at")
        return [(pull_id, generation, payload) for pull_id, generation, payload in rows]

    def drop_pull(self, pull_id: str) -> None:
        """A pull that has ended."""
        with self._use() as db:
            db.execute("DELETE FROM pulls WHERE pull_id = ?", (pull_id,))

    def get(self, key: str, default: str = "") -> str:
        """A small value that outlives restarts (node id, measured rates)."""
        rows = self._rows("SELECT value FROM settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else default

    def put(self, key: str, value: str) -> None:
        """Sets a small value."""
        with self._use() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))


_ALL_MODELS = (
    "SELECT hub, repo_type, repo, commit_id, layout, path, files, revisions FROM models ORDER BY added_at DESC"
)
_OF_REPO = (
    "SELECT hub, repo_type, repo, commit_id, layout, path, files, revisions FROM models "
    "WHERE hub = ? AND repo_type = ? AND repo = ?"
)
_SET_REVISIONS = (
    "UPDATE models SET revisions = ? "
    "WHERE hub = ? AND repo_type = ? AND repo = ? AND commit_id = ? AND layout = ? AND path = ?"
)


def _key(m: ModelRecord) -> tuple[str, ...]:
    return (m.hub, m.repo_type, m.repo, m.commit, m.layout, str(m.path))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def check_file(path: Path, size: int, digest: bytes, stop: threading.Event | None = None) -> str:
    """Reads a file from disk and compares it with the hub's size and digest.

    Returns:
        What is wrong, for a person; empty when nothing is.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    try:
        found = os.fstat(fd).st_size
        if found != size:
            return f"it has {found} bytes instead of {size}"
        if hasattr(os, "posix_fadvise"):
            # What the disk holds counts, not what memory still knows of it.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        hasher = BlobHasher(digest, size)
        for chunk in read_chunks(fd, 0, size, memoryview(bytearray(_READ_BYTES))):
            if stop is not None and stop.is_set():
                return "the check was stopped"
            hasher.update(chunk)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    finally:
        os.close(fd)
    return "" if hasher.matches() else "its content does not have the hub's digest"


def verify_model(library: Library, model: ModelRecord, stop: threading.Event | None = None) -> Iterator[FileCheck]:
    """Reads every file of a model again, one result each. A file that fails is no longer believed by the library."""
    for entry in model.files:
        path = model.path / entry.path
        problem = check_file(path, entry.size, entry.digest, stop)
        if problem and not (stop is not None and stop.is_set()):
            library.forget(Path(os.path.realpath(path)))
        yield FileCheck(entry.path, entry.size, not problem, problem)
        if stop is not None and stop.is_set():
            return
