"""What a coordinator knows of the nodes of a pull: what they hold and want, how fast they read, who must wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from exo_dl.core.lease_types import LeaseEnded, LeaseResult, NodeJoined

__all__ = ["DEFAULT_RATE", "Ask", "Node", "NodeBook"]

DEFAULT_RATE = 4e6  # bytes/s of a connection while none was measured: only the ratio between nodes counts
_CAUTIOUS_RATE = 256e3
_IDLE_S = 5.0
_SUMS_HOLD_S = 0.1
_FEW = 64
_CLEARLY = 4.0
_UNREACHABLE_S = 5.0
_UNREACHABLE_MAX_S = 60.0
_STALLED_S = 2.0
_NO_ROOM_S = 15.0
_BUSY_S = 1.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A hub connection that waits for a lease since ``at``."""

    node: str
    slot: int
    at: float


@dataclass(slots=True)
class Node:
    """One node: sets of pieces, rates of its connections in bytes/s, times until which it or a connection waits."""

    name: str
    joined_at: float
    have: int = 0
    checking: int = 0
    want: int = 0
    guess: float = 0.0
    asked: bool = False
    rates: dict[int, float] = field(default_factory=dict)
    waits: dict[int, float] = field(default_factory=dict)
    wait_until: float = 0.0
    backoff_s: float = _UNREACHABLE_S
    stalls: int = 0
    stalled_at: float = float("-inf")

    @property
    def rate(self) -> float:
        """All its connections together; 0 when unknown."""
        return sum(self.rates.values()) or self.guess


