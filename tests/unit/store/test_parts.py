"""Folders of parts: what is in them, what they take from where, and what changes with the next placement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from exo_dl.core.pieces import iter_bits, mask
from exo_dl.core.wants import NodeWants
from exo_dl.formats import safetensors
from exo_dl.store.library import Library
from exo_dl.store.publish import DirLayout, HFLayout, Layout
from exo_dl.store.pullstore import BlobPublished
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
