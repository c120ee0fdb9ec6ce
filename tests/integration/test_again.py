"""The same pull, started again by a node that took no part in the one before."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cluster import Node
from bench.models import LabModel, check_copy
from bench.served import read_requests, summarize
from tests.integration.conftest import MakeNodes, slowly, start_all


@pytest.fixture
def trio(make_nodes: MakeNodes) -> list[Node]:
    nodes = make_nodes("one", "two", "three")
    start_all(nodes)
    return nodes


@pytest.mark.parametrize("times", [1, 3])
def test_what_ended_on_one_node_is_started_for_all_by_another(
    trio: list[Node], model: LabModel, tmp_path: Path, times: int
) -> None:
    one, two, three = trio
    for _ in range(times):
        assert one.json("pull", model.repo, "--nodes", "one")[-1]["state"] == "done"
    read = summarize(read_requests(tmp_path / "access.log")).total_bytes
    summary = two.json("pull", model.repo)[-1]
    assert summary["state"] == "done"
    assert {node["name"]: node["state"] for node in summary["nodes"]} == {n.name: "done" for n in trio}
    assert summarize(read_requests(tmp_path / "access.log")).total_bytes == read, "one has all of it"
    assert three.json("pull", model.repo)[-1]["state"] == "done"
    for node in trio:
        check_copy(model, node.home)


@slowly
def test_what_runs_on_one_node_is_joined_by_a_start_for_all_by_another(trio: list[Node], model: LabModel) -> None:
    one, two, _ = trio
    first = one.launch("pull", model.repo, "--nodes", "one", "--json")
    first.wait_for_share(0.05)
    one.json("cancel", first.documents()[-1]["pull_id"])
    again = one.launch("pull", model.repo, "--nodes", "one", "--json")
    again.wait_for_share(0.2)
    summary = two.json("pull", model.repo)[-1]
    assert {node["name"]: node["state"] for node in summary["nodes"]} == {n.name: "done" for n in trio}
    assert again.wait()[-1]["state"] == "done"
    for node in trio:
        check_copy(model, node.home)
