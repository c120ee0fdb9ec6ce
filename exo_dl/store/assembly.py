"""The work behind a `PullStore`: from pieces to verified, published files. All of it runs in the store's own threads.

A blob goes OPEN -> (WAITING) -> PUBLISHING -> PUBLISHED, or OPEN -> SUSPECT -> OPEN when its digest is wrong (`Stage`).

Two writers may hold a claim on the same place: near its end a pull fetches some pieces twice. The one that comes
second could overwrite verified bytes with wrong ones after they were hashed. So a piece that another writer had
claimed when it was recorded is *contested*: its blob waits until all its writers have let go, and the piece is read
again before the blob is published.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.errors import ExoDlError, StorageError
from exo_dl.store.checking import check_files, check_names, check_part, differing_pieces, plan_slot, spoilt_parts
from exo_dl.store.events import (
    BlobCorrupt,
    BlobPublished,
    CheckFinished,
    PartsMended,
    PiecesFound,
    StoreEvent,
    StoreFailed,
)
from exo_dl.store.folder import disk_errors
from exo_dl.store.library import HeldBlob, Library, ModelRecord
from exo_dl.store.osfile import Graveyard, copy_range
from exo_dl.store.partfile import PartFile
from exo_dl.store.publish import Layout, Staged
from exo_dl.store.room import KeptRoom
from exo_dl.store.selection import PART_SUFFIX, Selection
from exo_dl.store.shards import Sources, finish_folder
from exo_dl.store.slots import PieceTable, ReadFiles, Slot, Stage, evict_pieces, leave_part, open_part, piece_set
from exo_dl.store.threads import Threads
from exo_dl.store.verify import VerifyPool, WriteBack

__all__ = ["Assembly"]

_log = logging.getLogger(__name__)
_PUBLISHERS, _CHECKERS = 4, 2
_SMALL_OPEN = 64
_MAX_DIGEST_THREADS = 4
_graveyard = Graveyard()


class Assembly:
    """The slots of one pull and what is done with them. For `PullStore` alone.

    Attributes:
        slots: by blob index; only blobs of which something is wanted, and empty ones.
        table: state and digest of each piece.
        claims: writers at work on a piece, by piece; guarded by the slot's lock.
        null: a descriptor that leads nowhere.
        writeback: told of written bytes.
        closed: nothing is possible any more.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        selection: Selection,
        layout: Layout,
        library: Library,
        node_id: str,
        events: Callable[[StoreEvent], None],
        threads: int,
    ) -> None:
        self.manifest = manifest
        self.selection = selection
        self._node_id = node_id
        self.layout = layout
        self.library = library
        self._emit = events
        self.table = PieceTable(manifest.piece_count)
        self.claims: dict[int, int] = {}
        self._stop = threading.Event()
        self._state_lock = threading.Lock()
        self._to_check = 0
        self._failed = self._planned = self.closed = False
        self.null = -1
        self._room = KeptRoom(layout.folder)
        self.slots: dict[int, Slot] = {}
        for blob in manifest.blobs:
            all_of_it = mask(blob.first_piece, blob.end_piece)
            wanted = selection.want & all_of_it
            whole = blob.index in selection.whole
            if whole or (wanted | selection.spare) & all_of_it:
                part_name = layout.part_name(manifest, blob, node_id)
                full = whole or (blob.piece_count > 0 and wanted == all_of_it)
                self.slots[blob.index] = Slot(blob, wanted >> blob.first_piece, part_name, full=full, whole=whole)
        self._reads = ReadFiles(_graveyard)
        self.writeback = WriteBack()
        self.digests = VerifyPool(
            threads=threads or min(_MAX_DIGEST_THREADS, os.cpu_count() or 1),
            held=self.table.is_held,
            fd=self.whole_fd,
            on_result=self._on_digest,
            on_error=self._fail,
        )
        self._checkers = Threads("check", _CHECKERS, self._fail)
        self._publishers = Threads("publish", _PUBLISHERS, self._fail)

    @property
    def complete(self) -> bool:
        """See `PullStore.complete`."""
        return all(slot.stage is Stage.PUBLISHED for slot in self.slots.values() if slot.full)

    def plan(self) -> int:
        """See `PullStore.candidates`."""
        self._planned = True
        found = 0
        for slot in self.slots.values():
            found |= plan_slot(slot, self.manifest, self.layout, self.library)
        return found

    def reserve(self) -> None:
        """See `PullStore.open`."""
        if not self._planned:
            self.plan()
        needed = small = 0
        to_make: list[Slot] = []
        for slot in self.slots.values():
            places = self.layout.places(self.manifest, slot.blob)
            have = {*(held.path for held in slot.known), *slot.candidates}
            missing = sum(place not in have for place in places)
            if not have and (slot.wanted or slot.whole):
                to_make.append(slot)
                needed += max(0, self.manifest.set_bytes(slot.wanted) - slot.on_disk)
                missing -= 1
            needed += missing * slot.blob.size if slot.whole else 0
        check_names(self.slots.values(), self.layout.folder)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.layout.check_room(needed + self.selection.copied_bytes)
            for slot in to_make:
                slot.part = open_part(slot, self.layout.folder)
                if slot.blob.piece_count <= 1 and (small := small + 1) > _SMALL_OPEN:
                    # Made and reserved; hundreds of small files need not be open all the time.
                    os.close(slot.part.detach())
                    slot.part = None
            self._room.keep([*self.slots.values()], to_make)
        except StorageError:
            self.close(keep=True)
            raise

    def check(self) -> None:
        """See `PullStore.start_check`."""
        self._to_check = len(self.slots)
        if not self.slots:
            self._checkers.run(self._emit, CheckFinished())
        for slot in self.slots.values():
            self._checkers.run(self._check, slot)

    def publish_all(self, revision: str) -> Path:
        """See `PullStore.finish`."""
        full = [slot for slot in self.slots.values() if slot.whole]
        if not self.complete:
            missing = sum(slot.full and slot.stage is not Stage.PUBLISHED for slot in self.slots.values())
            raise StorageError(f"{self.manifest.repo} cannot be published: {missing} files are not verified yet.")
        if spoilt := spoilt_parts(self.slots.values(), self.part, self.table, self.claims, self._stop):
            for index, pieces in spoilt:
                self._emit(BlobCorrupt(index, pieces))
            return self.layout.folder.root  # whoever asked drops those pieces, and finishes again with others
        held = {slot.blob.index: Staged(slot.part_name, frozenset(slot.in_place)) for slot in full}
        self._room.free()
        path = self.layout.finish(self.manifest, revision, held) if full else self.layout.folder.root
        remembered: list[tuple[Path, Blob, bytes, os.stat_result]] = []
        for slot in full:
            places = self.layout.places(self.manifest, slot.blob)
            with slot.lock, disk_errors(places[0]):
                if slot.part is not None:
                    self._end_part(slot, slot.part, places[0])
                new = [place for place in places if place not in slot.in_place]
                remembered += [(p, slot.blob, self.table.digests(slot.blob), os.stat(p)) for p in new]
                slot.in_place.update(places)
        self.library.remember(remembered)
        paths = {p for slot in full for p in slot.blob.paths}
        m, name = self.manifest, self.layout.name
        sources = Sources(self.slots, m, self.whole_fd, self.table.digest)
        at = (self.layout, self._node_id, m)
        folder, wrong = finish_folder(*at, self.selection, sorted(paths), sources, self._stop)
        if folder is not None:
            path, name = folder, name + PART_SUFFIX
        if wrong:
            self._emit(PartsMended(wrong))
        if files := tuple(entry for entry in m.files if entry.path in paths):
            record = ModelRecord(m.hub, m.repo_type, m.repo, m.commit, (), name, path, files, complete=True)
            self.library.add_model(record, revision)
        return path

    def close(self, *, keep: bool) -> None:
        """See `PullStore.close`."""
        if self.closed:
            return
        self.closed = True
        self._stop.set()
        self.digests.close()
        self._checkers.close()
        self._publishers.close()
        self.writeback.close()
        folders = set()
        for slot in self.slots.values():
            with slot.lock:
                leave_part(slot, self.layout.folder, self.table, _graveyard, keep=keep)
            folders.add(slot.part_name.rpartition("/")[0])
        self._reads.close(self.slots.values())
        self._room.free()
        if self.null >= 0:
            _graveyard.bury(self.null, blind=False)
        for folder in folders:
            self.layout.folder.prune(folder)

    def part(self, slot: Slot) -> PartFile:
        """The slot's part file, opened when it is not. With the slot's lock. KeyError when closed."""
        if self.closed:
            raise KeyError(slot.blob.first_piece)
        if slot.part is None:
            slot.part = open_part(slot, self.layout.folder)
        return slot.part

    def whole_fd(self, blob_index: int) -> int:
        """Where to read a blob."""
        slot = self.slots[blob_index]
        with slot.lock:
            return slot.part.fd if slot.part is not None and slot.source is None else self._reads.fd(slot)

    def _fail(self, error: Exception) -> None:
        with self._state_lock:
            if self._failed or self.closed:
                return
            self._failed = True
        if not isinstance(error, ExoDlError):
            _log.error("The store of %s failed.", self.manifest.repo, exc_info=error)
            what = f"Files of {self.manifest.repo} in {self.layout.folder.root} cannot be stored: {error}."
            error = StorageError(what, hint="Check the disk and the folder.")
        self._emit(StoreFailed(error))

    def _check(self, slot: Slot) -> None:
        try:
            places = self.layout.places(self.manifest, slot.blob)
            held, in_place = check_files(slot, places, self.library, self._stop)
            if held is not None:
                self._adopt(slot, held, in_place, places)
            elif not self._stop.is_set():
                self._check_part(slot)
        finally:
            with self._state_lock:
                self._to_check -= 1
                last = self._to_check == 0
            if last and not self.closed:
                self._emit(CheckFinished())

    def _check_part(self, slot: Slot) -> None:
        hasher, start = None, 0
        if slot.recorded:
            with slot.lock:
                part = self.part(slot)
            hasher, start = check_part(
                slot,
                part,
                self.table,
                self._stop,
                claimed=self.claims.__contains__,
                found=lambda pieces: self._emit(PiecesFound(pieces)),
            )
            slot.recorded = self._stop.is_set()
        if slot.full and not self._stop.is_set():
            self.digests.follow(slot.blob, hasher=hasher, start=start)

    def _adopt(self, slot: Slot, held: HeldBlob, in_place: set[Path], places: list[Path]) -> None:
        """A file elsewhere has the whole content: what was put together of it is not needed."""
        first, new = slot.blob.first_piece, []
        with slot.lock:
            for index in range(slot.blob.piece_count):
                if not self.table.is_held(first + index):
                    new.append(index)
                    self.table.hold(first + index, held.pieces[32 * index : 32 * (index + 1)])
            with disk_errors(held.path):
                slot.source, slot.inode = held.path, os.stat(held.path).st_ino
            slot.in_place = in_place
            part, slot.part = slot.part, None
            slot.stage = Stage.PUBLISHED if not slot.whole or in_place.issuperset(places) else Stage.PUBLISHING
            if part is not None:
                part.close(_graveyard)
            if part is not None or slot.recorded:
                self.layout.folder.remove(slot.part_name)
                self.layout.folder.remove(f"{slot.part_name}.pieces")
            slot.recorded = False
        if new:
            self._emit(PiecesFound(piece_set(new) << first))
        if slot.stage is Stage.PUBLISHED:
            if slot.full:
                self._emit(BlobPublished(slot.blob.index))
        else:
            self._publishers.run(self._copy_in, slot)

    def _copy_in(self, slot: Slot) -> None:
        """The content is in a file outside of the layout's places: copies it in."""
        with slot.lock:
            part = open_part(slot, self.layout.folder)
        with disk_errors(slot.source or self.layout.folder.root):
            try:
                copied = copy_range(self._reads.fd(slot), part.fd, slot.blob.size, self._stop)
            finally:
                with slot.lock:
                    slot.part = part
        if copied:
            self._put(slot, part)

    def _on_digest(self, blob_index: int, right: bool) -> None:
        slot = self.slots[blob_index]
        with slot.lock:
            blob = slot.blob
            # Pieces that were forgotten while it was computed are read again, and so is the digest.
            if slot.stage is not Stage.OPEN or not self.table.all_held(blob.first_piece, blob.end_piece):
                return
            slot.stage = Stage.WAITING if right else Stage.SUSPECT
            self.settle(slot)
        if not right:
            self._inspect(slot)

    def _inspect(self, slot: Slot) -> None:
        """The digest is wrong: are the bytes on disk others than those that were recorded?"""
        with slot.lock:
            part = self.part(slot)
        first, end = slot.blob.first_piece, slot.blob.end_piece
        bad = differing_pieces(part.fd, slot.blob, range(first, end), self.table, self._stop)
        if not self._stop.is_set():
            self._emit(BlobCorrupt(slot.blob.index, bad or slot.pieces))

    def settle(self, slot: Slot) -> None:
        """Publishes a verified blob as soon as no writer has a claim on a contested piece. With the slot's lock."""
        if slot.stage is Stage.WAITING and not any(piece in self.claims for piece in slot.contested):
            slot.stage = Stage.PUBLISHING
            self._publishers.run(self._publish, slot)

    def _publish(self, slot: Slot) -> None:
        with slot.lock:
            part = self.part(slot)
            contested = sorted(slot.contested)
        bad = differing_pieces(part.fd, slot.blob, contested, self.table, self._stop)
        if self._stop.is_set():
            return
        if bad:
            slot.stage = Stage.SUSPECT
            self._emit(BlobCorrupt(slot.blob.index, bad))
        else:
            self._put(slot, part)

    def _put(self, slot: Slot, part: PartFile) -> None:
        """Hands a verified part file to the layout."""
        blob = slot.blob
        part.sync()
        if slot.whole:
            path = self.layout.publish_blob(self.manifest, blob, part.name, in_place=frozenset(slot.in_place))
            if path in self.layout.places(self.manifest, blob):
                with slot.lock, disk_errors(path):
                    self._end_part(slot, part, path)
                    slot.in_place.add(path)
                    status = os.stat(path)
                if blob.size:
                    self.library.remember([(path, blob, self.table.digests(blob), status)])
        slot.stage = Stage.PUBLISHED
        self._emit(BlobPublished(blob.index))

    def _end_part(self, slot: Slot, part: PartFile, place: Path) -> None:
        """The part file has become ``place``. With the slot's lock."""
        self._reads.adopt(slot, part.detach(), place)
        part.unlink_record()
        slot.part = None

    def evict(self, pieces: int) -> int:
        """See `PullStore.evict`."""
        slots = [] if self.closed else [s for s in self.slots.values() if pieces & s.pieces & ~s.wanted]
        return reduce(or_, (evict_pieces(s, pieces, self.table, self.claims, _graveyard) for s in slots), 0)

    def forget(self, slot: Slot, pieces: int) -> None:
        """See `PullStore.forget`; ``pieces`` are of this slot."""
        with slot.lock:
            if slot.stage in (Stage.PUBLISHING, Stage.PUBLISHED):
                return
            part = self.part(slot)
            for piece in iter_bits(pieces):
                with disk_errors(part.folder.path(part.name)):
                    part.erase(piece - slot.blob.first_piece)
                self.table.drop(piece)
                slot.contested.discard(piece)
            slot.stage = Stage.OPEN
        if slot.full:
            self.digests.follow(slot.blob)
