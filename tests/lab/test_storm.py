"""An mDNS storm: thousands of nodes that are none announce themselves, with the cluster's own id, while it works."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from bench import mdns_storm
from bench.cluster import wait_linked, wait_until
from bench.models import LabModel, check_copy
from exo_dl.net.identity import Identity, new_node_id
from tests.lab.conftest import MakeLab, plans

pytestmark = [pytest.mark.timeout(180), pytest.mark.faults]

BUDGET_BYTES = 256 << 20
MAX_PEERS = 1024
COUNT = 2_000
WATCHED_S = 6.0


def test_a_storm_of_fake_nodes_does_not_part_members(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(150.0, 150.0, None, 150.0))
    n1, n2, _, n4 = lab.nodes.values()
    for node in (n1, n2):
        node.start()
    for node in (n1, n2):
        node.wait_ready()
    wait_linked([n1, n2])
    cluster_id = Identity(n1.env["EXO_DL_CLUSTER_SECRET"], new_node_id()).cluster_id
    argv = [sys.executable, mdns_storm.__file__, cluster_id, lab.net.lan_address("n3"), "--count", str(COUNT)]
    root = str(Path(mdns_storm.__file__).parent.parent)
    storm = lab.nodes["n3"].spawn(argv, env={"PYTHONPATH": root})
    try:
        wait_until(lambda: len(n1.json("peers")[-1]["peers"]) > 500, timeout_s=40, what="the storm is heard")
        cpu_s, begin = n1.cpu_s(), time.monotonic()
        rows = len(n1.json("peers")[-1]["peers"])
        summary = n1.json("pull", model.repo)[-1]
        pull_s = time.monotonic() - begin
        assert summary["state"] == "done"
        time.sleep(max(0.0, WATCHED_S - pull_s))
        share = (n1.cpu_s() - cpu_s) / (time.monotonic() - begin)
        n4.start()
        n4.wait_ready()
        begin = time.monotonic()
        wait_until(lambda: len(n4.up_peers()) == 2, timeout_s=40, what="a new member is linked in the storm")
        joined_s = time.monotonic() - begin
        assert storm.poll() is None, "the storm ended"
    finally:
        storm.kill()
        storm.wait(10)
    for node in (n1, n2):
        check_copy(model, node.home)
    lines = [json.loads(line) for line in n1.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    assert not [line for line in lines if "is gone" in line["text"]]
    print(
        f"{rows} nodes shown; pull {pull_s:.1f} s; CPU {share:.2f} of a core; a new member after {joined_s:.1f} s; "
        f"peak {n1.peak_rss_bytes() / 1e6:.0f} MB; {len(lines)} lines of log"
    )
    assert rows <= MAX_PEERS + 1
    assert len(lines) < 100
    assert n1.peak_rss_bytes() < BUDGET_BYTES + (100 << 20)
