"""Faults that take long (`make faults`): many deaths at random moments, many peers, and how soon the rest is done."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from bench.cluster import CommandError, wait_linked
from bench.models import LabModel, check_copy
from bench.run import measure
from bench.scenarios import FAULTS
from bench.served import summarize
from tests.lab.conftest import MIB, MakeLab, plans
from tests.one_view import check_progress

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

BUDGET_MIB = 32


def pause(seconds: float) -> None:
    """The random moment itself: nothing is waited for."""
    threading.Event().wait(seconds)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_node_dies_in_turn_at_a_random_moment_and_comes_back(
    make_lab: MakeLab, model: LabModel, seed: int
) -> None:
    rng = random.Random(seed)
    lab = make_lab(plans(*[40.0] * 4))
    nodes = lab.start()
    order = rng.sample(nodes, len(nodes))
    # Started on the node that dies last, so that one command sees most of it.
    watcher = order[-1].launch("pull", model.repo, "--json")
    for victim in order:
        pause(rng.uniform(0.3, 2.0))
        if victim is order[-1]:
            check_progress(watcher.documents())
        victim.kill()
        pause(rng.uniform(0.0, 1.0))
        victim.start()
        victim.wait_ready()
    begin = time.monotonic()
    wait_linked(nodes)
    try:
        nodes[0].json("pull", model.repo)
    except CommandError:
        nodes[0].json("pull", model.repo)
    print(f"seed {seed}: all had the model {time.monotonic() - begin:.2f} s after the last came back")
    for node in nodes:
        check_copy(model, node.home)
    lab.stop_hub()
    served = summarize(lab.requests()).total_bytes / model.size_bytes
    print(f"seed {seed}: the hub served {served:.3f} of the model")
    assert served <= 1.10, "each death costs the pieces in flight and what was not passed on"


def test_memory_with_eight_peers_stays_within_the_budget_and_100_mib(make_lab: MakeLab, model: LabModel) -> None:
    names = [f"n{number}" for number in range(1, 10)]
    lab = make_lab(plans(*[60.0] * 9), settings={name: {"EXO_DL_MEMORY_BUDGET": f"{BUDGET_MIB}MiB"} for name in names})
    lab.start()
    assert lab.nodes["n1"].json("pull", model.repo)[-1]["state"] == "done"
    peaks = {node.name: round(node.peak_rss_bytes() / MIB) for node in lab.nodes.values()}
    print(f"peak RSS in MiB: {peaks}")
    assert max(peaks.values()) <= BUDGET_MIB + 100


def test_what_is_left_when_one_of_four_dies_takes_little_longer_than_it_must(model: LabModel, tmp_path: Path) -> None:
    row = measure(FAULTS[0], model, folder=tmp_path)
    print(f"after the kill {row.wall_s:.2f} s, at least {row.least_s:.2f} s: {row.ratio:.3f}; hub {row.hub_ratio:.3f}")
    # The goal of 1.15 is for 512 MiB (`python -m bench killed`); here a second of noticing weighs three times as much.
    assert row.ratio <= 1.5
    assert row.hub_ratio <= 1.05
