"""What daemons count in a real pull, as `exo-dl metrics` shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.cluster import Node
from bench.models import LabModel
from bench.served import read_requests
from tests.integration.conftest import MakeNodes, start_all


def test_the_hub_is_asked_once_before_the_first_byte(make_nodes: MakeNodes, model: LabModel, tmp_path: Path) -> None:
    """Each question is a round trip that the pull waits for."""
    nodes = make_nodes("one")
    start_all(nodes)
    nodes[0].json("pull", model.repo)
    asked = [request for request in read_requests(tmp_path / "access.log") if not request.is_file]
    assert [request.path for request in asked] == [f"/api/models/{model.repo}/revision/main"]


def io_counters(node: Node) -> dict[str, int]:
    lines = Path(f"/proc/{node.process.pid}/io").read_text(encoding="ascii").splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


@pytest.mark.skipif(sys.platform != "linux", reason="counts reads in /proc")
def test_whole_files_are_hashed_without_a_second_read(make_nodes: MakeNodes, model: LabModel) -> None:
    """What was just received is read from the page cache, once, and nothing of it from the disk."""
    nodes = make_nodes("one", "two")
    start_all(nodes)
    before = [io_counters(node) for node in nodes]
    nodes[0].json("pull", model.repo)
    for node, then in zip(nodes, before, strict=True):
        now, served = io_counters(node), node.metrics().bytes_served  # what is sent counts as read as well
        assert now["rchar"] - then["rchar"] - served < 1.6 * model.size_bytes
        assert now["read_bytes"] - then["read_bytes"] < 0.5 * model.size_bytes


def test_counters_are_what_the_pull_says(make_nodes: MakeNodes, model: LabModel) -> None:
    nodes = make_nodes("one", "two")
    start_all(nodes)
    pull = nodes[0].json("pull", model.repo)[-1]
    told = {node["name"]: node for node in pull["nodes"]}
    found = {node.name: node.json("metrics")[-1] for node in nodes}
    for name, metrics in found.items():
        assert metrics["name"] == name
        assert metrics["bytes_from_hub"] == told[name]["bytes_from_hub"]
        assert metrics["bytes_from_peers"] == told[name]["bytes_from_peers"]
        assert metrics["bytes_from_hub"] + metrics["bytes_from_peers"] == model.size_bytes
        assert metrics["received_from_hub_bytes"] >= metrics["bytes_from_hub"]
        assert metrics["received_from_peers_bytes"] >= metrics["bytes_from_peers"]
        assert (metrics["pulls_done"], metrics["pulls_running"], metrics["peers_up"]) == (1, 0, 1)
        assert 10e6 < metrics["rss_bytes"] < 1e9
        assert metrics["cpu_s"] > 0
        lag = metrics["loop_lag"]
        assert 0 < lag["p99_s"] <= lag["max_s"] <= lag["worst_s"]
        assert lag["count"] >= lag["buckets"][-1][1] > 0
    one, two = found["one"], found["two"]
    # A receiver that has cut an answer short counts less of it than its sender.
    assert one["bytes_served"] >= two["received_from_peers_bytes"] > 0
    assert two["bytes_served"] >= one["received_from_peers_bytes"]
    assert one["piece_requests"] > 0

    text = nodes[0].run(nodes[0].command("metrics"))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["exo_dl_hub_bytes"].samples[0].value == one["bytes_from_hub"]
