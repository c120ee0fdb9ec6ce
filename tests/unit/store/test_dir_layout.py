"""Publishing into a plain folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub._local_folder import read_download_metadata

from exo_dl.errors import StorageError, UsageError
from exo_dl.store.publish import DirLayout, HFLayout, layout_for
from exo_dl.store.pullstore import BlobPublished
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import COMMIT, by_digest, entry, leftovers, manifest_of, random_bytes, small_model, tree_of
from tests.unit.store.test_hf_cache import hf_cache_by_hand, snapshot_download


def test_a_folder_has_the_files_and_the_notes_of_the_real_client(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder = small_model(), tmp_path / "model"
    node = make_node(manifest_of(files), DirLayout(folder)).begin()
    node.fill(files)
    assert tree_of(folder) == {}
    assert node.store.finish("main") == folder
    assert tree_of(folder) == files
    for path, data in files.items():
        note = read_download_metadata(folder, path)
        assert note is not None and (note.commit_hash, note.etag) == (COMMIT, entry(path, data).etag)
    assert snapshot_download(repo_id="org/tiny", local_dir=str(folder), revision=COMMIT) == str(folder)
    assert node.read(0, node.manifest.piece_count) == b"".join(by_digest(files)[b.digest] for b in node.manifest.blobs)
    node.store.close(keep=True)
    assert leftovers(folder) == []
    assert constants.HF_HUB_OFFLINE is False


def test_a_second_pull_finds_every_file_in_place(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder = small_model(), tmp_path / "model"
    first = make_node(manifest_of(files), DirLayout(folder)).begin()
    first.fill(files)
    first.store.finish("main")
    inodes = {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
    again = make_node(manifest_of(files), DirLayout(folder)).begin()
    assert again.store.complete
    again.store.finish("main")
    changed = [path.name for path, inode in inodes.items() if path.stat().st_ino != inode]
    assert all(name.endswith(".metadata") for name in changed)


def test_a_newer_revision_replaces_the_hubs_files_and_keeps_ones_own(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder = small_model(), tmp_path / "model"
    first = make_node(manifest_of(files), DirLayout(folder)).begin()
    first.fill(files)
    first.store.finish("main")
    (folder / "config.json").write_bytes(b'{"mine": 1}')
    later = time.time() + 10
    os.utime(folder / "config.json", (later, later))
    newer = {**files, "config.json": b'{"a": 2}', "exactly.bin": random_bytes(1000, 7), "new.txt": b"new"}
    node = make_node(manifest_of(newer, commit="d" * 40), DirLayout(folder)).begin()
    node.fill(newer)
    node.store.finish("main")
    assert tree_of(folder) == newer
    node.store.close(keep=True)
    kept = [path for path in leftovers(folder / ".exo-dl")]
    assert kept == []
    aside = [path for path in (folder / ".exo-dl").rglob("*") if path.is_file()]
    assert [path.name for path in aside] == ["config.json"] and aside[0].read_bytes() == b'{"mine": 1}'


def test_what_the_cache_holds_is_copied(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder, cache = small_model(), tmp_path / "model", tmp_path / "hub"
    manifest = manifest_of(files)
    hf_cache_by_hand(cache, manifest, files)
    node = make_node(manifest, DirLayout(folder, hf_cache_dir=cache)).begin()
    node.events.wait(BlobPublished, len(manifest.blobs))
    node.store.finish("main")
    assert tree_of(folder) == files
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_wrong_copies_of_a_content_are_mended(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder = small_model(), tmp_path / "model"
    (folder / "copy of").mkdir(parents=True)
    (folder / "copy of" / "model.safetensors").write_bytes(files["copy of/model.safetensors"])
    (folder / "model-00001.safetensors").write_bytes(bytes(len(files["model-00001.safetensors"])))
    node = make_node(manifest_of(files), DirLayout(folder)).begin()
    node.fill(files)
    node.store.finish("main")
    assert tree_of(folder) == files


def test_a_cancelled_pull_changes_nothing_that_programs_see(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder = small_model(), tmp_path / "model"
    node = make_node(manifest_of(files), DirLayout(folder)).begin()
    node.write(by_digest(files), range(node.manifest.piece_count - 1))
    node.events.wait(BlobPublished, len(node.manifest.blobs) - 1)
    have = node.store.have
    node.store.close(keep=True)
    assert tree_of(folder) == {}
    again = make_node(manifest_of(files), DirLayout(folder)).begin()
    assert again.candidates == have and again.store.have == have
    again.store.discard()
    assert not (folder / ".exo-dl").exists()


def test_two_nodes_share_one_folder(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder = small_model(), tmp_path / "model"
    nodes = [make_node(manifest_of(files), DirLayout(folder), node_id=name).begin() for name in ("a", "b")]
    for node in nodes:
        node.fill(files)
    for node in nodes:
        node.store.finish("main")
        node.store.close(keep=True)
    assert tree_of(folder) == files
    assert leftovers(folder) == []


def test_a_planted_folder_link_is_refused(tmp_path: Path, make_node: MakeNode) -> None:
    files, folder, outside = small_model(), tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "sub").symlink_to(outside)
    node = make_node(manifest_of(files), DirLayout(folder)).begin()
    node.fill(files)
    with pytest.raises(StorageError, match="symbolic link"):
        node.store.finish("main")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("text", ["dir:relative", "dir:", "zip:/x", "dir:/a\0b"])
def test_impossible_layouts_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no layout"):
        layout_for(text, hf_cache_dir=tmp_path)


def test_layouts_by_name(tmp_path: Path) -> None:
    assert isinstance(layout_for("", hf_cache_dir=tmp_path), HFLayout)
    assert isinstance(layout_for("hf", hf_cache_dir=tmp_path), HFLayout)
    assert isinstance(layout_for(f"dir:{tmp_path}/x y", hf_cache_dir=tmp_path), DirLayout)
