"""Finding out what of a blob is on this node's disks already: other files with its content, and earlier part files."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Container, Iterable
from pathlib import Path

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.core.paths import colliding
from exo_dl.errors import StorageError
from exo_dl.store.folder import Folder
from exo_dl.store.library import HeldBlob, Library
from exo_dl.store.partfile import PartFile
from exo_dl.store.publish import Layout
from exo_dl.store.slots import PieceTable, Slot, piece_set
from exo_dl.store.verify import BlobHasher, scan_pieces

__all__ = ["check_files", "check_names", "check_part", "differing_pieces", "plan_slot", "spoilt_parts"]

_log = logging.getLogger(__name__)
_BATCH_BYTES = 64 << 20
_LET_GO_S = 0.01


def plan_slot(slot: Slot, manifest: Manifest, layout: Layout, library: Library) -> int:
    """Notes in the slot what there is to read, by names and sizes alone. Returns the pieces that may be found."""
    blob = slot.blob
    places = set(layout.places(manifest, blob))
    slot.known = library.find(blob) if blob.size else []
    vouched = {held.path for held in slot.known}
    # Where a content is held for certain, other files of it matter only where they are to be in the end.
    slot.candidates = [
        path for path in layout.existing(manifest, blob) if path not in vouched and (not vouched or path in places)
    ]
    records, slot.on_disk = PartFile.peek(layout.folder, slot.part_name, blob) if blob.size else ([], 0)
    slot.recorded = bool(records)
    if slot.known or slot.candidates:
        return slot.pieces
    return piece_set(index for index, _ in records) << blob.first_piece


def check_files(
    slot: Slot, places: Collection[Path], library: Library, stop: threading.Event
) -> tuple[HeldBlob | None, set[Path]]:
    """Reads the slot's candidates; the slot has none any more.

    Returns:
        A file that has the content (best one that is in its place), and the places that have it.
    """
    good, candidates = slot.known, slot.candidates
    # Looked at once. A content that many models share has as many files, and stores stay open after the end of a pull.
    slot.known, slot.candidates = [], []
    for path in candidates:
        if stop.is_set():
            return None, set()
        if good and path not in places:
            continue
        held = _read_file(path, slot.blob, stop, library)
        if held is not None:
            good.append(held)
        elif not stop.is_set():
            _log.warning("%s does not have the content that it should have; it is not used.", path)
    in_place = {held.path for held in good} & set(places)
    good.sort(key=lambda held: held.path not in in_place)
    return (good[0] if good else None), in_place


def _read_file(path: Path, blob: Blob, stop: threading.Event, library: Library) -> HeldBlob | None:
    """The file with the digests of its pieces when it has the blob's content; remembered by the library."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        before = os.fstat(fd)
        whole: BlobHasher | None = BlobHasher(blob.digest, blob.size)
        pieces = bytearray()
        for _, digest, so_far in scan_pieces(fd, blob, range(blob.piece_count), stop, hasher=whole):
            pieces += digest
            whole = so_far
        after = os.fstat(fd)
    except OSError as error:
        _log.warning("%s cannot be read: %s.", path, error.strerror)
        return None
    finally:
        os.close(fd)
    if before.st_size != blob.size or (before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_mtime_ns,
        after.st_ctime_ns,
    ):
        return None
    if stop.is_set() or whole is None or not whole.matches():
        return None
    if blob.size:
        library.remember([(path, blob, bytes(pieces), after)])
    return HeldBlob(path, bytes(pieces))


def check_part(
    slot: Slot,
    part: PartFile,
    table: PieceTable,
    stop: threading.Event,
    *,
    claimed: Callable[[int], bool],
    found: Callable[[int], None],
) -> tuple[BlobHasher | None, int]:
    """Reads the pieces that an earlier run recorded; those that are not as recorded are struck from the record.

    Args:
        slot: the blob.
        part: its part file.
        table: gets the pieces that are right.
        stop: ends the check.
        claimed: whether a writer has a claim on a piece (numbered in the manifest).
        found: called with sets of pieces that are right, every 64 MiB.

    Returns:
        A digest of the whole blob as far as the pieces follow one another from its start, and their number.
    """
    blob = slot.blob
    records = dict(part.recorded()) or ({0: b""} if blob.piece_count == 1 else {})
    hasher = BlobHasher(blob.digest, blob.size) if 0 in records else None
    prefix: BlobHasher | None = None
    new: list[int] = []
    start = 0
    for index, digest, whole in scan_pieces(part.fd, blob, records, stop, hasher=hasher):
        piece = blob.first_piece + index
        right = digest == records[index] if blob.piece_count > 1 else whole is not None and whole.matches()
        with slot.lock:
            if not part.still(index, records[index]):
                right = False  # forgotten, or brought anew, since the check began
            elif not table.is_held(piece):
                if right:
                    if claimed(piece):
                        slot.contested.add(piece)
                    table.hold(piece, digest)
                    new.append(index)
                else:
                    part.erase(index)
        if right and whole is not None and start == index:
            prefix, start = whole, index + 1
        if len(new) * blob.piece_size >= _BATCH_BYTES:
            found(piece_set(new) << blob.first_piece)
            new.clear()
    if new:
        found(piece_set(new) << blob.first_piece)
    return prefix, start


def differing_pieces(fd: int, blob: Blob, pieces: Iterable[int], table: PieceTable, stop: threading.Event) -> int:
    """The pieces (numbered in the manifest) whose bytes in ``fd`` do not have the recorded digest, as a set."""
    bad = 0
    for index, digest, _ in scan_pieces(fd, blob, (piece - blob.first_piece for piece in pieces), stop):
        piece = blob.first_piece + index
        if table.digest(piece) != digest:
            bad |= 1 << piece
    return bad


def spoilt_parts(
    slots: Iterable[Slot],
    part_of: Callable[[Slot], PartFile],
    table: PieceTable,
    claims: Container[int],
    stop: threading.Event,
) -> list[tuple[int, int]]:
    """Blobs that are not wanted whole, with their pieces (a set) that a late writer spoilt: no digest shows it.

    Waits until the other writers of contested pieces have let go, which they do when they hear that a piece is there.
    """
    found = []
    for slot in slots:
        if slot.full or not slot.contested:
            continue
        while any(piece in claims for piece in tuple(slot.contested)) and not stop.wait(_LET_GO_S):
            pass
        with slot.lock:
            part, pieces = part_of(slot), sorted(p for p in slot.contested if slot.wanted >> p & 1 and table.is_held(p))
            slot.contested.clear()
        if bad := differing_pieces(part.fd, slot.blob, pieces, table, stop):
            found.append((slot.blob.index, bad))
    return found


def check_names(slots: Iterable[Slot], folder: Folder) -> None:
    """Two names that this disk takes for one would overwrite each other."""
    same = next(iter(colliding(path for slot in slots for path in slot.blob.paths)), None)
    if same is not None and folder.folds_names():
        raise StorageError(
            f"The disk of {folder.root} takes {same[0]!r} and {same[1]!r} for one name.",
            hint="Leave one of them out with --exclude, or choose a disk that tells them apart.",
        )
