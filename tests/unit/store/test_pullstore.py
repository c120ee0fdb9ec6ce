"""What is recorded stays, what is wrong goes, and nobody's late write reaches a published file."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from blake3 import blake3

from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.errors import UsageError
from exo_dl.store.library import Library
from exo_dl.store.publish import DirLayout, HFLayout
from exo_dl.store.pullstore import BlobCorrupt, BlobPublished, CheckFinished
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import (
    BIG,
    MIB,
    Node,
    blob_of,
    by_digest,
    leftovers,
    manifest_of,
    piece_bytes,
    random_bytes,
    tree_of,
)


def test_room_that_holds_nothing_is_given_back(tmp_path: Path, make_node: MakeNode) -> None:
    cache = tmp_path / "hub"
    node = make_node(manifest_of(BIG), HFLayout(cache)).begin()
    part = next(path for path in cache.rglob("*.exo-dl") if path.stat().st_size > MIB)
    if part.stat().st_blocks * 512 < 9 * MIB:
        pytest.skip("this file system does not reserve room")
    node.write(by_digest(BIG), [4])
    node.store.close(keep=True)
    assert MIB <= part.stat().st_blocks * 512 < 2 * MIB
    untouched = make_node(manifest_of({"w.bin": random_bytes(3 * MIB)}), HFLayout(tmp_path / "other")).begin()
    untouched.store.close(keep=True)
    assert not (tmp_path / "other" / "models--org--tiny").exists()


def test_wrong_pieces_from_a_source_are_found_by_the_whole_digest(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    blob = blob_of(node.manifest, "big.safetensors")
    wrong = {**by_digest(BIG), blob.digest: random_bytes(blob.size, 77)}
    node.write(wrong, range(blob.first_piece, blob.end_piece))
    node.events.wait(BlobCorrupt)
    everything = mask(blob.first_piece, blob.end_piece)
    assert node.events.of(BlobCorrupt) == [BlobCorrupt(blob.index, everything)]
    with pytest.raises(KeyError):
        node.store.locate(blob.first_piece, blob.end_piece)
    node.store.forget(everything)
    assert not node.store.have & everything and node.store.expected(blob.first_piece) is None
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG


def test_bytes_that_changed_after_the_record_cost_only_their_piece(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    blob = blob_of(node.manifest, "big.safetensors")
    contents = by_digest(BIG)
    # Piece 0 last: nothing is hashed before it comes.
    node.write(contents, range(blob.first_piece + 1, blob.end_piece))
    place = node.store.locate(blob.first_piece + 3, blob.first_piece + 4)[0]
    os.pwrite(place.fd, b"overtaken", place.offset + 9)
    node.write(contents, [blob.first_piece])
    node.events.wait(BlobCorrupt)
    assert node.events.of(BlobCorrupt) == [BlobCorrupt(blob.index, 1 << (blob.first_piece + 3))]
    node.store.forget(1 << (blob.first_piece + 3))
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG


def test_a_late_second_writer_cannot_spoil_a_verified_file(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    blob = blob_of(node.manifest, "big.safetensors")
    contents = by_digest(BIG)
    late = node.store.extent(blob.first_piece)
    node.write(contents, iter_bits(mask(0, node.manifest.piece_count)))
    node.events.wait(BlobPublished, 1)
    os.pwrite(late.fd, b"wrong", late.offset)
    node.store.abandon([blob.first_piece])
    node.events.wait(BlobCorrupt)
    assert node.events.of(BlobCorrupt) == [BlobCorrupt(blob.index, 1 << blob.first_piece)]
    node.store.forget(1 << blob.first_piece)
    node.fill(BIG)
    assert tree_of(node.store.finish("main")) == BIG


def test_a_second_writer_that_lets_go_delays_nothing(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    first = node.store.extent(0)
    second = node.store.extent(0)
    assert first == second
    node.write(by_digest(BIG), iter_bits(mask(0, node.manifest.piece_count)))
    node.store.abandon([0, 0])
    node.events.wait(BlobPublished, 2)
    # Once published, a writer gets a place where bytes vanish, and those with old descriptors cannot write.
    sink = node.store.extent(0)
    os.pwrite(sink.fd, b"wrong", sink.offset)
    with pytest.raises(OSError) as caught:
        os.pwrite(first.fd, b"wrong", first.offset)
    assert caught.value.errno == errno.EBADF
    assert node.store.record(0, bytes(32)) is False
    assert tree_of(node.store.finish("main")) == BIG


def test_descriptors_lead_nowhere_after_the_end(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    node.write(by_digest(BIG), [0, 1])
    place = node.store.locate(0, 2)[0]
    writing = node.store.extent(4)
    node.store.close(keep=True)
    assert os.pread(place.fd, 10, 0) == b""
    part = next(path for path in (tmp_path / "hub").rglob("*.exo-dl") if path.stat().st_size > MIB)
    before = part.read_bytes()
    os.pwrite(writing.fd, b"late", writing.offset)
    assert part.read_bytes() == before
    for use in (lambda: node.store.extent(5), lambda: node.store.locate(0, 1), lambda: node.store.record(0, bytes(32))):
        with pytest.raises(KeyError):
            use()


def test_digests_of_peers_are_kept_and_compared(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    contents, store = by_digest(BIG), node.store
    right = [blake3(piece_bytes(node.manifest, contents, piece)).digest() for piece in range(node.manifest.piece_count)]
    assert store.expect(2, right[2] + right[3]) == 0
    assert store.expected(2) == right[2] and store.digest(2) is None and store.expected(4) is None
    assert store.expect(2, right[2] + right[3]) == 0
    assert store.expect(1, right[1] + bytes(31) + b"x" + right[3]) == 1 << 2
    assert store.expected(1) == right[1] and store.expected(2) == right[2]
    node.write(contents, [5])
    assert store.digest(5) == right[5] and store.expect(5, right[6]) == 1 << 5
    assert store.have == 1 << 5


def test_runs_of_pieces_are_read_in_one_place_where_they_can(tmp_path: Path, make_node: MakeNode) -> None:
    node = make_node(manifest_of(BIG), HFLayout(tmp_path / "hub")).begin()
    contents, count = by_digest(BIG), node.manifest.piece_count
    node.write(contents, range(count))
    extents = node.store.locate(0, count)
    assert [extent.size for extent in extents] == [len(BIG["big.safetensors"]), 2]
    assert node.read(1, count) == BIG["big.safetensors"][MIB:] + b"{}"
    for first, end in ((0, count + 1), (-1, 2), (3, 3)):
        with pytest.raises(KeyError):
            node.store.locate(first, end)


def test_only_wanted_pieces_get_a_place(tmp_path: Path, make_node: MakeNode) -> None:
    manifest = manifest_of(BIG)
    wanted = mask(2, 5)
    node = make_node(manifest, HFLayout(tmp_path / "hub"), want=wanted).begin()
    contents = by_digest(BIG)
    node.write(contents, range(2, 5))
    with pytest.raises(KeyError):
        node.store.extent(1)
    with pytest.raises(KeyError):
        node.store.extent(manifest.piece_count - 1)
    assert node.store.complete and node.store.have == wanted
    assert node.read(2, 5) == BIG["big.safetensors"][2 * MIB : 5 * MIB]
    assert not node.events.of(BlobPublished)


def test_two_pulls_of_one_node_with_the_same_content_do_not_mix(tmp_path: Path, make_node: MakeNode) -> None:
    layout = HFLayout(tmp_path / "hub")
    first = make_node(manifest_of(BIG), layout).begin()
    more = {**BIG, "more.json": b"[]"}
    second = make_node(manifest_of(more, commit="d" * 40), layout).begin()
    contents = by_digest(more)
    for piece in range(first.manifest.piece_count):
        first.write(contents, [piece])
    second.fill(more)
    first.events.wait(BlobPublished, 2)
    assert tree_of(first.store.finish("main")) == BIG
    assert tree_of(second.store.finish("dev")) == more
    first.store.close(keep=True)
    second.store.close(keep=True)
    assert leftovers(tmp_path / "hub") == []


def test_discard_removes_what_is_unfinished(tmp_path: Path, make_node: MakeNode) -> None:
    for layout, rest in ((HFLayout(tmp_path / "hub"), "models--org--tiny"), (DirLayout(tmp_path / "dir"), ".exo-dl")):
        node = make_node(manifest_of(BIG), layout).begin()
        node.write(by_digest(BIG), range(4))
        node.store.discard()
        assert not (layout.folder.root / rest).exists()


def test_files_above_4_gib(tmp_path: Path, make_node: MakeNode) -> None:
    size = (4 << 30) + 3 * MIB + 5
    manifest = Manifest("huggingface", "model", "org/big", "e" * 40, (FileEntry("w.safetensors", size, bytes(32)),))
    node = make_node(manifest, HFLayout(tmp_path / "hub"), want=mask(manifest.piece_count - 3, manifest.piece_count))
    node.begin()
    last = manifest.piece_count - 1
    for piece in (last - 1, last):
        extent = node.store.extent(piece)
        data = random_bytes(extent.size, piece)
        os.pwrite(extent.fd, data, extent.offset)
        node.store.record(piece, blake3(data).digest())
    assert extent.offset + extent.size == size
    place = node.store.locate(last - 1, last + 1)[0]
    assert os.pread(place.fd, 5, size - 5) == data[-5:]
    part = next((tmp_path / "hub").rglob("*.exo-dl"))
    assert part.stat().st_size == size and part.stat().st_blocks * 512 < 64 * MIB
    have = node.store.have
    node.store.close(keep=True)
    again = make_node(manifest, HFLayout(tmp_path / "hub")).candidates
    assert again == have


def test_an_empty_file_whose_digest_is_wrong_is_told(tmp_path: Path, make_node: MakeNode) -> None:
    manifest = Manifest("huggingface", "model", "org/m", "e" * 40, (FileEntry("none.txt", 0, bytes(20)),))
    node = make_node(manifest, HFLayout(tmp_path / "hub")).begin()
    node.events.wait(BlobCorrupt)
    assert node.events.of(BlobCorrupt) == [BlobCorrupt(0, 0)] and not node.store.complete


def test_a_node_id_that_is_no_file_name_is_refused(tmp_path: Path, make_node: MakeNode) -> None:
    with pytest.raises(UsageError):
        make_node(manifest_of(BIG), HFLayout(tmp_path), node_id="../x")


# Cost


def test_a_record_costs_little(tmp_path: Path, library: Library) -> None:
    manifest = Manifest("huggingface", "model", "org/m", "e" * 40, (FileEntry("w.bin", 1000 * MIB, bytes(32)),))
    node = Node(manifest, HFLayout(tmp_path / "hub"), library, want=mask(1, manifest.piece_count)).begin()
    digest = blake3(b"").digest()
    took = []
    for piece in range(1, 901):
        node.store.extent(piece)
        start = time.perf_counter()
        node.store.record(piece, digest)
        took.append(time.perf_counter() - start)
    node.store.discard()
    # 10 us on a quiet machine; the median keeps a busy one out of it.
    assert sorted(took)[len(took) // 2] < 100e-6


def test_small_files_need_no_descriptor_each(tmp_path: Path, make_node: MakeNode) -> None:
    files = {f"f{i}.json": b"%d" % i for i in range(600)}
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    node = make_node(manifest_of(files), HFLayout(tmp_path / "hub")).begin()
    node.fill(files)
    node.events.wait(CheckFinished)
    if before:
        assert len(os.listdir("/proc/self/fd")) - before < 700
    path = node.store.finish("main")
    assert tree_of(path) == files
    assert node.read(0, 600) == b"".join(by_digest(files)[blob.digest] for blob in node.manifest.blobs)
