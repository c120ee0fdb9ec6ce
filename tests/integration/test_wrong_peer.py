"""A node whose disk gives wrong bytes: those who ask it notice, and take them from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from bench.cluster import Node, hub_cache
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.served import read_requests, summarize
from tests.integration.conftest import MakeNodes, start_all


def damage(model: LabModel, node: Node) -> None:
    """Flips a byte in each MiB of all files, in place: sizes and inodes stay."""
    for etag in set(model.etags.values()):
        path = hub_cache(node.home, model.repo) / "blobs" / etag
        with path.open("r+b", buffering=0) as file:
            for offset in range(0, path.stat().st_size, 1 << 20):
                byte = os.pread(file.fileno(), 1, offset)
                os.pwrite(file.fileno(), bytes([byte[0] ^ 0xFF]), offset)


def test_wrong_bytes_from_a_peer_are_taken_from_another(
    make_nodes: MakeNodes, model: LabModel, hub: LocalHub, tmp_path: Path
) -> None:
    one, two, three = make_nodes("one", "two", "three")
    start_all([one, two])
    assert one.json("pull", model.repo)[-1]["state"] == "done"
    damage(model, two)
    one.json("limit", "--lan-up", "8MB/s", "--node", "one")  # so that node two is asked for much
    hub.settle()
    before = summarize(read_requests(tmp_path / "access.log")).total_bytes
    start_all([three])
    summary = three.json("pull", model.repo, "--nodes", "three")[-1]
    assert summary["state"] == "done"
    events = three.json("status", summary["pull_id"])[-1]["events"]
    assert any("two sent wrong bytes" in event for event in events), events
    check_copy(model, three.home)
    check_copy(model, one.home)
    hub.settle()
    more = summarize(read_requests(tmp_path / "access.log")).total_bytes - before
    print(f"{more} bytes were read from the hub")
    assert more <= 0.05 * model.size_bytes, "what one right holder has need not come from the hub"
