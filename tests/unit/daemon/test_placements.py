"""Which placement a new one goes by: the newest that any linked node remembers; nobody's word is taken unchecked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.wants import NodeWants, Wants
from exo_dl.errors import ProtocolError
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.library import Library
from exo_dld.placements import Placements, read_notes

MANIFEST = Manifest("huggingface", "model", "org/model", "c" * 40, (FileEntry("a.safetensors", 9, bytes(32)),))


def wants(layers: Mapping[str, tuple[int, int]], *, count: int = 8) -> Wants:
    notes = {node: {"layers": [list(run)], "layer_count": count} for node, run in layers.items()}
    return Wants("layers", {node: NodeWants(frozenset({"a.safetensors"}), {}, note) for node, note in notes.items()})


class Cluster:
    """Nodes whose messages reach each other on a later turn of the loop."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.nodes: dict[str, Placements] = {}
        for name in names:
            self.nodes[name] = Placements(
                Library(folder / f"{name}.db"),
                up=lambda name=name: [other for other in self.nodes if other != name],  # type: ignore[misc]
                send=lambda to, message, name=name: self.carry(name, to, message),  # type: ignore[misc]
            )

    def carry(self, sender: str, to: str, message: pb.LinkMessage) -> bool:
        asyncio.get_running_loop().call_soon(self.nodes[to].on_message, sender, message)
        return True

    async def layers(self, name: str) -> dict[str, object]:
        plan = await self.nodes[name].previous(MANIFEST, "layers")
        return {} if plan is None else {node: part.layers for node, part in plan.nodes.items()}


async def test_a_node_that_took_no_part_hears_of_the_newest_placement(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "a", "b", "new")
    assert await cluster.layers("new") == {}
    cluster.nodes["a"].remember(MANIFEST, wants({"a": (0, 8)}))
    cluster.nodes["b"].remember(MANIFEST, wants({"a": (0, 5), "b": (5, 8)}))
    newest = {"a": ((0, 5),), "b": ((5, 8),)}
    found = await asyncio.gather(*(cluster.layers(name) for name in (*cluster.nodes, "new")))
    assert found == [newest] * 4


async def test_what_nobody_asked_for_is_not_kept_and_bounds_hold(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "a", "b")
    notes = json.dumps({"b": {"layers": [[0, 1]], "layer_count": 1}})
    word = pb.PlacementTold(key="model/org/model/layers", notes=notes, at_s=1e12)
    cluster.nodes["a"].on_message("b", pb.LinkMessage(placement_told=word))
    assert await cluster.layers("a") == {}
    for bad in (
        pb.LinkMessage(placement_asked=pb.PlacementAsked(key="k" * 501)),
        pb.LinkMessage(placement_told=pb.PlacementTold(key="k", notes="n" * (1 << 20) + "n")),
        pb.LinkMessage(placement_told=pb.PlacementTold(key="k", at_s=float("nan"))),
    ):
        with pytest.raises(ProtocolError):
            cluster.nodes["a"].on_message("b", bad)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", '{"a": 1}', '{"a": {"layers": 3}}', '{"a": {"layers": [[0]]}}', "[" * 10_000,
        '{"a": {"layers": [[0, 9]], "layer_count": 8}}', '{"a": {"layers": [[-1, 2]], "layer_count": 8}}',
        '{"a": {"layers": [[2, 2]], "layer_count": 8}}', '{"a": {"layers": [], "layer_count": 1e999}}',
        '{"a": {"layers": [[0, 99999]], "layer_count": 99999}}', '{"a": {"experts": {"x": [[0, 1]]}}}',
        '{"a": {"experts": {"0": [[0, 5000], [0, 5000]]}}}',
    ],
)  # fmt: skip
def test_notes_that_are_no_placement_are_as_good_as_none(text: str) -> None:
    assert read_notes("layers", text) is None
