"""What all nodes show of one pull: the same figures, leases and faults, also when a node is lost."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from bench.cluster import Node
from bench.models import LabModel
from tests.integration.conftest import slowly

Document = dict[str, Any]


def being_read(view: Document) -> dict[str, set[int]]:
    """The pieces that each node reads from the hub or is to read, by its leases."""
    found = {}
    for node in view["nodes"]:
        assert len(node["leases"]) <= 8
        for lease in node["leases"]:
            assert lease["first"] <= lease["position"] < lease["end"]
            assert lease["path"] and lease["bytes_left"] > 0
            found.setdefault(node["name"], set()).update(range(lease["position"], lease["end"]))
    return found


def disjoint(view: Document) -> bool:
    return not any(one & other for one, other in combinations(being_read(view).values(), 2))


@slowly
def test_leases_of_all_nodes_are_seen_from_another(trio: list[Node], model: LabModel) -> None:
    pull_id = trio[0].json("pull", model.repo, "--no-wait")[-1]["pull_id"]
    watcher = trio[2].launch("status", pull_id, "--watch", "--json")
    watcher.wait_for(
        lambda view: len(being_read(view)) >= 2 and disjoint(view), timeout_s=10, what="two nodes read what is theirs"
    )
    views = watcher.wait()
    running = [view for view in views if being_read(view)]
    # One that was just cut and has not said so yet, or a race for the last pieces, is seen twice for a moment.
    assert sum(map(disjoint, running)) > len(running) / 2
    assert views[-1]["state"] == "done"
    assert not being_read(views[-1])
