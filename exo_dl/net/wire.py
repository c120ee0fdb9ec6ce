"""Between the messages of `swarm.proto` and the values of the core. All checks of what a peer sent are here.

Every function that reads a message raises `ProtocolError` (or `UsageError`, for names) on anything out of bounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from exo_dl.core.leases import HeldLease
from exo_dl.core.manifest import FileEntry, Manifest, pull_id_for
from exo_dl.core.paths import check_commit, check_path, check_repo
from exo_dl.core.pieces import from_bytes, iter_runs, mask, to_bytes
from exo_dl.core.wants import Wants
from exo_dl.errors import ProtocolError
from exo_dl.rpc.v1 import swarm_pb2 as pb

__all__ = [
    "DIGEST_BYTES",
    "MAX_SHOWN_LEASES",
    "MAX_TARGETS",
    "check_claim",
    "check_offer",
    "check_run",
    "have_runs",
    "held_leases_from_pb",
    "held_leases_to_pb",
    "manifest_from_pb",
    "manifest_to_pb",
    "piece_set",
    "piece_set_from_pb",
    "run_mask",
    "runs_from_pb",
]

DIGEST_BYTES = 32
MAX_TARGETS = 10_000
_MAX_LEASES = 1024
MAX_SHOWN_LEASES = 8
"""Leases of one node that the others show."""
# Lease ids have the epoch in their upper half.
_MAX_EPOCH = (1 << 31) - 1
_MAX_GENERATION = 1 << 48
_MAX_AGE_S = 1e9
_MAX_TEXT = 2000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Digests in one message: 1 MiB, so that a heartbeat never waits long behind a map.
_MAX_DIGESTS = 32_768
_REPO_TYPES = frozenset({"model", "dataset", "space"})


def manifest_to_pb(manifest: Manifest) -> pb.Manifest:
    """The message for ``manifest``."""

    def entries(files: tuple[FileEntry, ...]) -> list[pb.ManifestFile]:
        return [pb.ManifestFile(path=f.path, size=f.size, digest=f.digest, git_oid=f.git_oid) for f in files]

    return pb.Manifest(
        hub=manifest.hub,
        repo_type=manifest.repo_type,
        repo=manifest.repo,
        commit=manifest.commit,
        files=entries(manifest.files),
        unselected=entries(manifest.unselected),
    )


def manifest_from_pb(message: pb.Manifest) -> Manifest:
    """The manifest that a peer sent, with every name, size and digest checked."""

    def entries(files: list[pb.ManifestFile]) -> tuple[FileEntry, ...]:
        for f in files:
            if len(f.git_oid) not in (0, 20):
                raise ProtocolError(f"{f.path!r} has an object id of {len(f.git_oid)} bytes.")
        return tuple(FileEntry(check_path(f.path), f.size, f.digest, f.git_oid) for f in files)

    if message.repo_type not in _REPO_TYPES:
        raise ProtocolError(f"Unknown repository type {message.repo_type[:40]!r}.")
    if message.hub != "huggingface":
        raise ProtocolError(f"Unknown kind of hub {message.hub[:40]!r}.")
    return Manifest(
        hub=message.hub,
        repo_type=message.repo_type,
        repo=check_repo(message.repo),
        commit=check_commit(message.commit),
        files=entries(list(message.files)),
        unselected=entries(list(message.unselected)),
    )


def check_offer(offer: pb.PullOffer) -> tuple[Manifest, Wants | None]:
    """The manifest of an offer whose pull id is right for it, and its placement."""
    check_claim(offer)
    manifest = manifest_from_pb(offer.manifest)
    placement = Wants.from_document(offer.placement, manifest) if offer.placement else None
    if placement is not None and set(placement.nodes) != set(offer.targets):
        raise ProtocolError("An offer's placement is for other nodes than the offer.")
    if pull_id_for(manifest, offer.layout, placement.key if placement else "") != offer.pull_id:
        raise ProtocolError(f"The offer of pull {offer.pull_id[:40]!r} does not have the id of its files.")
    if offer.revision:
        check_path(offer.revision)
    return manifest, placement


def check_claim(offer: pb.PullOffer) -> None:
    """All of an offer but its manifest, which a node that knows the pull already does not look at again."""
    if len(offer.targets) > MAX_TARGETS or not all(map(_NAME.fullmatch, offer.targets)):
        raise ProtocolError(f"An offer names {len(offer.targets)} nodes, or one that is none.")
    if not 1 <= offer.epoch <= _MAX_EPOCH or not _NAME.fullmatch(offer.coordinator_id):
        raise ProtocolError("An offer without a sensible epoch or coordinator.")
    if offer.generation > _MAX_GENERATION:
        raise ProtocolError("An offer with a generation that no pull reaches.")
    if not 0 <= offer.age_s < _MAX_AGE_S or max(len(offer.layout), len(offer.endpoint)) > _MAX_TEXT:
        raise ProtocolError("An offer with an age, a layout or an endpoint out of all bounds.")


def piece_set(bits: int) -> pb.PieceSet:
    """The message for a set of pieces."""
    return pb.PieceSet(bits=to_bytes(bits))


def piece_set_from_pb(message: pb.PieceSet, manifest: Manifest) -> int:
    """The set of pieces that a peer sent; none lies outside the manifest."""
    return from_bytes(message.bits, count=manifest.piece_count)


def check_run(first: int, end: int, manifest: Manifest) -> None:
    """Raises `ProtocolError` unless ``first < end`` lies inside the manifest."""
    if not 0 <= first < end <= manifest.piece_count:
        raise ProtocolError(f"Pieces {first}..{end} are outside of this pull's {manifest.piece_count} pieces.")


def have_runs(bits: int, digest: Callable[[int], bytes | None]) -> Iterator[list[pb.HaveRun]]:
    """The runs of ``bits`` with their digests, in lists that each fit one message.

    A piece whose ``digest`` is None (it was lost in the meantime) is left out.
    """
    batch: list[pb.HaveRun] = []
    room = _MAX_DIGESTS
    for first, end in iter_runs(bits):
        parts: list[bytes] = []
        for piece in range(first, end):
            known = digest(piece)
            if known is not None:
                parts.append(known)
                room -= 1
            if parts and (known is None or room == 0 or piece == end - 1):
                start = (piece if known is None else piece + 1) - len(parts)
                batch.append(pb.HaveRun(first=start, digests=b"".join(parts)))
                parts = []
            if room == 0:
                yield batch
                batch, room = [], _MAX_DIGESTS
    if batch:
        yield batch


def runs_from_pb(runs: list[pb.HaveRun], manifest: Manifest, *, without: int = 0) -> Iterator[tuple[int, bytes]]:
    """``(first, digests)`` of each run that a peer sent, checked; the pieces of ``without`` are left out."""
    for run in runs:
        if not run.digests or len(run.digests) % DIGEST_BYTES:
            raise ProtocolError(f"{len(run.digests)} bytes of digests are no multiple of {DIGEST_BYTES}.")
        check_run(run.first, run.first + len(run.digests) // DIGEST_BYTES, manifest)
        if not without:
            yield run.first, run.digests
            continue
        for first, end in iter_runs(run_mask(run.first, run.digests) & ~without):
            start = (first - run.first) * DIGEST_BYTES
            yield first, run.digests[start : start + (end - first) * DIGEST_BYTES]


def held_leases_to_pb(leases: tuple[HeldLease, ...]) -> list[pb.HeldLease]:
    """The messages for the leases that this node holds."""
    return [pb.HeldLease(lease_id=x.lease_id, first=x.first, end=x.end, position=x.position) for x in leases]


def held_leases_from_pb(
    leases: Sequence[pb.HeldLease], manifest: Manifest, *, most: int = _MAX_LEASES
) -> tuple[HeldLease, ...]:
    """The leases that a peer says it holds, checked; no more than ``most``."""
    if len(leases) > most:
        raise ProtocolError(f"A node claims {len(leases)} leases.")
    result = []
    for x in leases:
        check_run(x.first, x.end, manifest)
        if not x.first <= x.position <= x.end:
            raise ProtocolError(f"A lease of {x.first}..{x.end} has its position at {x.position}.")
        result.append(HeldLease(x.lease_id, x.first, x.end, x.position))
    return tuple(result)


def run_mask(first: int, digests: bytes) -> int:
    """The set of pieces of one checked run."""
    return mask(first, first + len(digests) // DIGEST_BYTES)
