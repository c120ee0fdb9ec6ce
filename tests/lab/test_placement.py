"""Placements on machines of different memory: what the hub serves, what lands on disk, and a late machine."""

from __future__ import annotations

import pytest

from bench.models import LabModel
from bench.parts import check_parts
from bench.served import summarize
from tests.lab.conftest import HUB_MBIT, MakeLab, plans

pytestmark = pytest.mark.timeout(180)

MEMORY = {"n1": "8GiB", "n2": "16GiB", "n3": "32GiB", "n4": "64GiB"}


def memory(sizes: dict[str, str]) -> list[str]:
    return [word for name, size in sizes.items() for word in ("--memory", f"{name}={size}")]


def test_layers_by_memory_and_a_fifth_machine(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(*[HUB_MBIT] * 5))
    names = list(MEMORY)
    first, *_ = lab.start(names)
    summary = first.json("pull", model.repo, "--place", "layers", *memory(MEMORY))[-1]
    assert summary["state"] == "done"
    counts = check_parts([lab.nodes[name] for name in names], model)
    assert max(counts, key=counts.__getitem__) == "n4", counts
    served = summarize(lab.requests())
    # Everybody together wants all of it: no piece twice, and none for nobody.
    assert served.total_bytes - served.twice_bytes <= 1.01 * model.size_bytes
    assert served.total_bytes <= 1.02 * model.size_bytes, served

    mark = lab.mark()
    lab.start(["n5"])
    again = first.json("pull", model.repo, "--place", "layers", "--replan", *memory(MEMORY | {"n5": "64GiB"}))[-1]
    assert again["state"] == "done"
    counts = check_parts(lab.nodes.values(), model)
    assert counts["n5"] > 0
    assert again["bytes_from_hub"] == 0
    assert summarize(lab.requests(since=mark)).total_bytes <= 3 * (16 << 10), "headers alone; layers move over the LAN"
    moved = sum(node["bytes_from_peers"] for node in again["nodes"])
    assert moved < 0.75 * model.size_bytes, "most layers stay where they are"
