"""Parts of a file have no digest that the hub names: what happens when the hub gave one node wrong bytes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cluster import Node
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.parts import parts_folder
from bench.served import read_requests, summarize
from tests.integration.conftest import MakeNodes, start_all
from tests.integration.llama import MEMORY, make_llama, state_dict

FILE = "model.safetensors"


@pytest.fixture(scope="session")
def llama(model: LabModel) -> LabModel:
    """All in one file, of which two nodes want parts and none all."""
    return make_llama(model.root, "one-file", shards=1)


def spoil(hub: LocalHub) -> None:
    """A wrong byte in the second answer about the file. The first is about its header, and shorter than that."""
    hub.fault("wrong-bytes", path=f"*{FILE}", count=2, after_bytes=300_000)


def wrong_tensors(nodes: list[Node], model: LabModel) -> set[str]:
    right = state_dict(model.folder)
    found = set()
    for folder in (parts_folder(node, model) for node in nodes):
        kept = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        found |= {name for name, data in state_dict(folder).items() if name in kept and data != right[name]}
    return found


def told(documents: list[dict[str, Any]]) -> str:
    """All that a pull reported."""
    return "\n".join(dict.fromkeys(event for document in documents for event in document.get("events", ())))


@pytest.mark.parametrize("layout", [(), ("--layout", "sparse")], ids=["tensors", "sparse"])
def test_a_node_that_completes_the_file_settles_it_for_all(
    make_nodes: MakeNodes, hub: LocalHub, llama: LabModel, tmp_path: Path, layout: tuple[str, ...]
) -> None:
    nodes = make_nodes("one", "two", "three")
    start_all(nodes)
    spoil(hub)
    pulled = nodes[0].json("pull", llama.repo, "--nodes", "one,two", "--place", "layers", *MEMORY[:4], *layout)[-1]
    assert pulled["state"] == "done"
    assert not hub.faults.listed()
    assert wrong_tensors(nodes[:2], llama), "nobody could know"

    before = summarize(read_requests(tmp_path / "access.log")).total_bytes
    full = nodes[2].json("pull", llama.repo)
    assert full[-1]["state"] == "done"
    for node in nodes:
        check_copy(llama, node.home)
    assert not wrong_tensors(nodes[:2], llama), "the folders that programs load from are mended too"
    events = told(full)
    assert f"{FILE} does not have the digest that the hub names for it" in events
    assert f"had wrong bytes of {FILE}: its parts were mended" in events
    again = summarize(read_requests(tmp_path / "access.log")).total_bytes - before
    assert again <= 1.1 * llama.size_bytes, "it is read a second time, and not by each node"


def test_in_one_pull_a_node_with_the_whole_file_has_the_others_read_theirs_again(
    trio: list[Node], hub: LocalHub, llama: LabModel, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        [nodes.one]
        layers = "0-2"
        first = true
        [nodes.two]
        layers = "3-5"
        last = true
        [nodes.three]
        files = ["*.safetensors"]
        """
    )
    spoil(hub)
    pulled = trio[0].json("pull", llama.repo, "--plan", str(plan))
    assert pulled[-1]["state"] == "done"
    assert not hub.faults.listed()
    assert not wrong_tensors(trio[:2], llama)
    assert (trio[2].home / "hub").is_dir()
    assert f"{FILE} does not have the digest that the hub names for it" in told(pulled)
