"""Models made of known bytes, a collector of events, and a stand-in for the transfers that writes pieces."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import TypeVar

from blake3 import blake3

from exo_dl.core.manifest import Blob, FileEntry, Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.store.library import Library
from exo_dl.store.publish import Layout
from exo_dl.store.pullstore import BlobPublished, CheckFinished, PullStore, StoreEvent, StoreFailed
from exo_dl.store.selection import Selection

REPO = "org/tiny"
COMMIT = "c" * 40
WAIT_S = 20.0
MIB = 1 << 20
T = TypeVar("T", bound=StoreEvent)


def random_bytes(size: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(size)


def git_sha1(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()


def entry(path: str, data: bytes) -> FileEntry:
    """As the hub lists it: weights by sha256, the rest by git's sha1."""
    if path.endswith((".safetensors", ".bin")):
        return FileEntry(path, len(data), hashlib.sha256(data).digest())
    return FileEntry(path, len(data), git_sha1(data), git_sha1(data))


def manifest_of(
    files: Mapping[str, bytes],
    *,
    select: Callable[[str], bool] = lambda _: True,
    commit: str = COMMIT,
    repo: str = REPO,
) -> Manifest:
    entries = [entry(path, files[path]) for path in sorted(files)]
    return Manifest(
        "huggingface",
        "model",
        repo,
        commit,
        tuple(e for e in entries if select(e.path)),
        tuple(e for e in entries if not select(e.path)),
    )


BIG = {"big.safetensors": random_bytes(9 * MIB + 17, 5), "small.json": b"{}"}


def small_model() -> dict[str, bytes]:
    """Everything that is awkward, in 5 MB."""
    weights = random_bytes(2 * MIB + 12345, 1)
    return {
        "model-00001.safetensors": weights,
        "copy of/model.safetensors": weights,
        "model-00002.safetensors": random_bytes(3 * MIB, 2),
        "config.json": b'{"a": 1}',
        "one.bin": b"x",
        "empty.txt": b"",
        "sub/also empty.txt": b"",
        "sub/deeper/T\u00eate \u65e5\u672c.txt": "Gr\u00fc\u00dfe".encode(),
        "exactly.bin": random_bytes(MIB, 3),
    }


class Events:
    """Collects what a store tells and lets tests wait for it."""

    def __init__(self) -> None:
        self.all: list[StoreEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: StoreEvent) -> None:
        with self._changed:
            self.all.append(event)
            self._changed.notify_all()

    def of(self, kind: type[T]) -> list[T]:
        with self._changed:
            return [event for event in self.all if isinstance(event, kind)]

    def wait(self, kind: type[StoreEvent], count: int = 1) -> None:
        """Until ``count`` events of a kind came; a failure of the store ends the wait with that failure."""

        def enough() -> bool:
            failed = [event for event in self.all if isinstance(event, StoreFailed)]
            return bool(failed) or sum(isinstance(event, kind) for event in self.all) >= count

        with self._changed:
            assert self._changed.wait_for(enough, WAIT_S), f"no {count} {kind.__name__}: {self.all}"
            for event in self.all:
                if isinstance(event, StoreFailed) and kind is not StoreFailed:
                    raise event.error


class Node:
    """A store with its events, opened and checked."""

    def __init__(
        self,
        manifest: Manifest,
        layout: Layout,
        library: Library,
        *,
        node_id: str = "node-a",
        want: int | Selection | None = None,
    ) -> None:
        self.events = Events()
        self.manifest = manifest
        self.store = PullStore(
            manifest,
            want=mask(0, manifest.piece_count) if want is None else want,
            layout=layout,
            library=library,
            node_id=node_id,
            events=self.events,
        )
        self.candidates = self.store.candidates()

    def begin(self) -> Node:
        self.store.open()
        self.store.start_check()
        self.events.wait(CheckFinished)
        return self

    def write(self, contents: Mapping[bytes, bytes], pieces: Iterable[int]) -> None:
        for piece in pieces:
            data = piece_bytes(self.manifest, contents, piece)
            extent = self.store.extent(piece)
            assert extent.size == len(data)
            assert os.pwrite(extent.fd, data, extent.offset) == len(data)
            self.store.record(piece, blake3(data).digest())

    def fill(self, files: Mapping[str, bytes], *, seed: int = 0) -> None:
        """Writes all that is missing, in a random order, and waits until all of it is published."""
        missing = list(iter_bits(mask(0, self.manifest.piece_count) & ~self.store.have))
        Random(seed).shuffle(missing)
        self.write(by_digest(files), missing)
        self.events.wait(BlobPublished, len(self.manifest.blobs))

    def read(self, first: int, end: int) -> bytes:
        return b"".join(os.pread(e.fd, e.size, e.offset) for e in self.store.locate(first, end))


def by_digest(files: Mapping[str, bytes]) -> dict[bytes, bytes]:
    return {entry(path, data).digest: data for path, data in files.items()}


def piece_bytes(manifest: Manifest, contents: Mapping[bytes, bytes], piece: int) -> bytes:
    span = manifest.span(piece)
    return contents[manifest.blobs[span.blob].digest][span.offset : span.offset + span.size]


def blob_of(manifest: Manifest, path: str) -> Blob:
    return next(blob for blob in manifest.blobs if path in blob.paths)


def leftovers(folder: Path) -> list[str]:
    """Everything of ours that is not a published file."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "exo-dl" in path.name)


def tree_of(folder: Path) -> dict[str, bytes]:
    """The visible files of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if not str(f.relative_to(folder)).startswith(".")}
