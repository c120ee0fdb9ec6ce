"""A file whose offsets need more than 32 bits, from the hub to one node and from that one to the next."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bench.cluster import hub_cache
from bench.hub import LocalHub
from bench.repos import DigestCache
from tests.integration.conftest import MakeNodes, start_all

REPO = "large/model"
NAME = "large.gguf"
HOLE_BYTES = 4 << 30
TAIL = b"behind the four gibibytes" * 1000


@pytest.fixture
def large_root(tmp_path: Path) -> Path:
    """A hub's disk with one sparse file, and its digest beside it: the hub need not read all of it first."""
    root = tmp_path / "large-hub"
    path = root / REPO / NAME
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.seek(HOLE_BYTES)
        file.write(TAIL)
    digest = hashlib.sha256()
    zeros = bytes(16 << 20)
    for _ in range(HOLE_BYTES // len(zeros)):
        digest.update(zeros)
    digest.update(TAIL)
    cache = DigestCache(root)
    cache.put(path, "0" * 40, digest.hexdigest())
    cache.save()
    return root


@pytest.mark.timeout(300)
def test_a_file_of_more_than_four_gib(make_nodes: MakeNodes, large_root: Path, tmp_path: Path) -> None:
    with LocalHub(large_root, log=tmp_path / "large.log") as hub:
        nodes = make_nodes("one", "two", HF_ENDPOINT=hub.url)
        start_all(nodes)
        summary = nodes[0].launch("pull", REPO, "--json").wait(timeout_s=240)[-1]
    size = HOLE_BYTES + len(TAIL)
    assert summary["state"] == "done"
    assert summary["bytes_wanted"] == 2 * size
    # Daemons publish only what has the digest: its name is the proof, the offsets are looked at here.
    for node in nodes:
        (blob,) = (hub_cache(node.home, REPO) / "blobs").iterdir()
        assert blob.stat().st_size == size
        with blob.open("rb") as file:
            file.seek(HOLE_BYTES - 10)
            assert file.read() == bytes(10) + TAIL
