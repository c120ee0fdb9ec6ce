"""A network that falls apart in the middle of a pull and grows together again: each side goes on by its hub links.

A side cannot know what the other one reads meanwhile. So what can be held is this: no side reads again what it had
itself, each side reads a byte once, and when the sides have met again nobody reads what one of them has. What comes
twice is then at most what the links of the smaller side carry while they are apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from bench.cluster import wait_linked, wait_until
from bench.lab import Lab
from bench.labnet import payload_bytes_per_s
from bench.models import LabModel, check_copy
from tests.lab.conftest import MakeLab, plans
from tests.lab.holdings import IN_FLIGHT_BYTES, Holdings, held_by, read_again, read_twice
from tests.lab.recovery import (
    SILENCE_S,
    SLACK_S,
    all_done,
    coordinator_of,
    hub_bytes,
    wait_for_other_coordinator,
    watch_on,
)

pytestmark = pytest.mark.timeout(180)

# So slow that both sides still read when they meet again.
SLOW_MBIT = 25.0
# A node that is gone is dialled again every 5 s, 3 s long, and a moment more each time it fails.
LINKED_S = 5.0 + 3.0 + SLACK_S


def test_a_split_network_heals(make_lab: MakeLab, model: LabModel) -> None:
    """n4 is cut off the LAN and keeps its hub link; when the LAN is back it ends with the model, whoever read it."""
    lab = make_lab(plans(*[80.0] * 4))
    lab.start()
    watcher = lab.nodes["n1"].launch("pull", model.repo, "--json")
    watcher.wait_for_share(0.3)
    lab.net.set_lan_link("n4", up=False)
    wait_until(
        lambda: "n4" not in lab.nodes["n1"].up_peers(),
        timeout_s=SILENCE_S + SLACK_S,
        what="n1 notices that n4 is gone",
    )
    lab.net.set_lan_link("n4", up=True)
    healed_at = time.monotonic()
    all_done(lab, watcher)
    print(f"all nodes had the model, and said so, {time.monotonic() - healed_at:.2f} s after the split had healed")
    for node in lab.nodes.values():
        check_copy(model, node.home)


@pytest.mark.faults
@pytest.mark.parametrize("apart", [["n3"], ["n3", "n4"]], ids=["coordinator-alone", "two-and-two"])
def test_each_side_of_a_split_goes_on_and_one_coordinator_is_left(
    make_lab: MakeLab, model: LabModel, apart: Sequence[str]
) -> None:
    """n3 coordinates on its side all the time; the other side has one of its own until they meet."""
    lab = make_lab(plans(*[SLOW_MBIT] * 4))
    lab.start()
    rest = [name for name in lab.nodes if name not in apart]
    pull_id = lab.nodes["n3"].json("pull", model.repo, "--no-wait")[-1]["pull_id"]
    watchers = watch_on([lab.nodes["n1"], lab.nodes["n3"]], pull_id)
    for watcher in watchers:
        watcher.wait_for_share(0.25)

    cut_off(lab, apart, apart=True)
    split_at = time.monotonic()
    before = {side: held_by([lab.nodes[name] for name in side], model) for side in (tuple(apart), tuple(rest))}
    next_one = wait_for_other_coordinator(watchers[0], "n3", timeout_s=SILENCE_S + SLACK_S)
    print(f"{next_one} coordinates the other side {time.monotonic() - split_at:.2f} s after the split")
    assert next_one in rest
    wait_until(
        lambda: lab.nodes["n3"].up_peers() == sorted(set(apart) - {"n3"}),
        timeout_s=SILENCE_S + SLACK_S,
        what="n3 notices it too",
    )
    for side, held in before.items():
        wait_until(
            lambda side=side, held=held: grown(lab, side, model, held) > 6 << 20,  # type: ignore[misc]
            timeout_s=15,
            what=f"{' and '.join(side)} read on by themselves",
        )
    assert coordinator_of(watchers[1]) == "n3"

    cut_off(lab, apart, apart=False)
    healed_at = time.monotonic()
    wait_linked(list(lab.nodes.values()), timeout_s=LINKED_S)
    apart_s = time.monotonic() - split_at
    whole = held_by(lab.nodes.values(), model)
    print(f"all were linked {time.monotonic() - healed_at:.2f} s after the split had healed; {whole.total_bytes} bytes")
    assert whole.total_bytes < 0.95 * model.size_bytes, "there is something left to read together"
    all_done(lab, watchers[0])
    print(f"all had the model, and said so, {time.monotonic() - healed_at:.2f} s after that")
    views = [node.json("status", pull_id)[-1] for node in lab.nodes.values()]
    for view in views:
        assert {each["id"]: each["name"] for each in view["nodes"]}[view["coordinator_id"]] == next_one, view
    assert len({view["epoch"] for view in views}) == 1, views
    for node in lab.nodes.values():
        check_copy(model, node.home)
    ratio = hub_bytes(lab, model)
    for side, held in before.items():
        again, twice = read_again(lab, side, held), read_twice(lab, side, model)
        print(f"{side}: {held.total_bytes} bytes at the split, {again} of them asked for again; {twice} read twice")
        assert again <= IN_FLIGHT_BYTES
        assert twice <= IN_FLIGHT_BYTES
    again = read_again(lab, lab.nodes, whole)
    print(f"{again} bytes that somebody had were asked for when all were linked again; the hub served {ratio:.3f}")
    assert again <= IN_FLIGHT_BYTES
    carried = len(apart) * payload_bytes_per_s(SLOW_MBIT) * apart_s
    assert ratio * model.size_bytes <= model.size_bytes + carried + IN_FLIGHT_BYTES


def cut_off(lab: Lab, names: Sequence[str], *, apart: bool) -> None:
    """One node's cable is pulled; of several the switch is, so that they have each other. Or the reverse."""
    for name in names:
        if len(names) == 1:
            lab.net.set_lan_link(name, up=not apart)
        else:
            lab.net.set_lan_side(name, apart=apart)


def grown(lab: Lab, side: Sequence[str], model: LabModel, before: Holdings) -> int:
    """Bytes that a side has and had not."""
    return held_by([lab.nodes[name] for name in side], model).total_bytes - before.total_bytes
