"""What all nodes show of one pull: the same figures, leases and faults, while the node that coordinates is lost."""

from __future__ import annotations

from itertools import combinations

import pytest

from bench.cluster import CommandError, Node, wait_until
from bench.models import LabModel, check_copy
from tests.integration.conftest import slowly
from tests.one_view import Document, Watch, check_one_view, check_same_events


def being_read(view: Document) -> dict[str, set[int]]:
    """The pieces that each node reads from the hub or is to read, by its leases."""
    found: dict[str, set[int]] = {}
    for node in view["nodes"]:
        assert len(node["leases"]) <= 8
        for lease in node["leases"]:
            assert lease["first"] <= lease["position"] <= lease["end"]
            assert lease["path"]
            found.setdefault(node["name"], set()).update(range(lease["position"], lease["end"]))
    return found


def disjoint(view: Document) -> bool:
    return not any(one & other for one, other in combinations(being_read(view).values(), 2))


@slowly
def test_all_nodes_show_the_same_while_the_coordinator_is_lost(trio: list[Node], model: LabModel) -> None:
    pull_id = trio[0].json("pull", model.repo, "--no-wait")[-1]["pull_id"]
    watchers = [Watch(node, pull_id) for node in trio[1:]]
    pull = trio[1].launch("pull", model.repo, "--json")
    wait_until(
        lambda: any({"one", "two"} <= being_read(view).keys() and disjoint(view) for view in watchers[1].documents()),
        timeout_s=10,
        what="node three shows what others read, each its own",
    )
    pull.wait_for_share(0.2)
    wait_until(lambda: "one" in being_read(watchers[0].documents()[-1]), timeout_s=5, what="one reads from the hub")
    trio[0].kill()
    with pytest.raises(CommandError) as caught:
        pull.wait()
    for watcher in watchers:
        views = watcher.wait()
        running = [view for view in views if being_read(view)]
        # A lease that was just cut, or a race for the last pieces, is seen twice for a moment.
        assert sum(map(disjoint, running)) > len(running) / 2
        assert not being_read(views[-1])
        assert {node["name"]: node["state"] for node in views[-1]["nodes"]} == {"two": "done", "three": "done"}
        assert [node["name"] for node in views[-1]["lost_nodes"]] == ["one"]
    check_one_view(watchers)
    events = check_same_events(trio[1:], pull_id)
    for part in ("one coordinated and was lost: ", "one was to read ", "Lost, and not come back: one."):
        assert any(event.startswith(part) for event in events), (part, events)
    assert caught.value.exit_code == 9
    assert "1 of 3 nodes lack the model" in caught.value.stderr
    assert "one: was lost during the pull, and does not have the model" in caught.value.stderr
    for node in trio[1:]:
        check_copy(model, node.home)
