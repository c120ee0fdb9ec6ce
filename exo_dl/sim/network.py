"""A simulated network: flows of bytes that share links max-min fairly, as fluid.

Every node has a link to the hub and an up and a down link on the LAN; the links to the hub may share an uplink. A flow
crosses a few links; rates are those of progressive filling (Bertsekas & Gallager, Data Networks, 6.5.2), where links
that would fill within a few percent of each other are filled together.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

__all__ = ["Flow", "Network", "NodeSpec"]

_TOGETHER = 1.03


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node's rates in bytes/s; a connection to the hub gets at most ``hub_connection``."""

    name: str
    hub: float
    up: float
    down: float
    hub_connection: float = float("inf")


@dataclass(slots=True, eq=False)
class _Link:
    capacity: float
    flows: dict[int, Flow] = field(default_factory=dict)
    room: float = 0.0
    count: int = 0


@dataclass(slots=True, eq=False)
class Flow:
    """Bytes on their way. ``marks`` are byte positions whose passing is reported, ascending; the last is the end."""

    flow_id: int
    links: tuple[Hashable, ...]
    marks: list[tuple[int, int]]
    cap: float
    starts_at: float
    rate: float = 0.0
    sent: float = 0.0
    next_mark: int = 0
    stopped: bool = False
    path: tuple[_Link, ...] = ()

    @property
    def done(self) -> bool:
        """All marks are passed."""
        return self.next_mark >= len(self.marks)


class Network:
    """All links and flows.

    Args:
        uplink: rate of a link that all hub traffic shares; None when there is none.

    Attributes:
        changed: something happened since the links were shared among the flows (`next_mark_in` does that).
    """

    def __init__(self, *, uplink: float | None = None) -> None:
        self._links: dict[Hashable, _Link] = {}
        self.flows: dict[int, Flow] = {}
        self.changed = False
        self.uplink = uplink
        if uplink is not None:
            self.set_link("uplink", uplink)

    def add_node(self, spec: NodeSpec) -> None:
        """A node with its three links."""
        self.set_link(("hub", spec.name), spec.hub)
        self.set_link(("up", spec.name), spec.up)
        self.set_link(("down", spec.name), spec.down)

    def set_link(self, key: Hashable, capacity: float) -> None:
        """Sets a link's rate, new or not."""
        if key in self._links:
            self._links[key].capacity = capacity
        else:
            self._links[key] = _Link(capacity)
        self.changed = True

    def scale_link(self, key: Hashable, factor: float) -> None:
        """Multiplies a link's rate."""
        self._links[key].capacity *= factor
        self.changed = True

    def hub_links(self, node: str) -> tuple[Hashable, ...]:
        """The links between the hub and ``node``."""
        return (("hub", node), "uplink") if self.uplink is not None else (("hub", node),)

    def start(self, flow: Flow) -> None:
        """A flow begins; bytes move from its ``starts_at`` on."""
        self.flows[flow.flow_id] = flow
        flow.path = tuple(self._links[key] for key in flow.links)
        for link in flow.path:
            link.flows[flow.flow_id] = flow
        self.changed = True

    def stop(self, flow_id: int) -> Flow | None:
        """A flow ends, at its end or before."""
        flow = self.flows.pop(flow_id, None)
        if flow is not None:
            for link in flow.path:
                link.flows.pop(flow_id, None)
            flow.stopped = True
            self.changed = True
        return flow

    def touch(self) -> None:
        """Something about a flow changed that rates depend on."""
        self.changed = True

    def next_mark_in(self, now: float) -> float:
        """Seconds until the next flow passes a mark or begins, at the present rates; infinite when none will."""
        self._share(now)
        least = float("inf")
        soon = now + 1e-6
        for flow in self.flows.values():
            if flow.starts_at > soon:
                wait = flow.starts_at - now
            elif flow.rate > 0 and flow.next_mark < len(flow.marks):
                wait = (flow.marks[flow.next_mark][0] - flow.sent) / flow.rate
            else:
                continue
            if wait < least:
                least = wait
        return max(0.0, least)

    def advance(self, now: float, seconds: float) -> list[tuple[Flow, list[int]]]:
        """Moves bytes from ``now`` on, at the rates of the last sharing.

        Returns the flows that passed marks, with the marks' labels.
        """
        passed = []
        for flow in self.flows.values():
            span = seconds
            if flow.starts_at > now:
                span -= flow.starts_at - now
                if span >= -1e-6:
                    self.changed = True
            if span <= 0:
                continue
            flow.sent += flow.rate * span
            labels = []
            while flow.next_mark < len(flow.marks) and flow.sent >= flow.marks[flow.next_mark][0] - 1e-6:
                labels.append(flow.marks[flow.next_mark][1])
                flow.next_mark += 1
            if labels:
                passed.append((flow, labels))
        return passed

    def _share(self, now: float) -> None:
        if not self.changed:
            return
        self.changed = False
        soon = now + 1e-6
        opened: list[_Link] = []
        pending: dict[int, Flow] = {}
        capped: list[Flow] = []
        for flow in self.flows.values():
            flow.rate = 0.0
            if flow.starts_at > soon or flow.next_mark >= len(flow.marks):
                continue
            pending[flow.flow_id] = flow
            if flow.cap != float("inf"):
                capped.append(flow)
            for link in flow.path:
                if not link.count:
                    link.room = link.capacity
                    opened.append(link)
                link.count += 1
        capped.sort(key=lambda f: f.cap, reverse=True)
        while pending:
            share = float("inf")
            for link in opened:
                if link.count and link.room / link.count < share:
                    share = link.room / link.count
            if capped and capped[-1].cap <= share:
                while capped and capped[-1].cap <= share:
                    flow = capped.pop()
                    if flow.flow_id in pending:
                        self._fill(flow, flow.cap, pending)
                continue
            limit = share * _TOGETHER
            opened = [link for link in opened if link.count]
            for full in [link for link in opened if link.room / link.count <= limit]:
                for flow in full.flows.values():
                    if flow.flow_id in pending:
                        rate = flow.cap
                        for link in flow.path:
                            rate = min(rate, link.room / link.count)
                        self._fill(flow, rate, pending)

    @staticmethod
    def _fill(flow: Flow, rate: float, pending: dict[int, Flow]) -> None:
        flow.rate = rate = max(0.0, rate)
        del pending[flow.flow_id]
        for link in flow.path:
            link.room = max(0.0, link.room - rate)
            link.count -= 1
