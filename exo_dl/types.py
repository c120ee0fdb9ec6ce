"""What `exo_dl.Client` gives back. Field names are those of the messages in ``proto/exo_dl/rpc/v1``.

All sizes are bytes, all times seconds, all rates bytes per second.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from google.protobuf.message import Message

    from exo_dl.rpc.v1 import pull_pb2

__all__ = [
    "ClusterLimits",
    "Departure",
    "FileCheck",
    "LoopLag",
    "Model",
    "NodeLease",
    "NodeLimits",
    "NodeMetrics",
    "NodePlan",
    "NodePull",
    "NodeState",
    "Peer",
    "PeerState",
    "Placement",
    "Pull",
    "PullPlan",
    "PullState",
    "StartedPull",
    "as_dict",
    "from_message",
]

_T = TypeVar("_T")
_State = TypeVar("_State", bound="_StateEnum")


class _StateEnum(enum.StrEnum):
    @classmethod
    def from_number(cls: type[_State], number: int) -> _State:
        """The member for a protobuf enum value; the first ("unknown") for one that this version does not know."""
        members = list(cls)
        return members[number] if 0 <= number < len(members) else members[0]


class PeerState(_StateEnum):
    """How the answering node sees a node. Members stand in the order of the protobuf enum."""

    UNKNOWN = "unknown"
    SELF = "self"
    UP = "up"
    UNREACHABLE = "unreachable"


class PullState(_StateEnum):
    """Where a pull stands. Members stand in the order of the protobuf enum."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True when nothing more will happen."""
        return self in (PullState.DONE, PullState.FAILED, PullState.CANCELLED)


class NodeState(_StateEnum):
    """Where one node stands in a pull. Members stand in the order of the protobuf enum."""

    UNKNOWN = "unknown"
    WAITING = "waiting"
    CHECKING = "checking"
    PULLING = "pulling"
    PUBLISHING = "publishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


