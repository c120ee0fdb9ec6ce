"""A model of 400 GB in 200 files: what each piece costs in memory, in the journal and on the wire is a few bytes.

No bytes of it are needed for that: the part files are sparse.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exo_dl.core import lease_types, swarm
from exo_dl.core.leases import LeaseTable
from exo_dl.core.manifest import FileEntry, Manifest, pull_id_for
from exo_dl.core.pieces import mask
from exo_dl.net import wire
from exo_dl.store.folder import Folder
from exo_dl.store.library import Library
from exo_dl.store.osfile import Graveyard
from exo_dl.store.partfile import PartFile
from exo_dl.store.publish import layout_for
from exo_dl.store.pullstore import PullStore

_FILES = 200
_FILE_BYTES = 2 * 10**9
_DIGEST = bytes(range(32))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    files = tuple(
        FileEntry(f"model-{n:05}-of-{_FILES:05}.safetensors", _FILE_BYTES, n.to_bytes(32, "little"))
        for n in range(_FILES)
    )
    return Manifest("huggingface", "model", "org/large", "c" * 40, files)


class Growth:
    """Bytes of memory that were kept, known at the end of `grown`."""

    kept = 0


@contextmanager
def grown() -> Iterator[Growth]:
    growth = Growth()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield growth
        growth.kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_the_model_is_what_it_says(manifest: Manifest) -> None:
    assert manifest.total_bytes == 400 * 10**9
    assert manifest.piece_count > 100_000


def test_the_store_keeps_a_digest_and_a_state_for_each_piece(manifest: Manifest, tmp_path: Path) -> None:
    library = Library(tmp_path / "state.db")
    count = manifest.piece_count
    with grown() as growth:
        store = PullStore(
            manifest,
            want=mask(0, count),
            layout=layout_for("hf", hf_cache_dir=tmp_path / "hub"),
            library=library,
            node_id="node-a",
            events=lambda _: None,
        )
        assert store.candidates() == 0
        for run in range(0, count, 1000):
            store.expect(run, _DIGEST * min(1000, count - run))
        assert store.expected(count - 1) == _DIGEST
    store.close(keep=False)
    library.close()
    assert 33 <= growth.kept / count <= 37


def test_the_journal_has_32_bytes_for_each_piece(manifest: Manifest, tmp_path: Path) -> None:
    folder, graveyard = Folder(tmp_path / "parts"), Graveyard()
    parts = [PartFile.open(folder, f"part-{blob.index}", blob) for blob in manifest.blobs]
    for part in parts:
        for piece in range(part.blob.piece_count):
            part.record(piece, _DIGEST)
    journals = sum(path.stat().st_size for path in (tmp_path / "parts").glob("*.pieces"))
    assert journals == 32 * manifest.piece_count + 128 * _FILES
    assert sum(path.stat().st_blocks for path in (tmp_path / "parts").iterdir()) * 512 < 40 * manifest.piece_count
    assert len(parts[-1].recorded()) == parts[-1].blob.piece_count
    for part in parts:
        part.close(graveyard)


def test_a_node_and_its_coordinator_keep_bits(manifest: Manifest) -> None:
    count = manifest.piece_count
    everything, peers = mask(0, count), [f"peer-{n}" for n in range(8)]
    with grown() as growth:
        node = swarm.Swarm(manifest, node="me", want=everything, rng=random.Random(1))
        node.handle(swarm.HubReady(ok=True), 0.0)
        for number, peer in enumerate(peers):
            node.handle(swarm.PeerJoined(peer), 0.0)
            node.handle(swarm.PeerHas(peer, mask(number, count)), 0.0)
        node.handle(swarm.Held(mask(0, count // 2)), 0.1)
        table = LeaseTable(manifest, rng=random.Random(1), epoch=1)
        for number, peer in enumerate(peers):
            joined = lease_types.NodeJoined(peer, have=mask(number, count // 2), checking=0, want=everything)
            table.handle(joined, 0.1 * number)
            table.handle(lease_types.LeaseAsked(peer, slot=0, bytes_per_s=1e8), 0.1 * number)
    # Eight maps of one bit each, and the maps of what is common and rare.
    assert growth.kept / count <= 6


def size(message: wire.pb.LinkMessage) -> int:
    return len(message.SerializeToString())


def test_messages_have_bits_and_digests_and_no_more(manifest: Manifest) -> None:
    count = manifest.piece_count
    offer = wire.manifest_to_pb(manifest)
    assert len(offer.SerializeToString()) / _FILES < 100
    assert len(wire.piece_set(mask(0, count)).SerializeToString()) <= count / 8 + 16
    maps = list(wire.have_runs(mask(0, count), lambda _: _DIGEST))
    sizes = [sum(len(run.SerializeToString()) for run in runs) for runs in maps]
    assert sum(sizes) / count < 32.1
    assert max(sizes) <= 1.1 * (1 << 20)
    assert len(pull_id_for(manifest, "hf", "")) == 20


def test_what_a_store_keeps_of_a_file_does_not_grow_with_the_files_before_it(tmp_path: Path) -> None:
    """A set of pieces has a bit for every piece of the pull: with one for each of 20,000 files that is 25 MB."""
    files = tuple(FileEntry(f"data/{n:05}.bin", 1000, n.to_bytes(32, "little")) for n in range(20_000))
    manifest = Manifest("huggingface", "dataset", "org/many", "c" * 40, files)
    library = Library(tmp_path / "state.db")
    with grown() as growth:
        store = PullStore(
            manifest,
            want=mask(0, manifest.piece_count),
            layout=layout_for("hf", hf_cache_dir=tmp_path / "hub"),
            library=library,
            node_id="node-a",
            events=lambda _: None,
        )
    store.close(keep=False)
    library.close()
    assert growth.kept / len(files) < 1300
