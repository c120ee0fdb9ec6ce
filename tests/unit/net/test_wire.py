from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.lease_types import HeldLease
from exo_dl.core.manifest import FileEntry, Manifest, pull_id_for
from exo_dl.errors import ExoDlError, ProtocolError
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb

MIB = 1 << 20


def entry(path: str, size: int) -> FileEntry:
    return FileEntry(path, size, hashlib.sha256(path.encode()).digest(), hashlib.sha1(path.encode()).digest())


MANIFEST = Manifest(
    "huggingface", "model", "org/name", "a" * 40, (entry("a", 3 * MIB), entry("b", 1)), (entry("sub/c", 7),)
)


def offer(**changes: object) -> pb.PullOffer:
    fields: dict[str, object] = {
        "pull_id": pull_id_for(MANIFEST, "hf"),
        "manifest": wire.manifest_to_pb(MANIFEST),
        "coordinator_id": "n1",
        "epoch": 1,
        "layout": "hf",
    }
    return pb.PullOffer(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_manifest_comes_back_as_it_was_sent() -> None:
    assert wire.manifest_from_pb(wire.manifest_to_pb(MANIFEST)) == MANIFEST
    assert wire.check_offer(offer()) == (MANIFEST, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"pull_id": "0" * 20},
        {"layout": "dir:/other"},
        {"epoch": 0},
        {"coordinator_id": ""},
        {"targets": [f"n{i}" for i in range(wire.MAX_TARGETS + 1)]},
        {"manifest": pb.Manifest(hub="other", repo_type="model", repo="org/name", commit="a" * 40)},
        {"manifest": pb.Manifest(hub="huggingface", repo_type="thing", repo="org/name", commit="a" * 40)},
        {"manifest": pb.Manifest(hub="huggingface", repo_type="model", repo="../name", commit="a" * 40)},
        {"manifest": pb.Manifest(hub="huggingface", repo_type="model", repo="org/name", commit="main")},
    ],
)
def test_offers_out_of_bounds_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ExoDlError):
        wire.check_offer(offer(**changes))


@pytest.mark.parametrize(
    "file",
    [
        pb.ManifestFile(path="../x", size=1, digest=b"d" * 32),
        pb.ManifestFile(path="x", size=1, digest=b"d" * 31),
        pb.ManifestFile(path="x", size=1, digest=b"d" * 32, git_oid=b"o"),
        pb.ManifestFile(path="x", size=1 << 63, digest=b"d" * 32),
    ],
)
def test_files_out_of_bounds_are_refused(file: pb.ManifestFile) -> None:
    message = wire.manifest_to_pb(MANIFEST)
    message.files.append(file)
    with pytest.raises(ExoDlError):
        wire.manifest_from_pb(message)


@given(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)))
def test_announced_pieces_come_back_with_their_digests(pieces: set[int], lost: set[int]) -> None:
    digests = {i: bytes([i]) * 32 for i in range(4) if i not in lost}
    bits = sum(1 << i for i in pieces)
    got = {
        first + i: data[i * 32 : i * 32 + 32]
        for runs in wire.have_runs(bits, digests.get)
        for first, data in wire.runs_from_pb(runs, MANIFEST)
        for i in range(len(data) // 32)
    }
    assert got == {i: digests[i] for i in pieces - lost}


def test_a_large_map_is_told_in_several_messages() -> None:
    bits = (1 << 100_000) - 1
    batches = list(wire.have_runs(bits, lambda i: i.to_bytes(32, "big")))
    assert len(batches) == 4
    assert sum(len(r.digests) for runs in batches for r in runs) == 100_000 * 32


@pytest.mark.parametrize(
    "run",
    [
        pb.HaveRun(first=0, digests=b""),
        pb.HaveRun(first=0, digests=b"x" * 31),
        pb.HaveRun(first=3, digests=b"x" * 64),
        pb.HaveRun(first=4_000_000_000, digests=b"x" * 32),
    ],
)
def test_runs_out_of_bounds_are_refused(run: pb.HaveRun) -> None:
    with pytest.raises(ProtocolError):
        list(wire.runs_from_pb([run], MANIFEST))


def test_leases_come_back_and_are_checked() -> None:
    leases = (HeldLease(7, 0, 3, 1),)
    assert wire.held_leases_from_pb(wire.held_leases_to_pb(leases), MANIFEST) == leases
    for first, end, position in ((0, 5, 0), (2, 2, 2), (0, 3, 4)):
        with pytest.raises(ProtocolError):
            wire.held_leases_from_pb([pb.HeldLease(lease_id=1, first=first, end=end, position=position)], MANIFEST)
    many = wire.held_leases_to_pb(leases * (wire.MAX_SHOWN_LEASES + 1))
    assert len(wire.held_leases_from_pb(many, MANIFEST)) == len(many)
    with pytest.raises(ProtocolError):
        wire.held_leases_from_pb(many, MANIFEST, most=wire.MAX_SHOWN_LEASES)