def _convert(function: Callable[[Any], Any]) -> dict[str, Any]:
    return {"convert": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node of the cluster, as the answering node knows it. Rates are 0 while nothing was measured."""

    id: str
    name: str
    state: PeerState = field(metadata=_convert(PeerState.from_number))
    addresses: tuple[str, ...] = field(metadata=_convert(tuple))
    version: str
    memory_total_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    hub_bytes_per_s: float
    lan_bytes_per_s: float
    activity: str
    last_seen_s: float
    problem: str
    pull_ids: tuple[str, ...] = field(metadata=_convert(tuple))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLease:
    """Pieces ``first .. end`` that one node reads from the hub; those before ``position`` are verified.

    ``path`` is the file that ``position`` lies in.
    """

    first: int
    end: int
    position: int
    path: str
    bytes_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePull:
    """One node's part in a pull. ``bytes_done`` never passes ``bytes_wanted``."""

    id: str
    name: str
    state: NodeState = field(metadata=_convert(NodeState.from_number))
    bytes_wanted: int
    bytes_done: int
    bytes_from_hub: int
    bytes_from_peers: int
    hub_bytes_per_s: float
    peer_bytes_per_s: float
    error: str
    bytes_held: int
    hub_connections: int
    leases: tuple[NodeLease, ...] = field(
        metadata=_convert(lambda leases: tuple(from_message(NodeLease, x) for x in leases))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A pull over the whole cluster.

    ``remaining_s`` is negative where no estimate can be given; ``bound_s`` is the least time that this network allows,
    0 while nothing was measured. ``lost_nodes`` are those without which a pull ended; ``nodes`` has them no more.
    """

    pull_id: str
    repo: str
    revision: str
    commit: str
    state: PullState = field(metadata=_convert(PullState.from_number))
    wall_s: float
    bound_s: float
    remaining_s: float
    bytes_wanted: int
    bytes_done: int
    bytes_from_hub: int
    bytes_from_peers: int
    files: int
    model_bytes: int
    nodes: tuple[NodePull, ...] = field(
        metadata=_convert(lambda nodes: tuple(from_message(NodePull, n) for n in nodes))
    )
    coordinator_id: str
    epoch: int
    layout: str
    error: str
    events: tuple[str, ...] = field(metadata=_convert(tuple))
    path: str
    started_at_s: float
    lost_nodes: tuple[NodePull, ...] = field(
        metadata=_convert(lambda nodes: tuple(from_message(NodePull, n) for n in nodes))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which node gets what; what is left out has its default. Nodes are names or ids.

    Attributes:
        place: "full", "layers", "experts", "files" or "none"; empty: "full", or what ``plan`` says.
        wants: (node, glob) pairs for "files".
        memory: (node, bytes) pairs in place of what the nodes have.
        fraction: part of a node's memory that weights may take; 0: 0.75.
        helpers: nodes that help to fetch and keep nothing.
        replan: divide anew, moving as little as possible.
        plan: a plan file as JSON, in place of ``place``.
    """

    place: str = ""
    wants: tuple[tuple[str, str], ...] = ()
    memory: tuple[tuple[str, int], ...] = ()
    fraction: float = 0.0
    helpers: tuple[str, ...] = ()
    replan: bool = False
    plan: str = ""

    def message(self) -> pull_pb2.Placement:
        """As it goes to the daemon."""
        from exo_dl.rpc.v1 import pull_pb2

        return pull_pb2.Placement(
            place=self.place,
            memory=[pull_pb2.NodeMemory(node=node, bytes=size) for node, size in self.memory],
            fraction=self.fraction,
            wants=[pull_pb2.NodeGlob(node=node, glob=glob) for node, glob in self.wants],
            helpers=self.helpers,
            replan=self.replan,
            plan=self.plan,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a placement gives to one node. ``layers`` are runs (first, end), end not included."""

    id: str
    name: str
    memory_bytes: int
    usable_bytes: int
    disk_free_bytes: int
    bytes: int
    layers: tuple[tuple[int, int], ...] = field(metadata=_convert(lambda runs: tuple((r.first, r.end) for r in runs)))
    experts: str
    whole_files: int
    part_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PullPlan:
    """What a pull would give to which node. ``union_bytes``: what any of them wants, whole pieces, each once."""

    repo: str
    revision: str
    commit: str
    place: str
    model_bytes: int
    union_bytes: int
    layers: int
    nodes: tuple[NodePlan, ...] = field(
        metadata=_convert(lambda nodes: tuple(from_message(NodePlan, n) for n in nodes))
    )
    notes: tuple[str, ...] = field(metadata=_convert(tuple))


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedPull:
    """The answer to `Client.start_pull`. ``joined`` is true where this pull already ran."""

    pull: Pull
    joined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the answering node holds. ``layout`` is "hf" or "dir"."""

    repo: str
    commit: str
    revisions: tuple[str, ...] = field(metadata=_convert(tuple))
    size_bytes: int
    files: int
    path: str
    layout: str
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """One file of a model, read again and compared with the hub's digest. ``problem`` is empty when ``ok``."""

    path: str
    size_bytes: int
    ok: bool
    problem: str
    files_total: int
    files_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLimits:
    """The limits of one node in bytes/s, 0 for none; its share of the cluster's limit, and what it reads from hubs now.

    ``lan_up`` and ``lan_down`` are for pieces to and from other nodes.
    """

    id: str
    name: str
    hub_bytes_per_s: int
    lan_up_bytes_per_s: int
    lan_down_bytes_per_s: int
    hub_share_bytes_per_s: float
    hub_used_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLimits:
    """The limits of all linked nodes, the answering one first. ``cluster_hub_bytes_per_s``: for all together."""

    cluster_hub_bytes_per_s: int
    nodes: tuple[NodeLimits, ...] = field(
        metadata=_convert(lambda nodes: tuple(from_message(NodeLimits, n) for n in nodes))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLag:
    """How late a daemon's event loop is with what is due: of the last minute, and from ``worst_s`` on since its start.

    ``buckets`` are (at most so many seconds, looks that found no more than that); what no bucket holds is in ``count``.
    """

    p50_s: float
    p99_s: float
    max_s: float
    worst_s: float
    sum_s: float
    count: int
    buckets: tuple[tuple[float, int], ...] = field(
        metadata=_convert(lambda buckets: tuple((b.at_most_s, b.count) for b in buckets))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMetrics:
    """What a daemon counted since its start, and what it is like now: see ``NodeMetrics`` in ``cluster.proto``."""

    id: str
    name: str
    version: str
    uptime_s: float
    loop_lag: LoopLag = field(metadata=_convert(lambda lag: from_message(LoopLag, lag)))
    bytes_from_hub: int
    bytes_from_peers: int
    received_from_hub_bytes: int
    received_from_peers_bytes: int
    bytes_served: int
    piece_requests: int
    piece_requests_busy: int
    piece_requests_refused: int
    calls_refused: int
    connections_refused: int
    piece_connections: int
    uploads: int
    peers_up: int
    pulls_running: int
    pulls_done: int
    pulls_failed: int
    pulls_cancelled: int
    cpu_s: float
    rss_bytes: int
    threads: int
    open_files: int
    dropped_unknown_pull: int
    dropped_other_epoch: int
    dropped_no_say: int
    dropped_malformed: int
    dropped_too_many: int
    dropped_other_protocol: int
    dropped_wrong_bytes: int
    dropped_no_answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """How a node left. ``pieces_left`` were on it alone, and others lack them: they will ask the hub again."""

    pieces_left: int
    seconds: float


def from_message(kind: type[_T], message: Message) -> _T:
    """The dataclass ``kind`` of this module, filled from the protobuf message with the same fields."""
    values: dict[str, Any] = {}
    for spec in fields(kind):  # type: ignore[arg-type] # every `kind` is a dataclass of this module
        value = getattr(message, spec.name)
        convert = spec.metadata.get("convert")
        values[spec.name] = value if convert is None else convert(value)
    return kind(**values)


def as_dict(value: DataclassInstance) -> dict[str, Any]:
    """``value`` as plain data for JSON: field names of the proto, states as lower-case words."""
    return asdict(value)
