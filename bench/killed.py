"""One node of a pull is killed half-way: how long the others take for what was left, and the least that it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from bench.cluster import CommandError, wait_until
from bench.lab import Lab
from bench.labnet import payload_bytes_per_s
from bench.models import LabModel, check_copy
from bench.scenarios import Scenario, least_time_s

__all__ = ["finish_without"]

_HALF = 0.5


def finish_without(lab: Lab, scenario: Scenario, model: LabModel) -> tuple[float, float]:
    """Pulls a model, kills ``scenario.killed`` half-way, and waits for the others.

    Returns:
        Seconds from the kill until the last of the others had a verified copy, and the least time in which their links
        can carry what no node had read from the hub yet. That the killed node takes with it what it had not passed on,
        and that somebody has to notice, is what the first may be longer for.
    """
    left = [node for name, node in lab.nodes.items() if name != scenario.killed]
    before = _read_bytes(lab)
    watcher = left[0].launch("pull", model.repo, "--json")
    wait_until(
        lambda: _read_bytes(lab) - before >= _HALF * model.size_bytes, timeout_s=600, what="half is read from the hub"
    )
    lab.nodes[scenario.killed].kill()
    begin = time.monotonic()
    unread_bytes = model.size_bytes - (_read_bytes(lab) - before)
    names = {node.name for node in left}
    watcher.wait_for(lambda view: _through(view, names), timeout_s=600, what="the others are done")
    wall_s = time.monotonic() - begin
    with contextlib.suppress(CommandError):  # it names the node that was killed
        watcher.wait()
    for node in left:
        check_copy(model, node.home)
    rest = replace(scenario, nodes=tuple(plan for plan in scenario.nodes if plan.name != scenario.killed))
    return wall_s, least_time_s(rest, unread_bytes)


def _read_bytes(lab: Lab) -> float:
    """What all links to the hub have carried, as the nodes' own devices count it: no report that comes late."""
    part = payload_bytes_per_s(8.0) / 1e6  # of a frame's bytes
    return sum(lab.net.received_bytes(name, "wan0") for name in lab.nodes) * part


def _through(view: dict[str, Any], names: Collection[str]) -> bool:
    return {node["name"] for node in view["nodes"] if node["state"] == "done"} >= set(names)
