"""Placements on machines of different memory: what the hub serves, what lands on disk, and a late machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from bench.cluster import Node
from bench.lab import Lab
from bench.models import LabModel
from bench.served import summarize
from tests.lab.conftest import HUB_MBIT, MakeLab, plans

pytestmark = pytest.mark.timeout(180)

MEMORY = {"n1": "8GiB", "n2": "16GiB", "n3": "32GiB", "n4": "64GiB"}


def memory(sizes: dict[str, str]) -> list[str]:
    return [word for name, size in sizes.items() for word in ("--memory", f"{name}={size}")]


def raw_tensors(folder: Path) -> dict[str, str]:
    """Digest of the bytes of each tensor: read as the format says, for numpy has no BF16."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8:start])
        header.pop("__metadata__", None)
        assert set(header) == names
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            assert name not in found
            found[name] = hashlib.sha256(data[start + begin : start + end]).hexdigest()
    return found


def check_parts(lab: Lab, names: list[str], model: LabModel) -> dict[str, int]:
    """Each node has a valid folder, and each tensor is on one node, with the original's bytes. Gives their counts."""
    together: dict[str, str] = {}
    counts = {}
    for name in names:
        node: Node = lab.nodes[name]
        (folder,) = node.home.glob(f"hub/exo-dl/*/{model.commit}/*")
        held = raw_tensors(folder)
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert set(index) == set(held)
        assert not set(held) & set(together)
        together |= held
        counts[name] = len(held)
    assert together == raw_tensors(model.folder)
    return counts


def test_layers_by_memory_and_a_fifth_machine(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(*[HUB_MBIT] * 5))
    names = list(MEMORY)
    first, *_ = lab.start(names)
    summary = first.json("pull", model.repo, "--place", "layers", *memory(MEMORY))[-1]
    assert summary["state"] == "done"
    counts = check_parts(lab, names, model)
    assert max(counts, key=counts.__getitem__) == "n4", counts
    served = summarize(lab.requests())
    # Everybody together wants all of it: no piece twice, and none for nobody.
    assert served.total_bytes - served.twice_bytes <= 1.01 * model.size_bytes
    assert served.total_bytes <= 1.02 * model.size_bytes, served

    mark = lab.mark()
    lab.start(["n5"])
    again = first.json("pull", model.repo, "--place", "layers", "--replan", *memory(MEMORY | {"n5": "64GiB"}))[-1]
    assert again["state"] == "done"
    counts = check_parts(lab, [*names, "n5"], model)
    assert counts["n5"] > 0
    assert again["bytes_from_hub"] == 0
    assert summarize(lab.requests(since=mark)).total_bytes <= 3 * (16 << 10), "headers alone; layers move over the LAN"
    moved = sum(node["bytes_from_peers"] for node in again["nodes"])
    assert moved < 0.75 * model.size_bytes, "most layers stay where they are"