class NodeBook:
    """All nodes of a pull, and the unions that leasing needs: made anew when somebody looks at them."""

    def __init__(self, shared_hub_bytes_per_s: float | None) -> None:
        self._shared = shared_hub_bytes_per_s
        self.nodes: dict[str, Node] = {}
        self._held = self._needed = self._checking = 0
        self._apart = False
        self._sums_at: float | None = None
        self._total = 0.0
        self._mean_rate = 0.0
        self._known = 0.0
        self._connections = 1

    @property
    def held(self) -> int:
        """Pieces that at least one node holds, as far as is known here."""
        self._unite()
        return self._held

    @property
    def needed(self) -> int:
        """Pieces that at least one node wants."""
        self._unite()
        return self._needed

    @property
    def checking(self) -> int:
        """Pieces that some node may be about to find on its disks."""
        self._unite()
        return self._checking

    def joined(self, event: NodeJoined, every: int, now: float) -> bool:
        """Takes a node in, or what it tells anew. Returns whether it was known."""
        node = self.nodes.get(event.node)
        known = node is not None
        if node is None:
            node = self.nodes[event.node] = Node(event.node, now)
        node.have = event.have & every
        node.want = event.want & every
        node.checking = event.checking & every & ~node.have
        if event.hub_bytes_per_s > 0:
            node.guess = event.hub_bytes_per_s
        self._sums_at = None
        self._apart = self._apart or known
        if not self._apart:
            self._count(node)
        return known

    def lost(self, name: str) -> int:
        """Removes a node. Returns the pieces that only it held."""
        node = self.nodes.pop(name)
        self._sums_at = None
        self._apart = True
        return node.have & ~self.held

    def add(self, name: str, pieces: int) -> None:
        """A node holds these pieces too."""
        self.nodes[name].have |= pieces
        self._held |= pieces

    def _unite(self) -> None:
        if self._apart:
            self._apart = False
            self._held = self._needed = self._checking = 0
            for node in self.nodes.values():
                self._count(node)

    def _count(self, node: Node) -> None:
        self._held |= node.have
        self._needed |= node.want
        self._checking |= node.checking

    # ------------------------------------------------------------------ rates

    def asked(self, name: str, slot: int, rate: float) -> None:
        """A connection is idle, and read at ``rate`` lately (0: unknown).

        What its leases showed counts for more: that mean is slow to see a link that became slow.
        """
        if not self.nodes[name].asked:
            self.nodes[name].asked = True
            self._sums_changed()
        if slot not in self.nodes[name].rates:
            self.measured(name, slot, rate)

    def measured(self, name: str, slot: int, rate: float) -> None:
        """A connection reads at ``rate``."""
        if rate > 0 and slot >= 0:
            if slot not in self.nodes[name].rates:
                self._sums_changed()
            self.nodes[name].rates[slot] = rate

    def known_rate(self, name: str, slot: int) -> float:
        """The connection's rate; 0 when neither it nor its node was measured."""
        node = self.nodes[name]
        return node.rates.get(slot, 0.0) or node.guess

    def slot_rate(self, name: str, slot: int, now: float) -> float:
        """The connection's rate; where it is unknown that of all nodes in the mean, or of its own if clearly slow."""
        if known := self.known_rate(name, slot):
            return known
        mean, others = self._sums(now)[1], self.nodes[name].rates.values()
        own = sum(others) / len(others) if others else mean
        return own if own * _CLEARLY < mean else mean

    def cautious_rate(self, name: str, slot: int, now: float) -> float:
        """A rate that the connection reaches in all likelihood: to tell a slow one from one that stands still."""
        known = self.known_rate(name, slot)
        if known > 0:
            return known
        self._sums(now)
        return max(_CAUTIOUS_RATE, self._known / 8)

    def connections(self, now: float) -> int:
        """How many connections there are, at least 1."""
        self._sums(now)
        return self._connections

    def total_rate(self, now: float) -> float:
        """All nodes that read from the hub, or may be about to, bytes/s; above 0."""
        return self._sums(now)[0]

    def _sums(self, now: float) -> tuple[float, float]:
        """Total and mean rate, from at most a moment ago: with many nodes there are many asks in a moment."""
        if self._sums_at is None or not self._sums_at <= now < self._sums_at + _SUMS_HOLD_S:
            self._sums_at = now
            mean = self._known = self._known_mean()
            if not mean:
                mean = self._shared / max(1, len(self.nodes)) if self._shared else DEFAULT_RATE
            self._mean_rate = mean
            readers = (n for n in self.nodes.values() if n.wait_until <= now)
            total = sum(n.rate or mean for n in readers if n.asked or now - n.joined_at < _IDLE_S)
            self._total = total or mean
            self._connections = max(1, sum(max(1, len(node.rates)) for node in self.nodes.values()))
        return self._total, self._mean_rate

    def _sums_changed(self) -> None:
        # One node among many changes little until the sums are taken again anyway.
        if len(self.nodes) <= _FEW:
            self._sums_at = None

    def _known_mean(self) -> float:
        rates = [rate for n in self.nodes.values() if (rate := n.rate) > 0]
        return sum(rates) / len(rates) if rates else 0.0

    # ---------------------------------------------------------------- waiting

    def banned(self, name: str, slot: int, now: float) -> bool:
        """Whether this connection gets nothing now."""
        node = self.nodes[name]
        return node.wait_until > now or node.waits.get(slot, 0.0) > now

    def stalled(self, name: str, slot: int, now: float) -> float:
        """A connection stood still. Returns the seconds for which it gets nothing."""
        node = self.nodes[name]
        wait_s: float = min(_UNREACHABLE_MAX_S, _STALLED_S * 2**node.stalls)
        node.stalls = min(node.stalls + 1, 6)
        node.stalled_at = now
        node.waits[slot] = now + wait_s
        return wait_s

    def ended(self, event: LeaseEnded, slot: int, now: float) -> str:
        """Notes what the end of a lease says about its node. Returns a line for a person, or nothing."""
        node = self.nodes.get(event.node)
        if node is None:
            return ""
        if event.result is not LeaseResult.DONE:
            self._sums_changed()
        retry_s = min(max(0.0, event.retry_after_s), 3600.0)
        match event.result:
            case LeaseResult.HUB_UNREACHABLE | LeaseResult.HUB_REFUSED:
                wait_s = max(node.backoff_s, retry_s)
                node.backoff_s = min(_UNREACHABLE_MAX_S, node.backoff_s * 2)
                node.wait_until = max(node.wait_until, now + wait_s)
                refused = event.result is LeaseResult.HUB_REFUSED
                what = "was refused by the hub" if refused else "cannot reach the hub"
                return f"{node.name} {what}: others read its part, and it is asked again in {wait_s:.0f} s."
            case LeaseResult.HUB_BUSY:
                node.waits[slot] = now + max(_BUSY_S, retry_s)
                return f"The hub asked {node.name} to wait {max(_BUSY_S, retry_s):.0f} s."
            case LeaseResult.NO_ROOM:
                node.wait_until = max(node.wait_until, now + max(_NO_ROOM_S, retry_s))
                return f"{node.name} has no room for what it read: others read its part."
            case LeaseResult.RETURNED:
                node.waits[slot] = now + retry_s
            case LeaseResult.DONE:
                node.backoff_s = _UNREACHABLE_S
        return ""
