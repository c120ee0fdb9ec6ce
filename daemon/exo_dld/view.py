"""One view of a pull: what each node says of itself, put together, the same on every node."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from exo_dl.core.bound import NodeRates, least_time
from exo_dl.core.leases import HeldLease
from exo_dl.core.manifest import Manifest
from exo_dl.core.wants import Wants
from exo_dl.errors import ProtocolError
from exo_dl.rpc.v1 import pull_pb2, swarm_pb2
from exo_dld.messages import PullSpec
from exo_dld.nodestate import NodeState, State

__all__ = ["LOST_GRACE_S", "NodeView", "PullView"]

LOST_GRACE_S = 5.0
"""A node whose link is lost may come back for this long before a pull that waits for nothing else ends without it."""

_MAX_NODES = 1000
_MAX_EVENTS = 50
_MAX_TEXT = 1000
# Several nodes may notice the same thing: it is told once in this time.
_SAME_NOTE_S = 5.0


@dataclass(slots=True)
class NodeView:
    """The newest word of one node about its part."""

    id: str
    name: str
    state: NodeState = NodeState.WAITING
    bytes_wanted: int = 0
    bytes_done: int = 0
    bytes_from_hub: int = 0
    bytes_from_peers: int = 0
    bytes_held: int = 0
    hub_bytes_per_s: float = 0.0
    peer_bytes_per_s: float = 0.0
    hub_peak_bytes_per_s: float = 0.0
    peer_peak_bytes_per_s: float = 0.0
    hub_connections: int = 0
    error: str = ""
    leases: tuple[HeldLease, ...] = ()
    lost_at: float | None = None

    def update(self, word: swarm_pb2.NodeProgress, leases: tuple[HeldLease, ...] = ()) -> None:
        """Takes what the node said. Progress never goes back and never passes what is wanted."""
        try:
            self.state = NodeState(word.state)
        except ValueError:
            return
        self.lost_at = None
        self.bytes_wanted = word.bytes_wanted
        self.bytes_done = min(max(self.bytes_done, word.bytes_done), self.bytes_wanted)
        self.bytes_from_hub = max(self.bytes_from_hub, word.bytes_from_hub)
        self.bytes_from_peers = max(self.bytes_from_peers, word.bytes_from_peers)
        self.bytes_held = word.bytes_held
        self.hub_bytes_per_s = max(0.0, word.hub_bytes_per_s)
        self.peer_bytes_per_s = max(0.0, word.peer_bytes_per_s)
        self.hub_peak_bytes_per_s = max(self.hub_peak_bytes_per_s, self.hub_bytes_per_s)
        self.peer_peak_bytes_per_s = max(self.peer_peak_bytes_per_s, self.peer_bytes_per_s)
        self.hub_connections = word.hub_connections
        self.error = word.error[:_MAX_TEXT]
        self.leases = leases

    def to_pb(self, manifest: Manifest | None = None) -> pull_pb2.NodePull:
        """As clients see it. A node that works no more has no rates and no leases."""
        active = self.state in (NodeState.PULLING, NodeState.CHECKING)
        return pull_pb2.NodePull(
            id=self.id,
            name=self.name,
            state=pull_pb2.NodePullState.Name(self.state),
            bytes_wanted=self.bytes_wanted,
            bytes_done=self.bytes_done,
            bytes_from_hub=self.bytes_from_hub,
            bytes_from_peers=self.bytes_from_peers,
            bytes_held=self.bytes_held,
            hub_bytes_per_s=self.hub_bytes_per_s if active else 0.0,
            peer_bytes_per_s=self.peer_bytes_per_s if active else 0.0,
            hub_connections=self.hub_connections if active else 0,
            error=self.error,
            leases=[_lease_pb(x, manifest) for x in self.leases] if active and manifest is not None else (),
        )


def _lease_pb(lease: HeldLease, manifest: Manifest) -> pull_pb2.NodeLease:
    at = min(lease.position, lease.end - 1)
    return pull_pb2.NodeLease(
        first=lease.first,
        end=lease.end,
        position=lease.position,
        path=manifest.blob_of(at).paths[0],
        bytes_left=manifest.run_bytes(lease.position, lease.end),
    )


@dataclass(slots=True)
class PullView:
    """The state of a pull over all of its nodes.

    Attributes:
        union_bytes: bytes of what any node wants, once.
        helpers: nodes that are to end with nothing.
        started: on the monotonic clock, corrected for the age that the first offer named.
    """

    pull_id: str
    repo: str
    revision: str
    commit: str
    layout: str
    files: int
    union_bytes: int
    started: float
    manifest: Manifest | None = None
    helpers: frozenset[str] = frozenset()
    state: State = State.RUNNING
    ended: float | None = None
    error: str = ""
    path: str = ""
    nodes: dict[str, NodeView] = field(default_factory=dict)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_EVENTS))
    _noted: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: PullSpec, *, started: float) -> PullView:
        """The view of a pull of which nothing is known yet."""
        manifest = spec.manifest
        return cls(
            pull_id=spec.pull_id,
            repo=manifest.repo,
            revision=spec.revision,
            commit=manifest.commit,
            layout=spec.layout,
            files=len(manifest.files),
            union_bytes=manifest.total_bytes if spec.placement is None else _union_bytes(spec, spec.placement),
            started=started,
            manifest=manifest,
            helpers=frozenset(node for node in spec.targets if spec.helps_only(node)),
        )

    def note(self, text: str, now: float) -> bool:
        """Adds a line about something that went wrong and was dealt with. False: it was said a moment ago."""
        for node in self.nodes.values():
            text = text.replace(node.id, node.name)  # the core knows no names
        text = text[:_MAX_TEXT]
        if now - self._noted.get(text, float("-inf")) < _SAME_NOTE_S:
            return False
        self._noted[text] = now
        while len(self._noted) > _MAX_EVENTS:
            del self._noted[next(iter(self._noted))]
        self.events.append(f"{now - self.started:.1f} s: {text}")
        return True

    def outcome(self, now: float) -> State | None:
        """How the pull ends; None while a node works on it or may come back."""
        for node in self.nodes.values():
            lost = node.state is NodeState.LOST and node.lost_at is not None and now - node.lost_at >= LOST_GRACE_S
            if not node.state.ended and not lost:
                return None
        # Who wants nothing has only helped: the others are done without it.
        all_done = all(node.state is NodeState.DONE or node.id in self.helpers for node in self.nodes.values())
        return State.DONE if all_done else State.FAILED

    def waits_for(self) -> list[str]:
        """Names of the lost nodes where all others are through, so that the pull waits for nothing else."""
        if any(not n.state.ended and n.state is not NodeState.LOST for n in self.nodes.values()):
            return []
        return sorted(n.name for n in self.nodes.values() if n.state is NodeState.LOST)

    def heal(self) -> bool:
        """A pull that failed is done after all once nodes that were lost have come back and got through."""
        if self.state is not State.FAILED or any(n.state is not NodeState.DONE for n in self.nodes.values()):
            return False
        self.state, self.error = State.DONE, ""
        return True

    def add(self, node: str, name: str, *, expected: int) -> NodeView:
        """The row of a node, made where there is none.

        Raises:
            ProtocolError: there are far more than the ``expected`` nodes.
        """
        if node not in self.nodes:
            if len(self.nodes) > _MAX_NODES + expected:
                raise ProtocolError("Too many nodes in one pull.")
            self.nodes[node] = NodeView(node, name)
        return self.nodes[node]

    def lose(self, node: str, now: float) -> bool:
        """The link to a node is gone. Returns whether the pull waits for that node.

        The row of one that had not ended is forgotten after a pull that went well.
        """
        if (view := self.nodes.get(node)) is None:
            return False
        view.lost_at = now
        if view.state.ended:
            return False
        if self.state is State.DONE:
            del self.nodes[node]
            return False
        view.state = NodeState.LOST
        return self.state is State.RUNNING

    def unread(self, node: str) -> str:
        """A line for a node that was lost while it read from the hub; empty where it was not."""
        view, manifest = self.nodes.get(node), self.manifest
        if view is None or manifest is None or view.state is not NodeState.LOST or not view.leases:
            return ""
        left = sum(manifest.run_bytes(x.position, x.end) for x in view.leases)
        path = manifest.blob_of(min(view.leases[0].position, view.leases[0].end - 1)).paths[0]
        more = ", and elsewhere" if len(view.leases) > 1 else ""
        return f"{view.name} was to read {left / 1e6:.1f} MB more from the hub ({path}{more}): others read that now."

    def farewell(self) -> str:
        """A line for the nodes without which the pull ends; empty where it ends with all."""
        lost = sorted(n.name for n in self.nodes.values() if n.state is NodeState.LOST)
        return f"Lost, and not come back: {', '.join(lost)}. The pull ends without." if lost else ""

    def find(self, node: str) -> bool:
        """The link to a node stands again. Returns whether the pull waited for that node."""
        view = self.nodes.get(node)
        if view is None or self.state is not State.RUNNING or view.state is not NodeState.LOST:
            return False
        view.state, view.lost_at = NodeState.WAITING, None
        return True

    def is_late(self, node: str) -> bool:
        """Whether the pull has ended, or will, without this node: it can still get the model from those that have it.

        What the view says of it changes with its own word.
        """
        view = self.nodes.get(node)
        return self.state is not State.CANCELLED and (view is None or not view.state.ended)

    def holders(self, nodes: Collection[str]) -> set[str]:
        """Those of ``nodes`` that have the model and still serve it: who was restarted says no more of this pull."""
        return {n.id for n in self.nodes.values() if n.id in nodes and n.state is NodeState.DONE and n.lost_at is None}

    def leave(self, node: str, now: float) -> None:
        """A node said goodbye: a pull for every node of the cluster is not for it any more."""
        if (gone := self.nodes.pop(node, None)) is not None:
            self.note(f"{gone.name} left the cluster, or broke the protocol: it is not waited for.", now)

    def end(self, state: State, reason: str, now: float) -> None:
        """The pull has ended."""
        if state is State.CANCELLED:
            for node in self.nodes.values():
                if not node.state.ended and node.state is not NodeState.LOST:
                    node.state = NodeState.CANCELLED
        self.state, self.ended, self.error = state, now, reason

    def summary(self) -> str:
        """What failed, by node."""
        failed = [n for n in self.nodes.values() if n.state in (NodeState.FAILED, NodeState.LOST)]
        lost = "the link to it was lost, and it did not come back"
        return "; ".join(f"{n.name}: {n.error or (lost if n.state is NodeState.LOST else 'failed')}" for n in failed)

    def bound_s(self) -> float:
        """The least time for this pull with the best rates seen; 0 while no rate from the hub was seen."""
        rates = {n.id: NodeRates(hub=n.hub_peak_bytes_per_s, up=math.inf, down=math.inf) for n in self.nodes.values()}
        wants = {n.id: max(0, n.bytes_wanted - n.bytes_held) for n in self.nodes.values()}
        if not any(r.hub for r in rates.values()) or not any(wants.values()):
            return 0.0
        union = min(self.union_bytes, sum(wants.values()))
        if all(n.bytes_held for n in self.nodes.values()):
            union = min(union, max(wants.values()))
        bound = least_time(union_bytes=union, wants=wants, rates=rates)
        return bound if math.isfinite(bound) else 0.0

    def remaining_s(self) -> float:
        """Seconds until the slowest node is through at the present rates; -1 where no rate is known."""
        if self.state is not State.RUNNING:
            return 0.0
        longest = 0.0
        for node in self.nodes.values():
            left = node.bytes_wanted - node.bytes_done
            if node.state.ended or node.state is NodeState.LOST or left <= 0:
                continue
            rate = node.hub_bytes_per_s + node.peer_bytes_per_s
            if rate <= 0:
                return -1.0
            longest = max(longest, left / rate)
        return longest

    def to_pb(self, now: float, *, coordinator: str, epoch: int) -> pull_pb2.Pull:
        """The message for clients. Once the pull has ended, rows of lost nodes stand apart."""
        nodes = sorted(self.nodes.values(), key=lambda n: (n.name, n.id))
        gone = [n for n in nodes if n.state is NodeState.LOST] if self.state is not State.RUNNING else []
        shown = [n for n in nodes if n.state is not NodeState.LOST] if gone else nodes
        wall = (self.ended if self.ended is not None else now) - self.started
        return pull_pb2.Pull(
            pull_id=self.pull_id,
            repo=self.repo,
            revision=self.revision,
            commit=self.commit,
            state=pull_pb2.PullState.Name(self.state),
            wall_s=wall,
            bound_s=self.bound_s(),
            remaining_s=self.remaining_s(),
            bytes_wanted=sum(n.bytes_wanted for n in nodes),
            bytes_done=sum(n.bytes_done for n in nodes),
            bytes_from_hub=sum(n.bytes_from_hub for n in nodes),
            bytes_from_peers=sum(n.bytes_from_peers for n in nodes),
            files=self.files,
            model_bytes=self.union_bytes,
            nodes=[n.to_pb(self.manifest) for n in shown],
            coordinator_id=coordinator,
            epoch=epoch,
            layout=self.layout,
            error=self.error,
            events=list(self.events),
            path=self.path,
            started_at_s=time.time() - (now - self.started),
            lost_nodes=[n.to_pb() for n in gone],
        )


def _union_bytes(spec: PullSpec, placement: Wants) -> int:
    pieces = 0
    for node in placement.nodes:
        pieces |= spec.pieces_of(node)
    return spec.manifest.set_bytes(pieces)
