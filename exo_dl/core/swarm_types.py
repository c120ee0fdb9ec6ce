"""What a node's machine is told and what it asks for: the events and actions of `exo_dl.core.node_machine`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from exo_dl.core.lease_types import Fault, HeldLease, LeaseResult, Tick

__all__ = [
    "Announce",
    "AskLease",
    "CancelFetch",
    "Checking",
    "Complete",
    "CoordinatorReady",
    "EndLease",
    "Fault",
    "FetchEnded",
    "FetchFromHub",
    "FetchFromPeer",
    "FetchResult",
    "Held",
    "HeldLease",
    "HubReady",
    "LeaseGranted",
    "LeaseResult",
    "LeaseTrimmed",
    "OnOwn",
    "PeerHas",
    "PeerJoined",
    "PeerLacks",
    "PeerLimit",
    "PeerLost",
    "PieceBad",
    "PiecesArrived",
    "ReportLease",
    "SharesDealt",
    "SlotLimit",
    "SwarmAction",
    "SwarmEvent",
    "Tick",
    "TrimFetch",
]


class FetchResult(enum.Enum):
    """How a transfer ended."""

    DONE = "done"
    BUSY = "busy"
    FAILED = "failed"
    CORRUPT = "corrupt"
    MISSING = "missing"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    HUB_UNREACHABLE = "hub unreachable"
    HUB_BUSY = "hub busy"
    HUB_REFUSED = "hub refused"
    NO_ROOM = "no room"


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A link to a peer stands; what it holds is not known yet."""

    peer: str


@dataclass(frozen=True, slots=True)
class SharesDealt:
    """For each peer, which of its neighbours this node is, from 0 on, and how many these are; empty: all nodes are."""

    places: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class PeerHas:
    """A peer holds these pieces (more than before, or for the first time)."""

    peer: str
    pieces: int


@dataclass(frozen=True, slots=True)
class PeerLacks:
    """A peer lacks this many bytes of what it wants, by its own word."""

    peer: str
    byte_count: int


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The link to a peer is gone. Transfers from it end by themselves with `FetchEnded`."""

    peer: str


@dataclass(frozen=True, slots=True)
class Checking:
    """The pieces that the node is reading from its own disks, to be verified: they are not asked from anybody."""

    pieces: int


@dataclass(frozen=True, slots=True)
class Held:
    """Pieces found on this node's own disks and verified."""

    pieces: int


@dataclass(frozen=True, slots=True)
class CoordinatorReady:
    """A coordinator (the first, or another one) knows of this node: ask it again for every idle hub connection."""


@dataclass(frozen=True, slots=True)
class HubReady:
    """Whether this node may and can read from the hub now."""

    ok: bool


@dataclass(frozen=True, slots=True)
class PiecesArrived:
    """Pieces of a transfer were verified and stored.

    Attributes:
        fetch_id: the transfer.
        pieces: which (a set).
        byte_count: what was received for them.
        stored_at: when the last of them was, on the clock of ``now``, where the event tells of it later; else None.
    """

    fetch_id: int
    pieces: int
    byte_count: int
    stored_at: float | None = None


@dataclass(frozen=True, slots=True)
class FetchEnded:
    """A transfer is over: each `FetchFromPeer` and `FetchFromHub` ends in exactly one of these."""

    fetch_id: int
    result: FetchResult
    retry_after_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """The coordinator gave the hub connection ``slot`` the pieces ``first .. end``."""

    lease_id: int
    slot: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class LeaseTrimmed:
    """The coordinator ends a lease at ``end``."""

    lease_id: int
    end: int


@dataclass(frozen=True, slots=True)
class PieceBad:
    """The digest of a whole file failed: these pieces are lost again.

    ``everywhere``: what peers were said to hold of them was of the same reading, and is not believed any more.
    """

    pieces: int
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class OnOwn:
    """What is lacking and no believed peer holds is read from the hub at once, lease or not."""


@dataclass(frozen=True, slots=True)
class SlotLimit:
    """At most this many hub connections from now on (memory or disk is short, or the user said so); 0 stops them."""

    limit: int


@dataclass(frozen=True, slots=True)
class PeerLimit:
    """At most so many transfers from peers from now on, 1 or more: memory or disk is short. Those under way go on."""

    limit: int


SwarmEvent = (
    PeerJoined
    | SharesDealt
    | PeerHas
    | PeerLacks
    | PeerLost
    | Held
    | Checking
    | CoordinatorReady
    | HubReady
    | PiecesArrived
    | FetchEnded
    | LeaseGranted
    | LeaseTrimmed
    | PieceBad
    | OnOwn
    | SlotLimit
    | PeerLimit
    | Tick
)


@dataclass(frozen=True, slots=True)
class FetchFromPeer:
    """Read these pieces from a peer, in their order.

    Attributes:
        fetch_id: the transfer.
        peer: which.
        pieces: which (a set).
        stays: one from this peer has just ended: it may say "busy" to this one earlier than to others.
    """

    fetch_id: int
    peer: str
    pieces: int
    stays: bool = False


@dataclass(frozen=True, slots=True)
class FetchFromHub:
    """Read pieces ``first .. end``, all of one blob, from the hub with connection ``slot``."""

    fetch_id: int
    lease_id: int
    slot: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class TrimFetch:
    """The transfer shall end DONE at piece ``end``. Where it is past that already, what arrived counts."""

    fetch_id: int
    end: int


@dataclass(frozen=True, slots=True)
class CancelFetch:
    """The transfer shall end now."""

    fetch_id: int


@dataclass(frozen=True, slots=True)
class AskLease:
    """To the coordinator: this hub connection is idle."""

    slot: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class ReportLease:
    """To the coordinator: how far a lease is, and where it ends as this node knows it."""

    lease_id: int
    position: int
    bytes_per_s: float
    end: int


@dataclass(frozen=True, slots=True)
class EndLease:
    """To the coordinator: this node is through with a lease."""

    lease_id: int
    position: int
    result: LeaseResult
    retry_after_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Announce:
    """To all peers: this node holds these pieces now."""

    pieces: int


@dataclass(frozen=True, slots=True)
class Complete:
    """This node holds everything that it wants. Sent again when pieces were lost (`PieceBad`) and came back."""


SwarmAction = (
    FetchFromPeer
    | FetchFromHub
    | TrimFetch
    | CancelFetch
    | AskLease
    | ReportLease
    | EndLease
    | Announce
    | Complete
    | Fault
)
