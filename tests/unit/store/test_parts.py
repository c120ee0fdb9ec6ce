"""Folders of parts: what is in them, what they take from where, and what changes with the next placement."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from exo_dl.core.pieces import iter_bits, mask
from exo_dl.core.wants import NodeWants
from exo_dl.formats import safetensors
from exo_dl.store.library import Library
from exo_dl.store.publish import DirLayout, HFLayout, Layout
from exo_dl.store.pullstore import BlobCorrupt, BlobPublished, PartsMended
from exo_dl.store.selection import Selection
from tests.unit.store.stores import MIB, Node, by_digest, manifest_of

TENSORS = {f"model.layers.{n}.w": np.random.default_rng(n).integers(0, 255, 700_000 + n, np.uint8) for n in range(8)}
FILES = {
    "config.json": b"{}",
    "model.safetensors": save(TENSORS, metadata={"format": "pt"}),
    "empty.txt": b"",
}
MANIFEST = manifest_of(FILES)
HEADER = safetensors.parse_header(FILES["model.safetensors"], len(FILES["model.safetensors"]), file="model.safetensors")


def selection(*layers: int, sparse: bool = False, whole: tuple[str, ...] = ("config.json",)) -> Selection:
    spans = [(0, HEADER.header_bytes)]
    spans += [(t.begin, t.end) for t in HEADER.tensors if t.name in {f"model.layers.{n}.w" for n in layers}]
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    wants = NodeWants(frozenset(whole), {"model.safetensors": tuple(merged)})
    indexes = frozenset(b.index for b in MANIFEST.blobs if set(b.paths) & wants.whole)
    want = wants.pieces(MANIFEST)
    return Selection(want, indexes, wants.parts, spare=mask(0, MANIFEST.piece_count) & ~want, sparse=sparse)


def pull(chosen: Selection, layout: Layout, library: Library) -> tuple[Path, int]:
    """A pull of what is chosen. Gives the folder and the pieces that had to be fetched."""
    node = Node(MANIFEST, layout, library, want=chosen).begin()
    try:
        missing = chosen.want & ~node.store.have
        node.write(by_digest(FILES), iter_bits(missing))
        node.events.wait(BlobPublished, len(node.store.awaited))
        return node.store.finish("main"), missing
    finally:
        node.store.close(keep=True)


@pytest.mark.parametrize("kind", ["hf", "dir"])
def test_each_kept_tensor_is_in_a_valid_file(tmp_path: Path, library: Library, kind: str) -> None:
    layout = HFLayout(tmp_path / "hub") if kind == "hf" else DirLayout(tmp_path / "it")
    folder, _ = pull(selection(2, 3, 6), layout, library)
    held = load_file(folder / "model.safetensors")
    assert {name: tensor.tobytes() for name, tensor in held.items()} == {
        name: TENSORS[name].tobytes() for name in ("model.layers.2.w", "model.layers.3.w", "model.layers.6.w")
    }
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict.fromkeys(sorted(held), "model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in held.values())
    assert (folder / "config.json").read_bytes() == b"{}"
    assert not (folder / "empty.txt").exists()
    assert not [path for path in folder.rglob("*") if "draft" in path.name]
    note = json.loads((folder / "exo_dl.json").read_text())
    assert note["files"]["model.safetensors"]["of"] == MANIFEST.files[2].etag


def test_the_next_placement_fetches_only_what_is_new(tmp_path: Path, library: Library) -> None:
    layout = HFLayout(tmp_path / "hub")
    first, _ = pull(selection(0, 1, 2), layout, library)
    inode = (first / "model.safetensors").stat().st_ino
    again, missing = pull(selection(0, 1, 2), layout, library)
    assert (again, missing) == (first, 0)
    assert (again / "model.safetensors").stat().st_ino == inode, "what is right is not written again"
    _, missing = pull(selection(2, 3), layout, library)
    assert not missing & selection(2).want
    assert set(load_file(first / "model.safetensors")) == {"model.layers.2.w", "model.layers.3.w"}
    whole = Selection.of_pieces(MANIFEST, mask(0, MANIFEST.piece_count))
    snapshot, missing = pull(whole, layout, library)
    assert not missing & selection(2, 3).want
    assert (snapshot / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_sparse_file_has_the_tensors_where_they_were(tmp_path: Path, library: Library) -> None:
    folder, _ = pull(selection(5, sparse=True), HFLayout(tmp_path / "hub"), library)
    assert (
        load_file(folder / "model.safetensors")["model.layers.5.w"].tobytes() == TENSORS["model.layers.5.w"].tobytes()
    )
    assert (folder / "model.safetensors").stat().st_blocks * 512 < 4 * MIB


def test_a_late_writer_cannot_spoil_a_part_whose_digest_nobody_knows(tmp_path: Path, library: Library) -> None:
    node = Node(MANIFEST, HFLayout(tmp_path / "hub"), library, want=selection(2, 3)).begin()
    try:
        pieces = list(iter_bits(selection(2, 3).want & ~node.store.have))
        late = max(pieces)
        extent = node.store.extent(late)  # the second of two that fetch it
        node.write(by_digest(FILES), pieces)
        node.events.wait(BlobPublished, len(node.store.awaited))
        os.pwrite(extent.fd, bytes(100), extent.offset)
        node.store.abandon([late])
        node.store.finish("main")
        (found,) = node.events.of(BlobCorrupt)
        assert found.bad_pieces == 1 << late
        assert not list((tmp_path / "hub").glob("exo-dl/**/*.safetensors")), "nothing of it was shown to programs"
        node.store.forget(found.bad_pieces)
        node.write(by_digest(FILES), [late])
        held = load_file(node.store.finish("main") / "model.safetensors")
        assert held["model.layers.3.w"].tobytes() == TENSORS["model.layers.3.w"].tobytes()
    finally:
        node.store.close(keep=True)


@pytest.mark.parametrize("sparse", [False, True])
def test_parts_that_turn_out_wrong_are_mended_when_the_whole_file_comes(
    tmp_path: Path, library: Library, *, sparse: bool
) -> None:
    layout = HFLayout(tmp_path / "hub")
    wrong = FILES | {"model.safetensors": bytearray(FILES["model.safetensors"])}
    at = next(t.begin for t in HEADER.tensors if t.name == "model.layers.3.w") + MIB // 2
    wrong["model.safetensors"][at] ^= 0xFF
    contents = {digest: bytes(wrong[path]) for path in FILES for digest in by_digest({path: FILES[path]})}
    node = Node(MANIFEST, layout, library, want=selection(2, 3, sparse=sparse)).begin()
    node.write(contents, iter_bits(selection(2, 3).want & ~node.store.have))
    node.events.wait(BlobPublished, len(node.store.awaited))
    folder = node.store.finish("main")
    node.store.close(keep=True)
    assert (
        load_file(folder / "model.safetensors")["model.layers.3.w"].tobytes() != TENSORS["model.layers.3.w"].tobytes()
    )

    node = Node(MANIFEST, layout, library).begin()
    node.write(contents, iter_bits(mask(0, MANIFEST.piece_count) & ~node.store.have))
    node.events.wait(BlobCorrupt)
    node.store.forget(node.events.of(BlobCorrupt)[0].bad_pieces)
    node.fill(FILES)
    node.store.finish("main")
    node.store.close(keep=True)
    assert node.events.of(PartsMended) == [PartsMended(("model.safetensors",))]
    held = load_file(folder / "model.safetensors")
    for name in ("model.layers.2.w", "model.layers.3.w"):
        assert held[name].tobytes() == TENSORS[name].tobytes()
    assert json.loads((folder / "exo_dl.json").read_text())["layout"].startswith("sparse") == sparse
    again = Node(MANIFEST, layout, library).begin()
    again.store.finish("main")
    again.store.close(keep=True)
    assert not again.events.of(PartsMended), "what is right is left alone"


def test_a_plain_folder_says_no_more_that_it_is_a_part_once_it_is_whole(tmp_path: Path, library: Library) -> None:
    layout = DirLayout(tmp_path / "it")
    folder, _ = pull(selection(2), layout, library)
    assert (folder / "exo_dl.json").exists()
    pull(Selection.of_pieces(MANIFEST, mask(0, MANIFEST.piece_count)), layout, library)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (folder / "exo_dl.json").exists()


def test_what_is_held_for_others_goes_without_a_trace(tmp_path: Path, library: Library) -> None:
    every = mask(0, MANIFEST.piece_count)
    nothing = Selection(0, frozenset(), spare=every)
    node = Node(MANIFEST, HFLayout(tmp_path / "hub"), library, want=nothing).begin()
    store = node.store
    node.write(by_digest(FILES), iter_bits(every))
    assert store.have == every
    assert store.locate(1, 2)
    assert store.evict(every) == every
    assert store.have == 0
    with pytest.raises(KeyError):
        store.locate(1, 2)
    store.close(keep=True)
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
