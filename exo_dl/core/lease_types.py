"""What the coordinator's machine is told and what it asks for: the events and actions of `exo_dl.core.leases`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "Cut",
    "Fault",
    "Grant",
    "HeldLease",
    "LeaseAction",
    "LeaseAsked",
    "LeaseEnded",
    "LeaseEvent",
    "LeaseProgressed",
    "LeaseResult",
    "LeaseView",
    "NodeJoined",
    "NodeLost",
    "QueryHave",
    "Tick",
]


class LeaseResult(enum.Enum):
    """How a lease ended at its node. The values are those of `LeaseResult` in swarm.proto."""

    DONE = 1
    HUB_UNREACHABLE = 2
    HUB_BUSY = 3
    HUB_REFUSED = 4
    NO_ROOM = 5
    RETURNED = 6


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as its node sees it: pieces ``first .. end``, of which those before ``position`` are verified."""

    lease_id: int
    first: int
    end: int
    position: int


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node takes part, or told again what it holds (after `QueryHave`, a finished check, a new coordinator).

    Attributes:
        node: its id.
        have: verified pieces.
        checking: pieces that it reads from its own disks now, to be verified.
        want: pieces that it is to end with.
        leases: leases that it still works on.
        hub_bytes_per_s: its measured rate from the hub, all connections together; 0 when unknown.
    """

    node: str
    have: int
    checking: int
    want: int
    leases: tuple[HeldLease, ...] = ()
    hub_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The link to a node is gone."""

    node: str


@dataclass(frozen=True, slots=True)
class LeaseAsked:
    """A hub connection of a node is idle. ``bytes_per_s`` is what it read at lately; 0 when unknown."""

    node: str
    slot: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class LeaseProgressed:
    """All pieces of a lease before ``position`` are verified at its node, which reads up to ``end`` (0: not said)."""

    node: str
    lease_id: int
    position: int
    bytes_per_s: float
    end: int = 0


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A node is through with a lease. What is left of it at ``position`` is free again."""

    node: str
    lease_id: int
    position: int
    result: LeaseResult
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: to be sent at `next_deadline()` of either machine."""


LeaseEvent = NodeJoined | NodeLost | LeaseAsked | LeaseProgressed | LeaseEnded | Tick


@dataclass(frozen=True, slots=True)
class Grant:
    """Answer to a `LeaseAsked`: the node is to read pieces ``first .. end`` from the hub with this slot."""

    node: str
    slot: int
    lease_id: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A lease shall end earlier; ``end == first`` (or before the node's position): taken back at once.

    The node answers with a `LeaseProgressed` that names its end, or with a `LeaseEnded`.
    """

    node: str
    lease_id: int
    end: int


@dataclass(frozen=True, slots=True)
class QueryHave:
    """These nodes shall tell again what they hold (each answers with `NodeJoined`)."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something went wrong and was dealt with: one line for a person."""

    text: str


LeaseAction = Grant | Cut | QueryHave | Fault


@dataclass(frozen=True, slots=True)
class LeaseView:
    """One lease of the table, for views and tests."""

    lease_id: int
    node: str
    slot: int
    first: int
    end: int
    position: int
    bytes_per_s: float
    duplicate: bool
