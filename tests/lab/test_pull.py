"""A pull on four machines, from end to end: real daemons, mDNS on a bridge, shaped links, nginx as the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from bench.cluster import wait_until
from bench.lab import Lab, nginx_lab
from bench.models import LabModel, check_copy, open_offline
from bench.served import summarize
from tests.lab.conftest import HUB_MBIT, MIB, MakeLab, plans

pytestmark = pytest.mark.timeout(180)

Document = dict[str, Any]


class Finished:
    """A lab in which n1 has pulled the model to all four nodes."""

    def __init__(self, lab: Lab, documents: list[Document]) -> None:
        self.lab = lab
        self.documents = documents
        self.summary = documents[-1]


@pytest.fixture(scope="module")
def finished(model: LabModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    with nginx_lab(plans(*[HUB_MBIT] * 4), model, folder=folder) as lab:
        first = lab.start()[0]
        yield Finished(lab, first.json("pull", model.repo))


def check_hub_bytes(lab: Lab, model: LabModel) -> None:
    """Each byte was read from the hub once, but for what lay in buffers when a connection was cut short."""
    lab.stop_hub()
    served = summarize(lab.requests())
    assert served.total_bytes - served.twice_bytes == model.size_bytes
    assert served.total_bytes <= 1.01 * model.size_bytes, served


def check_all(lab: Lab, model: LabModel, summary: Document) -> None:
    assert summary["state"] == "done", summary
    assert sorted(node["name"] for node in summary["nodes"]) == sorted(lab.nodes)
    for node in lab.nodes.values():
        check_copy(model, node.home)


def test_each_node_has_the_hubs_bytes(finished: Finished, model: LabModel) -> None:
    check_all(finished.lab, model, finished.summary)


def test_huggingface_hub_opens_the_model_offline_on_each_node(finished: Finished, model: LabModel) -> None:
    for node in finished.lab.nodes.values():
        assert open_offline(node, model) == model.tensors


def test_the_last_line_says_what_scripts_need(finished: Finished, model: LabModel) -> None:
    summary = finished.summary
    assert {"pull_id", "wall_s", "bound_s"} <= set(summary)
    assert (summary["repo"], summary["commit"]) == (model.repo, model.commit)
    assert summary["bytes_wanted"] == 4 * model.size_bytes
    assert summary["bytes_from_hub"] + summary["bytes_from_peers"] == 4 * model.size_bytes
    assert model.size_bytes <= summary["bytes_from_hub"] <= 1.01 * model.size_bytes
    for node in summary["nodes"]:
        assert node["state"] == "done"
        assert node["error"] == ""
        assert node["bytes_done"] == node["bytes_wanted"] == model.size_bytes
        assert node["bytes_from_hub"] > 0, "with equal links each node reads its part"
        assert {"id", "hub_bytes_per_s", "peer_bytes_per_s"} <= set(node)


def test_memory_stays_small(finished: Finished) -> None:
    peaks = {node.name: node.peak_rss_bytes() // MIB for node in finished.lab.nodes.values()}
    assert max(peaks.values()) <= 150, peaks


def test_progress_never_goes_back(finished: Finished) -> None:
    done = [line["bytes_done"] for line in finished.documents if "bytes_done" in line]
    assert done == sorted(done)


def test_a_second_pull_costs_no_bytes(finished: Finished, model: LabModel) -> None:
    mark = finished.lab.mark()
    summary = finished.lab.nodes["n3"].json("pull", model.repo)[-1]
    assert summary["state"] == "done"
    assert (summary["bytes_from_hub"], summary["bytes_from_peers"]) == (0, 0)
    assert summarize(finished.lab.requests(since=mark)).total_bytes == 0


def test_the_hub_is_asked_once_and_each_range_served_once(finished: Finished, model: LabModel) -> None:
    """The last test on this lab: it ends the hub, so that its log is whole."""
    check_hub_bytes(finished.lab, model)
    api = [request.path for request in finished.lab.requests() if request.path.startswith("/api/models/")]
    # Once for each of the two pulls in this module, and once by each node that did not start the first.
    assert len(api) <= 5, api


@pytest.mark.parametrize("name", ["n1", "n2", "n3", "n4"])
def test_any_node_can_start_the_pull(make_lab: MakeLab, model: LabModel, name: str) -> None:
    lab = make_lab()
    lab.start()
    check_all(lab, model, lab.nodes[name].json("pull", model.repo)[-1])
    check_hub_bytes(lab, model)


def test_a_node_without_a_way_to_the_hub_still_ends_with_the_model(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(HUB_MBIT, HUB_MBIT, HUB_MBIT, None))
    lab.start()
    summary = lab.nodes["n1"].json("pull", model.repo)[-1]
    check_all(lab, model, summary)
    apart = next(node for node in summary["nodes"] if node["name"] == "n4")
    assert (apart["bytes_from_hub"], apart["bytes_from_peers"]) == (0, model.size_bytes)
    check_hub_bytes(lab, model)


def test_a_node_with_only_a_static_peer_and_no_multicast_takes_part(make_lab: MakeLab, model: LabModel) -> None:
    port = 52520
    nodes = plans(*[HUB_MBIT] * 4)
    nodes[3] = replace(nodes[3], multicast=False)
    lab = make_lab(nodes, settings={"n4": {"EXO_DL_PEERS": f"10.77.0.10:{port}"}})
    lab.nodes["n1"].port = port
    assert lab.net.lan_address("n1") == "10.77.0.10"
    lab.start()
    summary = lab.nodes["n4"].json("pull", model.repo)[-1]
    check_all(lab, model, summary)
    assert all(node["bytes_from_hub"] > 0 for node in summary["nodes"])
    check_hub_bytes(lab, model)


def test_a_node_started_in_the_middle_takes_part_and_ends_with_the_model(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(50.0, 50.0, 50.0, 50.0))
    first, *_ = lab.start(["n1", "n2", "n3"])
    pull = first.launch("pull", model.repo, "--json")
    pull.wait_for_share(0.2)
    lab.nodes["n4"].start()
    summary = pull.wait()[-1]
    check_all(lab, model, summary)
    late = next(node for node in summary["nodes"] if node["name"] == "n4")
    assert late["bytes_from_hub"] > 0, "it has a link of its own, and should have been given work"
    check_hub_bytes(lab, model)


def test_bytes_between_multi_homed_nodes_take_the_fast_network(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab([replace(plan, slow_mbit=20.0) for plan in plans(*[HUB_MBIT] * 4)])
    lab.start()
    for node in lab.nodes.values():
        wait_until(
            # Any address of the fast network will do, its link-local ones too; what counts are the bytes below.
            lambda node=node: not any(address.startswith("10.70.") for address in node.addresses_in_use()),  # type: ignore[misc]
            timeout_s=20,
            what=f"{node.name} has measured both networks and uses the fast one",
        )
    before = {name: lab.net.received_bytes(name, "slow0") for name in lab.nodes}
    check_all(lab, model, lab.nodes["n1"].json("pull", model.repo)[-1])
    for name in lab.nodes:
        assert lab.net.received_bytes(name, "slow0") - before[name] < 0.02 * model.size_bytes
        assert lab.net.received_bytes(name, "lan0") > 0.5 * model.size_bytes


def test_a_node_on_the_slow_network_alone_is_reached_there(make_lab: MakeLab, model: LabModel) -> None:
    nodes = [replace(plan, slow_mbit=300.0) for plan in plans(HUB_MBIT, HUB_MBIT, HUB_MBIT, None)]
    nodes[3] = replace(nodes[3], lan_mbit=None)
    lab = make_lab(nodes)
    lab.start()
    check_all(lab, model, lab.nodes["n2"].json("pull", model.repo)[-1])
    check_hub_bytes(lab, model)


def test_each_nodes_share_follows_its_link(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(160.0, 80.0, 40.0, 20.0))
    lab.start()
    summary = lab.nodes["n4"].json("pull", model.repo)[-1]
    check_all(lab, model, summary)
    shares = [
        node["bytes_from_hub"] / model.size_bytes for node in sorted(summary["nodes"], key=lambda node: node["name"])
    ]
    for share, due in zip(shares, (160 / 300, 80 / 300, 40 / 300, 20 / 300), strict=True):
        assert share == pytest.approx(due, rel=0.3, abs=0.04), shares
    check_hub_bytes(lab, model)
