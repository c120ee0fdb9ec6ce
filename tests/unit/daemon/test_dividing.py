"""A model of 92,000 tensors, divided: what the nodes are sent of it, and that they read the same from it."""

from __future__ import annotations

import pytest

from exo_dl.core.manifest import FileEntry, Manifest, pull_id_for
from exo_dl.core.plan import NodeRoom
from exo_dl.core.succession import Claim
from exo_dl.core.wants import NodeWants, Wants
from exo_dl.errors import NoRoomError, PlacementError
from exo_dl.net import wire
from exo_dld.dividing import Division, divide, wants_of
from exo_dld.messages import PullSpec, offer_message
from exo_dld.structure import Structure
from tests.unit.formats import families

GIB = 1 << 30
GRPC_DEFAULT_BYTES = 4 << 20


@pytest.fixture(scope="module")
def deepseek() -> Structure:
    model = families.sharded(families.deepseek_v3(), 163, "FP8")
    return Structure(model, {"num_hidden_layers": 61, "num_nextn_predict_layers": 1}, {"config.json": 1660}, "")


@pytest.fixture(scope="module")
def manifest(deepseek: Structure) -> Manifest:
    sizes = {path: file.tensors[-1].end for path, file in deepseek.model.files.items()} | {"config.json": 1660}
    files = tuple(FileEntry(p, size, n.to_bytes(32)) for n, (p, size) in enumerate(sorted(sizes.items()), 1))
    return Manifest("huggingface", "model", "deepseek-ai/DeepSeek-V3", "e" * 40, files)


def division(place: str, nodes: int, *, gib: int = 800, **more: object) -> Division:
    rooms = [NodeRoom(f"node{number:04d}", (gib + 16 * number) * GIB) for number in range(nodes)]
    return Division(place, rooms, 1.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("place", "nodes", "at_most"), [("layers", 8, 32 << 10), ("experts", 64, 1 << 20)])
def test_an_offer_is_far_below_what_a_message_may_have(
    deepseek: Structure, manifest: Manifest, place: str, nodes: int, at_most: int
) -> None:
    plan = divide(division(place, nodes), deepseek)
    headers = {path: file.header_bytes for path, file in deepseek.model.files.items()}
    wants = Wants(place, wants_of(place, manifest, plan, headers, str))
    wants.require_sendable()
    spec = PullSpec(
        pull_id=pull_id_for(manifest, "hf", wants.key),
        manifest=manifest,
        targets=frozenset(wants.nodes),
        layout="hf",
        endpoint="http://hub",
        revision="main",
        generation=1,
        gated=False,
        placement=wants,
    )
    offer = offer_message(spec, Claim(1, "node0000"), 0.0)
    print(f"{place}, {nodes} nodes: {len(wants.document())} bytes of placement, {offer.ByteSize()} bytes of offer")
    assert offer.ByteSize() <= at_most < GRPC_DEFAULT_BYTES
    read_manifest, read_wants = wire.check_offer(offer.pull_offer)
    assert (read_manifest.files, read_wants) == (manifest.files, wants)
    names = [name for node in plan.nodes.values() for name in node.tensors]
    assert set(names) == {tensor.name for tensor in deepseek.model}
    if place == "layers":
        assert len(names) == len(set(names))


def test_a_placement_that_no_message_could_hold_is_refused_where_it_is_made() -> None:
    ranges = {"m": tuple((2 * n, 2 * n + 1) for n in range(200_000))}
    many = Wants("file", {f"node{n}": NodeWants(parts=ranges) for n in range(3)})
    with pytest.raises(PlacementError, match="600000 ranges of files for 3 nodes"):
        many.require_sendable()


def test_what_a_node_has_takes_no_room_again() -> None:
    """Of a layer whose experts are divided it has only its own."""
    mixtral = Structure(families.structure(families.mixtral_8x7b()), {}, {}, "")
    before = divide(division("experts", 2), mixtral)
    free = GIB  # for the embedding and the head, which are in no layer
    rooms = [NodeRoom(node, 800 * GIB, free) for node in before.nodes]
    assert divide(Division("experts", rooms, 1.0, before), mixtral) == before
    with pytest.raises(NoRoomError, match="its disk has"):
        divide(Division("experts", rooms[:1], 1.0, before), mixtral)
