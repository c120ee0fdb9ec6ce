"""A process that is killed loses nothing that it recorded, and nothing is believed without being read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from exo_dl.core.pieces import mask
from exo_dl.store.checking import check_part
from exo_dl.store.publish import HFLayout
from exo_dl.store.pullstore import BlobPublished, CheckFinished, PiecesFound
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import BIG, MIB, by_digest, manifest_of, tree_of

_WRITER = """
import sys
from pathlib import Path
from exo_dl.store.library import Library
from exo_dl.store.publish import HFLayout
from tests.unit.store.stores import BIG, Node, by_digest, manifest_of
node = Node(manifest_of(BIG), HFLayout(Path(sys.argv[1])), Library(Path(sys.argv[2])))
node.begin()
for piece in (0, 1, 2, 5, 7, 9):
    node.write(by_digest(BIG), [piece])
    print(piece, flush=True)
sys.stdin.read()
"""


def killed_writer(cache: Path, db: Path) -> int:
    """A process that records pieces and is killed; the pieces that it said were recorded."""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(cache), str(db)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(6)]
        process.send_signal(signal.SIGKILL)
    return sum(1 << piece for piece in told)


def test_what_is_forgotten_before_the_check_is_not_found_by_it(tmp_path: Path, make_node: MakeNode) -> None:
    """Peers may say that the file is wrong while the store is being opened: its pieces are of an older reading."""
    cache = tmp_path / "hub"
    told = killed_writer(cache, tmp_path / "other.db")
    node = make_node(manifest_of(BIG), HFLayout(cache))
    node.store.open()
    node.store.forget(mask(1, 6))
    node.store.start_check()
    node.events.wait(CheckFinished)
    assert node.store.have == told & ~mask(1, 6)
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG
    assert not list(cache.rglob("*.exo-dl*"))


def test_what_is_forgotten_during_the_check_is_not_found_by_it(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    told = killed_writer(cache, tmp_path / "other.db")
    node = make_node(manifest_of(BIG), HFLayout(cache))
    node.store.open()
    work = node.store._work
    slot = work.slots[0] if work.slots[0].blob.piece_count > 1 else work.slots[1]
    part = work.part(slot)

    def forget_the_rest(_piece: int) -> bool:
        node.store.forget(mask(slot.blob.first_piece + 1, slot.blob.end_piece))
        return False

    check_part(slot, part, work.table, threading.Event(), claimed=forget_the_rest, found=lambda _: None)
    assert node.store.have == told & mask(0, slot.blob.first_piece + 1)


def test_a_killed_process_loses_no_recorded_piece(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    told = killed_writer(cache, tmp_path / "other.db")
    node = make_node(manifest_of(BIG), HFLayout(cache))
    # A file of one piece has no record: it is looked at in any case.
    assert node.candidates & mask(0, 10) == told
    node.begin()
    assert node.store.have == told
    assert sum(event.pieces for event in node.events.of(PiecesFound)) == told
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG


def test_recorded_pieces_are_read_again_and_wrong_ones_dropped(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    told = killed_writer(cache, tmp_path / "other.db")
    part = next(path for path in cache.rglob("*.node-a.exo-dl") if path.stat().st_size > MIB)
    with part.open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"\0\1\2\3")
    node = make_node(manifest_of(BIG), HFLayout(cache)).begin()
    assert node.store.have == told & ~(1 << 2)
    assert node.store.digest(2) is None
    node.store.close(keep=True)
    again = make_node(manifest_of(BIG), HFLayout(cache))
    assert again.candidates == told & ~(1 << 2)


def test_a_cut_off_part_file_is_begun_anew(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    killed_writer(cache, tmp_path / "other.db")
    for part in cache.rglob("*.node-a.exo-dl"):
        os.truncate(part, part.stat().st_size // 2)
    node = make_node(manifest_of(BIG), HFLayout(cache)).begin()
    assert node.candidates == node.store.have == 0
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG


def test_a_record_of_another_content_is_not_believed(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    killed_writer(cache, tmp_path / "other.db")
    sidecar = next(cache.rglob("*.pieces"))
    data = bytearray(sidecar.read_bytes())
    data[20] ^= 1
    sidecar.write_bytes(data)
    node = make_node(manifest_of(BIG), HFLayout(cache)).begin()
    assert node.store.have == 0


def test_a_small_file_that_was_written_is_found(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    manifest = manifest_of(BIG)
    small = manifest.piece_count - 1
    first = make_node(manifest, HFLayout(cache)).begin()
    extent = first.store.extent(small)
    os.pwrite(extent.fd, BIG["small.json"], extent.offset)
    # As after a kill: written, not yet recorded, and no end of the pull that tidies up.
    part = next(path for path in cache.rglob("*.exo-dl") if path.stat().st_size == 2)
    kept = part.read_bytes()
    first.store.close(keep=True)
    cache.joinpath(part.relative_to(cache)).parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(kept)
    node = make_node(manifest, HFLayout(cache)).begin()
    node.events.wait(BlobPublished)
    assert node.store.have == 1 << small
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG


def test_what_was_checked_is_digested_in_the_same_reading(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    first = make_node(manifest_of(BIG), HFLayout(cache)).begin()
    last = first.manifest.piece_count - 2
    first.write(by_digest(BIG), range(last))
    first.store.close(keep=True)
    node = make_node(manifest_of(BIG), HFLayout(cache)).begin()
    assert node.store.have == mask(0, last)
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG
