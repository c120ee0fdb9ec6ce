"""All of one pull on this node's disks: what is held, where pieces go, when a file is verified and published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_runs
from exo_dl.errors import UsageError
from exo_dl.store.assembly import Assembly
from exo_dl.store.events import (
    BlobCorrupt,
    BlobPublished,
    CheckFinished,
    PartsMended,
    PiecesFound,
    StoreEvent,
    StoreFailed,
)
from exo_dl.store.extent import Extent
from exo_dl.store.folder import disk_errors
from exo_dl.store.library import Library
from exo_dl.store.publish import Layout
from exo_dl.store.selection import Selection
from exo_dl.store.slots import Slot, Stage, end_claim
from exo_dl.store.verify import piece_range

__all__ = [
    "BlobCorrupt",
    "BlobPublished",
    "CheckFinished",
    "PartsMended",
    "PiecesFound",
    "PullStore",
    "StoreEvent",
    "StoreFailed",
]

_NODE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class PullStore:
    """All of one pull on this node. Order of use: `candidates`, `open`, `start_check`, then the rest, then `close`.

    Thread-safe after `open`. Methods that touch the disk raise StorageError.

    Args:
        manifest: the pull's files.
        want: the pieces that this node wants (a set of pieces as an int), or a `Selection` where that does not say all.
        layout: where files are published.
        library: what this node holds; remembers what was verified.
        node_id: names this node's unfinished files, so that nodes can share a folder.
        events: called from the store's own threads with each event; must return soon.
        threads: digests computed at once; 0: as many as there are cores, at most 4.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        want: int | Selection,
        layout: Layout,
        library: Library,
        node_id: str,
        events: Callable[[StoreEvent], None],
        threads: int = 0,
    ) -> None:
        if not _NODE_ID.fullmatch(node_id):
            raise UsageError(f"{node_id[:80]!r} is no node id.")
        self.manifest = manifest
        self._selection = want if isinstance(want, Selection) else Selection.of_pieces(manifest, want)
        self._work = Assembly(
            manifest,
            selection=self._selection,
            layout=layout,
            library=library,
            node_id=node_id,
            events=events,
            threads=threads,
        )
        self._table = self._work.table

    # Start

    def candidates(self) -> int:
        """The pieces that the check will read: files of the right size, and pieces recorded by an earlier run.

        Quick: it reads no file's content. Called once, before `open`.
        """
        return self._work.plan()

    def open(self) -> None:
        """Reserves room for what is missing.

        Raises:
            StorageError: too little room (with the figures), or the folder cannot be written. Nothing is left behind
                then, and the store is closed.
        """
        self._work.reserve()

    def start_check(self) -> None:
        """Reads the candidates in threads: gives PiecesFound and BlobPublished, and CheckFinished at the end."""
        self._work.check()

    # Pieces

    @property
    def have(self) -> int:
        """The verified pieces (a set of pieces as an int)."""
        return self._table.have

    @property
    def awaited(self) -> set[int]:
        """The blobs of which a `BlobPublished` comes."""
        return {index for index, slot in self._work.slots.items() if slot.full}

    @property
    def folder(self) -> Path:
        """The folder under which all of this is written, for messages."""
        return self._work.layout.folder.root

    @property
    def complete(self) -> bool:
        """True when each wholly wanted blob is published: `finish` may be called."""
        return self._work.complete

    def extent(self, piece: int) -> Extent:
        """Where to write a wanted piece. Claims it, until the caller ends the claim by `record` or `abandon`.

        A piece that is already held gives a place where bytes vanish.

        Raises:
            KeyError: the piece is not wanted, or the store is closed.
            StorageError: its part file cannot be made.
        """
        slot = self._slot(piece)
        offset, size = piece_range(slot.blob, piece - slot.blob.first_piece)
        with slot.lock:
            fd = self._work.null if self._table.is_held(piece) else self._work.part(slot).fd
            self._work.claims[piece] = self._work.claims.get(piece, 0) + 1
        return Extent(fd, offset, size)

    def record(self, piece: int, digest: bytes) -> bool:
        """The piece is written and has this BLAKE3 digest (32 bytes). Ends the caller's claim.

        When it returns, a kill of the process does not lose the piece.

        Returns:
            False when it was held already.

        Raises:
            KeyError: the piece is not wanted, or the store is closed.
            StorageError: it cannot be noted.
        """
        slot = self._slot(piece)
        blob = slot.blob
        index = piece - blob.first_piece
        with slot.lock:
            others = end_claim(self._work.claims, piece)
            if self._table.is_held(piece):
                self._work.settle(slot)
                return False
            part = self._work.part(slot)
            try:
                part.record(index, digest)
            except OSError as error:
                with disk_errors(part.folder.path(part.name)):
                    raise error
            if others:
                slot.contested.add(piece)
            self._table.hold(piece, digest)
            fd = part.fd
        self._work.digests.advance(blob, index)
        if slot.wanted_here >> index & 1:  # what is held for others is dropped again, mostly before it is on the disk
            self._work.writeback.note(fd, *piece_range(blob, index))
        return True

    def abandon(self, pieces: Iterable[int]) -> None:
        """Ends one claim on each piece without a record: its writer failed or was cancelled, and writes no more.

        To be called with every claimed piece that was not recorded when a fetch has ended.
        """
        for piece in pieces:
            slot = self._work.slots.get(self.manifest.blob_of(piece).index)
            if slot is not None:
                with slot.lock:
                    end_claim(self._work.claims, piece)
                    self._work.settle(slot)

    def digest(self, piece: int) -> bytes | None:
        """BLAKE3 of a held piece; None when it is not held."""
        return self._table.digest(piece)

    def expect(self, first: int, digests: bytes) -> int:
        """Digests that a peer announced for the pieces from ``first`` on, 32 bytes each. A piece's first one wins.

        Returns:
            The pieces (a set as an int) for which another digest is known.
        """
        return self._table.expect(first, digests)

    def expected(self, piece: int) -> bytes | None:
        """The digest that a piece must have, as held or as announced; None while nobody said."""
        return self._table.expected(piece)

    def locate(self, first: int, end: int) -> list[Extent]:
        """Where the verified bytes of the pieces ``first <= i < end`` are, in order, neighbours joined.

        Raises:
            KeyError: one of them is not held (any more).
        """
        if (
            self._work.closed
            or not 0 <= first < end <= self.manifest.piece_count
            or not self._table.all_held(first, end)
        ):
            raise KeyError(first)
        extents = []
        for span in self.manifest.spans(first, end):
            slot = self._work.slots[span.blob]
            if slot.stage is Stage.SUSPECT:
                raise KeyError(first)
            extents.append(Extent(self._work.whole_fd(span.blob), span.offset, span.size))
        return extents

    def forget(self, pieces: int) -> None:
        """These are lost again (after `BlobCorrupt`): to be fetched anew. Announced digests of them are dropped too."""
        for first, end in iter_runs(pieces):
            for span in self.manifest.spans(first, end):
                slot = self._work.slots.get(span.blob)
                if slot is not None:
                    self._work.forget(slot, pieces & slot.pieces)

    def evict(self, pieces: int) -> int:
        """Gives back the room of pieces that were held for others. Returns those that are held no more."""
        return self._work.evict(pieces)

    # End

    def finish(self, revision: str) -> Path:
        """Makes the model visible: listing, links, ``refs/`` last; notes it in the library.

        Returns:
            The folder that programs open.

        Raises:
            StorageError: it is not `complete`, or the disk fails.
        """
        return self._work.publish_all(revision)

    def close(self, *, keep: bool) -> None:
        """Stops the threads and ends all use of descriptors. Published files stay. Not to be called by ``events``.

        Args:
            keep: verified pieces stay for the next pull, and room that was only reserved is given back; else the
                unfinished files are removed.
        """
        self._work.close(keep=keep)

    def discard(self) -> None:
        """`close`, and removes this pull's unfinished files on this node."""
        self.close(keep=False)

    def _slot(self, piece: int) -> Slot:
        slot = self._work.slots.get(self.manifest.blob_of(piece).index)
        usable = self._selection.want | self._selection.spare
        if slot is None or self._work.closed or not (slot.full or usable >> piece & 1):
            raise KeyError(piece)
        return slot
