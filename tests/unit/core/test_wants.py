"""Who wants what: from documents and back, and to pieces."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from exo_dl.core.leases import Grant, LeaseAsked, LeaseEnded, LeaseResult, LeaseTable, NodeJoined
from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.core.wants import NodeWants, Wants
from exo_dl.errors import ProtocolError

MIB = 1 << 20
MANIFEST = Manifest(
    "huggingface",
    "model",
    "org/name",
    "c" * 40,
    (
        FileEntry("a.json", 100, b"a" * 20),
        FileEntry("b.safetensors", 10 * MIB, b"b" * 32),
        FileEntry("c.safetensors", 5 * MIB + 1, b"c" * 32),
    ),
)
WANTS = Wants(
    "layers",
    {
        "one": NodeWants(
            frozenset({"a.json"}), {"b.safetensors": ((0, 100), (3 * MIB, 4 * MIB))}, {"layers": [[0, 1]]}
        ),
        "two": NodeWants(frozenset({"a.json", "c.safetensors"})),
        "three": NodeWants(),
    },
)


def test_pieces_cover_the_wanted_bytes_and_no_more() -> None:
    # Piece 0 is a.json; b has the pieces 1 to 10, c those from 11 to 16.
    assert WANTS.of("one").pieces(MANIFEST) == 1 | 1 << 1 | 1 << 4
    assert WANTS.of("two").pieces(MANIFEST) == 1 | mask(11, 17)
    assert WANTS.of("three").pieces(MANIFEST) == WANTS.of("nobody").pieces(MANIFEST) == 0


def test_a_document_gives_the_same_placement_again() -> None:
    again = Wants.from_document(WANTS.document(), MANIFEST)
    assert again == WANTS
    assert again.key == WANTS.key


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(place="anything"),
        lambda d: d.update(nodes={}),
        lambda d: d.update(common=["../x"]),
        lambda d: d["nodes"]["one"].update(whole=["x"]),
        lambda d: d["nodes"]["one"].update(parts={"x": [[0, 1]]}),
        lambda d: d["nodes"]["one"].update(parts={"b.safetensors": []}),
        lambda d: d["nodes"]["one"].update(parts={"b.safetensors": [[0, 10 * MIB + 1]]}),
        lambda d: d["nodes"]["one"].update(parts={"b.safetensors": [[5, 5]]}),
        lambda d: d["nodes"]["one"].update(parts={"b.safetensors": [[5, 9], [7, 11]]}),
        lambda d: d["nodes"]["one"].update(parts={"b.safetensors": [["0", "1"]]}),
        lambda d: d["nodes"]["one"].update(parts=7),
        lambda d: d["nodes"].update(one=None),
        lambda d: d.pop("common"),
    ],
)
def test_a_placement_of_a_peer_is_checked(change: Any) -> None:
    document = json.loads(WANTS.document())
    change(document)
    with pytest.raises(ProtocolError):
        Wants.from_document(json.dumps(document).encode(), MANIFEST)


def test_a_document_that_is_too_large_or_no_json_is_refused() -> None:
    for data in (b" " * ((8 << 20) + 1), b"[" * 100_000, b"\xff", b"[]"):
        with pytest.raises(ProtocolError):
            Wants.from_document(data, MANIFEST)


@pytest.mark.parametrize("seed", range(20))
def test_what_nobody_wants_is_never_leased(seed: int) -> None:
    """And each node is given what it wants itself before it reads for others."""
    rng = random.Random(seed)
    every = mask(0, MANIFEST.piece_count)
    wants = {name: rng.getrandbits(MANIFEST.piece_count) & rng.getrandbits(MANIFEST.piece_count) for name in "abc"}
    wants["d"] = 0
    table = LeaseTable(MANIFEST, rng=rng, epoch=1)
    for name, want in wants.items():
        table.handle(NodeJoined(name, have=0, checking=0, want=want), 0.0)
    union = wants["a"] | wants["b"] | wants["c"]
    read, now = 0, 1.0
    for _ in range(200):
        now += 0.5
        name = rng.choice("abcd")
        for grant in table.handle(LeaseAsked(name, 0, 1e6), now):
            if isinstance(grant, Grant):
                pieces = mask(grant.first, grant.end)
                assert not pieces & ~union & every
                own_left = wants[grant.node] & ~read
                assert not own_left or pieces & own_left, "it reads for others while it lacks something itself"
                read |= pieces
                table.handle(LeaseEnded(grant.node, grant.lease_id, grant.end, LeaseResult.DONE), now)
    assert read == union, list(iter_bits(union & ~read))
