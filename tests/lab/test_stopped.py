"""A node that stands still (SIGSTOP) in the middle of a pull, and goes on later: any node, and the coordinator."""

from __future__ import annotations

import time

import pytest

from bench.cluster import wait_linked, wait_until
from bench.lab import Lab
from bench.models import LabModel, check_copy
from tests.lab.conftest import MakeLab, plans
from tests.lab.holdings import IN_FLIGHT_BYTES, held_by, left_lying, read_again
from tests.lab.recovery import (
    SILENCE_S,
    SLACK_S,
    all_done,
    coordinator_of,
    done,
    failed_pull,
    hub_bytes,
    wait_for_other_coordinator,
    watch_on,
)

pytestmark = pytest.mark.timeout(180)

HUB_MBIT = 80.0
# A lease that stands still is taken back after 3 s, looked at four times a second; its last news may be 1 s old; and
# the others ask when they have read what they are at, 2 s at most.
LEASE_S = 2.0
STALL_S = 3.0 + 0.25 + 1.0 + LEASE_S


@pytest.fixture
def lab(make_lab: MakeLab, request: pytest.FixtureRequest) -> Lab:
    """Four nodes; the parameter is the rate of their hub links in Mbit/s."""
    lab = make_lab(plans(*[getattr(request, "param", HUB_MBIT)] * 4))
    lab.start()
    return lab


def test_a_stopped_node_holds_nobody_up_and_catches_up_when_it_goes_on(lab: Lab, model: LabModel) -> None:
    watcher = lab.nodes["n1"].launch("pull", model.repo, "--json")
    watcher.wait_for_share(0.3)
    lab.nodes["n4"].pause()
    stopped_at = time.monotonic()
    held = held_by(lab.nodes.values(), model)
    try:
        watcher.wait_for(lambda view: done(view, "n1", "n2", "n3"), timeout_s=25, what="the other three are done")
    finally:
        lab.nodes["n4"].resume()
    print(f"the others were done {time.monotonic() - stopped_at:.2f} s after n4 was stopped")
    events = watcher.documents()[-1]["events"]
    assert any("n4 read nothing from the hub for" in event for event in events), events
    all_done(lab, watcher)
    for node in lab.nodes.values():
        check_copy(model, node.home)
    ratio, left = hub_bytes(lab, model), left_lying(lab, "n4", held)
    print(f"{left.bytes} bytes that it was reading: others had asked after {left.asked_s:.2f} s; hub {ratio:.3f}")
    assert left.bytes > 0
    assert left.asked_s <= STALL_S + SLACK_S
    # Its system goes on to receive what it had asked for: that may come twice.
    assert ratio * model.size_bytes <= model.size_bytes + left.sent + IN_FLIGHT_BYTES


@pytest.mark.faults
@pytest.mark.parametrize("lab", [40.0], indirect=True, ids=["slow"])
@pytest.mark.parametrize("late", [False, True], ids=["in-the-middle", "after-the-end"])
def test_a_stopped_coordinator_is_replaced_and_follows_when_it_goes_on(
    lab: Lab, model: LabModel, *, late: bool
) -> None:
    """It goes on while the others read, or when the pull has ended without it: what is there is not read again."""
    n3 = lab.nodes["n3"]
    pull_id = n3.json("pull", model.repo, "--no-wait")[-1]["pull_id"]
    watchers = watch_on([lab.nodes["n1"], lab.nodes["n2"]], pull_id)
    watchers[0].wait_for_share(0.3)
    assert coordinator_of(watchers[0]) == "n3"
    n3.pause()
    stopped_at = time.monotonic()
    before = held_by(lab.nodes.values(), model)
    next_one = wait_for_other_coordinator(watchers[0], "n3", timeout_s=SILENCE_S + SLACK_S)
    print(f"{next_one} coordinates {time.monotonic() - stopped_at:.2f} s after n3 was stopped")
    if late:
        for watcher in watchers:
            assert "n3: the link to it was lost" in failed_pull(watcher).documents[-1]["error"]
    else:
        seen = watchers[0].documents()[-1]["bytes_done"]
        watchers[0].wait_for(lambda view: view["bytes_done"] > seen + model.size_bytes / 10, what="the others go on")
    held = held_by(lab.nodes.values(), model)
    n3.resume()
    resumed_at = time.monotonic()
    if late:
        wait_linked(list(lab.nodes.values()))
        wait_until(
            lambda: n3.json("status", pull_id)[-1]["state"] == "failed", timeout_s=10, what="n3 hears of the end"
        )
        assert n3.json("pull", model.repo)[-1]["state"] == "done"
    else:
        all_done(lab, watchers[0])
        for node in lab.nodes.values():
            view = node.json("status", pull_id)[-1]
            assert {each["id"]: each["name"] for each in view["nodes"]}[view["coordinator_id"]] == next_one, node.name
    print(f"all nodes had the model {time.monotonic() - resumed_at:.2f} s after n3 went on")
    for node in lab.nodes.values():
        check_copy(model, node.home)
    ratio, again, left = hub_bytes(lab, model), read_again(lab, lab.nodes, held), left_lying(lab, "n3", before)
    print(f"{held.total_bytes} bytes were there when n3 went on; {again} asked for again; the hub served {ratio:.3f}")
    print(f"{left.bytes} bytes that it was reading: others had asked after {left.asked_s:.2f} s")
    assert again <= IN_FLIGHT_BYTES
    assert ratio * model.size_bytes <= model.size_bytes + left.sent + IN_FLIGHT_BYTES
    assert left.asked_s <= SILENCE_S + LEASE_S + SLACK_S
