"""Two pulls at once share what there is, also where one of them has many more connections; neither starves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cluster import Node
from bench.hub import LocalHub
from bench.make_model import make_model
from bench.models import LabModel, check_copy, describe_model
from bench.served import read_requests, summarize
from tests.integration.conftest import MakeNodes, start_all

_SIZE_MIB = 16


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[LabModel]:
    """Two models of one size and different contents."""
    root = tmp_path_factory.mktemp("two")
    names = ("lab/left", "lab/right")
    return [
        describe_model(root, name, make_model(root, name, total_mib=_SIZE_MIB, shards=2, small_files=2, seed=seed))
        for seed, name in enumerate(names, start=71)
    ]


@pytest.fixture
def model(models: list[LabModel]) -> LabModel:
    """For the hub: it serves the folder that both are in."""
    return models[0]


@pytest.mark.parametrize("hub", [{"rate": 8e6}], indirect=True, ids=["8MB/s"])
@pytest.mark.parametrize("limited", [False, True], ids=["the hub is the limit", "limited to 6 MB/s"])
def test_two_pulls_at_once_get_on_alike(
    make_nodes: MakeNodes, models: list[LabModel], hub: LocalHub, tmp_path: Path, *, limited: bool
) -> None:
    nodes: list[Node] = make_nodes("one", "two")
    start_all(nodes)
    if limited:
        nodes[0].json("limit", "--cluster-hub", "6MB/s")
    pulls = [node.launch("pull", each.repo, "--json") for node, each in zip(nodes, models, strict=True)]
    summaries = [pull.wait()[-1] for pull in pulls]
    assert [summary["state"] for summary in summaries] == ["done", "done"]
    sooner, later = sorted(summary["wall_s"] for summary in summaries)
    # Where one had come to 60 % when the other was done, and had all of the rate from then on: 2 / (1 + 0.6).
    print(f"{sooner:.2f} s and {later:.2f} s")
    assert later <= 1.25 * sooner
    for node in nodes:
        for each in models:
            check_copy(each, node.home)
    hub.settle()
    served = summarize(read_requests(tmp_path / "access.log")).total_bytes
    assert served <= 1.02 * sum(each.size_bytes for each in models) + (2 << 20)
