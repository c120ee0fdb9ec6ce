"""Publishing into the Hugging Face cache, read back by huggingface_hub itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exo_dl.core.manifest import Manifest
from exo_dl.errors import StorageError
from exo_dl.store.publish import HFLayout
from exo_dl.store.pullstore import BlobPublished, PiecesFound
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import (
    COMMIT,
    Node,
    blob_of,
    by_digest,
    entry,
    leftovers,
    manifest_of,
    random_bytes,
    small_model,
    tree_of,
)

_SNAPSHOT = """
import sys, json
from huggingface_hub import scan_cache_dir, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
args = json.loads(sys.argv[1])
try:
    print(snapshot_download(**args))
except IncompleteSnapshotError as error:
    print("incomplete:", error)
else:
    scan = scan_cache_dir(args["cache_dir"]) if "cache_dir" in args else None
    assert scan is None or not scan.warnings, scan.warnings
"""


def snapshot_download(**arguments: object) -> str:
    """The real client, in a process of its own, offline."""
    run = subprocess.run(
        [sys.executable, "-c", _SNAPSHOT, json.dumps(arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def published(node: Node, files: dict[str, bytes], revision: str = "main") -> Path:
    node.fill(files)
    assert node.store.complete
    return node.store.finish(revision)


def test_the_real_client_reads_what_was_published(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    node = make_node(manifest_of(files), HFLayout(cache)).begin()
    path = published(node, files)
    assert path == cache / "models--org--tiny" / "snapshots" / COMMIT
    assert tree_of(path) == files
    assert snapshot_download(repo_id="org/tiny", cache_dir=str(cache)) == str(path)
    assert (cache / "models--org--tiny" / "refs" / "main").read_bytes() == COMMIT.encode()
    assert all(
        file.is_symlink() and not os.readlink(file).startswith("/") for file in path.rglob("*") if not file.is_dir()
    )
    node.store.close(keep=True)
    assert leftovers(cache) == []


def test_a_selection_of_files_is_known_to_be_incomplete(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    manifest = manifest_of(files, select=lambda path: path.endswith(".json"))
    published(make_node(manifest, HFLayout(cache)).begin(), {"config.json": files["config.json"]})
    assert snapshot_download(repo_id="org/tiny", cache_dir=str(cache)).startswith("incomplete:")
    some = snapshot_download(repo_id="org/tiny", cache_dir=str(cache), allow_patterns=["*.json"])
    assert tree_of(Path(some)) == {"config.json": files["config.json"]}


def test_a_selection_grows_to_the_whole_model(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    first = manifest_of(files, select=lambda path: path.endswith(".safetensors"))
    some = {path: data for path, data in files.items() if path.endswith(".safetensors")}
    published(make_node(first, HFLayout(cache)).begin(), some)
    node = make_node(manifest_of(files), HFLayout(cache)).begin()
    assert node.manifest.set_bytes(node.store.have) == sum(len(data) for data in by_digest(some).values())
    published(node, files)
    assert tree_of(Path(snapshot_download(repo_id="org/tiny", cache_dir=str(cache)))) == files


def test_what_the_clients_listing_knows_more_is_kept(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    weights = entry("model-00002.safetensors", files["model-00002.safetensors"])
    known = {"size": weights.size, "blob_id": "1" * 40, "lfs_sha256": weights.etag, "lfs_size": weights.size}
    tree = cache / "models--org--tiny" / "trees" / f"{COMMIT}.json"
    tree.parent.mkdir(parents=True)
    listed = {weights.path: {**known, "xet_hash": "2" * 64}, "config.json": {"size": 1, "blob_id": "3" * 40}}
    tree.write_text(json.dumps({"format_version": 1, "files": listed}))
    published(make_node(manifest_of(files), HFLayout(cache)).begin(), files)
    found = json.loads(tree.read_text())["files"]
    assert found[weights.path] == {**known, "xet_hash": "2" * 64}
    assert found["config.json"] == {"size": 8, "blob_id": entry("config.json", files["config.json"]).etag}
    assert set(found) == set(files)


def test_nothing_is_visible_before_the_end(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    node = make_node(manifest_of(files), HFLayout(cache)).begin()
    missing = blob_of(node.manifest, "model-00002.safetensors")
    node.write(by_digest(files), (p for p in range(node.manifest.piece_count) if p != missing.first_piece))
    node.events.wait(BlobPublished, len(node.manifest.blobs) - 1)
    with pytest.raises(StorageError, match="1 files are not verified"):
        node.store.finish("main")
    node.store.close(keep=True)
    repo = cache / "models--org--tiny"
    assert sorted(path.name for path in repo.iterdir()) == ["blobs"]
    again = make_node(manifest_of(files), HFLayout(cache)).begin()
    assert again.manifest.piece_count - again.store.have.bit_count() == 1
    published(again, files)
    assert tree_of(Path(snapshot_download(repo_id="org/tiny", cache_dir=str(cache)))) == files


def hf_cache_by_hand(cache: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    repo = cache / "models--org--tiny"
    (repo / "blobs").mkdir(parents=True)
    for path, data in files.items():
        blob = blob_of(manifest, path)
        (repo / "blobs" / blob.etag).write_bytes(data)
        link = repo / "snapshots" / manifest.commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(repo / "blobs" / blob.etag, link.parent))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(manifest.commit)


def test_a_cache_that_is_there_costs_nothing(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    manifest = manifest_of(files)
    hf_cache_by_hand(cache, manifest, files)
    before = {path: path.stat().st_ino for path in cache.rglob("blobs/*")}
    node = make_node(manifest, HFLayout(cache))
    everything = (1 << manifest.piece_count) - 1
    assert node.candidates == everything
    node.begin()
    assert node.store.have == everything and node.store.complete
    assert sum(event.pieces for event in node.events.of(PiecesFound)) == everything
    node.store.finish("main")
    assert {path: path.stat().st_ino for path in cache.rglob("blobs/*")} == before
    assert node.read(0, manifest.piece_count) == b"".join(by_digest(files)[blob.digest] for blob in manifest.blobs)


def test_wrong_bytes_in_a_cache_are_replaced_and_never_used(
    tmp_path: Path, make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    files, cache = small_model(), tmp_path / "hub"
    manifest = manifest_of(files)
    bad = bytearray(files["model-00002.safetensors"])
    bad[1_500_000] ^= 1
    hf_cache_by_hand(cache, manifest, {**files, "model-00002.safetensors": bytes(bad)})
    node = make_node(manifest, HFLayout(cache)).begin()
    blob = blob_of(manifest, "model-00002.safetensors")
    wrong = ((1 << manifest.piece_count) - 1) & ~node.store.have
    assert wrong == ((1 << blob.piece_count) - 1) << blob.first_piece
    with pytest.raises(KeyError):
        node.store.locate(blob.first_piece, blob.first_piece + 1)
    assert f"{blob.etag} does not have the content that it should have" in caplog.text
    assert (cache / "models--org--tiny" / "blobs" / blob.etag).read_bytes() == bad
    path = published(node, files)
    assert tree_of(path) == files


def test_a_second_pull_reads_nothing(tmp_path: Path, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    files, cache = small_model(), tmp_path / "hub"
    published(make_node(manifest_of(files), HFLayout(cache)).begin(), files)
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: opened.append(str(path)) or real(path, *a, **k))
    again = make_node(manifest_of(files), HFLayout(cache)).begin()
    assert again.store.complete
    # Empty files are not remembered: there is nothing in them to read.
    etags = {blob.etag for blob in again.manifest.blobs if blob.size}
    assert not [path for path in opened if Path(path).name in etags]
    again.store.finish("v2")
    assert snapshot_download(repo_id="org/tiny", cache_dir=str(cache), revision="v2").endswith(COMMIT)


def test_a_remembered_blob_that_was_changed_is_read_again(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    manifest = manifest_of(files)
    published(make_node(manifest, HFLayout(cache)).begin(), files)
    blob = blob_of(manifest, "exactly.bin")
    path = cache / "models--org--tiny" / "blobs" / blob.etag
    status = path.stat()
    path.write_bytes(random_bytes(blob.size, 99))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = make_node(manifest, HFLayout(cache)).begin()
    assert again.store.have == ((1 << manifest.piece_count) - 1) & ~(1 << blob.first_piece)


def test_the_same_content_in_another_repository_is_copied(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    published(make_node(manifest_of(files), HFLayout(cache)).begin(), files)
    other = manifest_of({"w.safetensors": files["model-00002.safetensors"]}, repo="other/name", commit="d" * 40)
    node = make_node(other, HFLayout(cache)).begin()
    node.events.wait(BlobPublished)
    path = node.store.finish("main")
    assert path == cache / "models--other--name" / "snapshots" / ("d" * 40)
    assert tree_of(path) == {"w.safetensors": files["model-00002.safetensors"]}
    assert leftovers(cache) == []


def test_two_nodes_share_one_cache(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache = small_model(), tmp_path / "hub"
    manifest = manifest_of(files)
    nodes = [make_node(manifest, HFLayout(cache), node_id=name).begin() for name in ("node-a", "node-b")]
    contents = by_digest(files)
    for piece in range(manifest.piece_count):
        for node in nodes:
            node.write(contents, [piece])
    for node in nodes:
        node.events.wait(BlobPublished, len(manifest.blobs))
        path = node.store.finish("main")
    assert tree_of(path) == files
    for node in nodes:
        assert node.read(0, manifest.piece_count) == b"".join(contents[blob.digest] for blob in manifest.blobs)
        node.store.close(keep=True)
    assert leftovers(cache) == []


def test_links_planted_in_the_cache_lead_nowhere(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache, outside = small_model(), tmp_path / "hub", tmp_path / "outside"
    outside.mkdir()
    snapshots = cache / "models--org--tiny" / "snapshots"
    snapshots.parent.mkdir(parents=True)
    snapshots.symlink_to(outside)
    node = make_node(manifest_of(files), HFLayout(cache)).begin()
    node.fill(files)
    with pytest.raises(StorageError, match="symbolic link"):
        node.store.finish("main")
    assert list(outside.iterdir()) == []


def test_a_planted_link_in_place_of_a_file_is_replaced(tmp_path: Path, make_node: MakeNode) -> None:
    files, cache, outside = small_model(), tmp_path / "hub", tmp_path / "precious"
    outside.write_bytes(b"precious")
    link = cache / "models--org--tiny" / "snapshots" / COMMIT / "config.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    path = published(make_node(manifest_of(files), HFLayout(cache)).begin(), files)
    assert (path / "config.json").read_bytes() == files["config.json"]
    assert outside.read_bytes() == b"precious"
