"""A simulated network: flows of bytes that share links max-min fairly, as fluid.

Every node has a link to the hub and an up and a down link on the LAN; the links to the hub may share an uplink. A flow
crosses one or two of them (`exo_dl.sim.sharing` says at which rate). What is asked of all flows at every step is kept
in arrays, in which each flow has one place while it lasts.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from exo_dl.sim.sharing import max_min

__all__ = ["Flow", "Network", "NodeSpec"]

_SOON_S = 1e-6
_NEAR_BYTES = 1e-6
_MORE_PLACES = 64


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node's rates in bytes/s; a connection to the hub gets at most ``hub_connection``."""

    name: str
    hub: float
    up: float
    down: float
    hub_connection: float = float("inf")


@dataclass(slots=True, eq=False)
class Flow:
    """Bytes on their way. ``marks`` are byte positions whose passing is reported, ascending; the last is the end.

    ``rate`` and ``sent`` are those of the last `Network.look`.
    """

    links: tuple[Hashable, ...]
    marks: list[tuple[int, int]]
    cap: float
    starts_at: float
    rate: float = 0.0
    sent: float = 0.0
    next_mark: int = 0
    place: int = -1

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
        self._numbers: dict[Hashable, int] = {}
        self._capacity = np.full(1, np.inf)  # the first one has no end: flows that cross one link cross that as well
        self._flows: list[Flow | None] = []
        self._free: list[int] = []
        self._links = np.zeros((2, 0), np.int64)
        self._cap = self._starts_at = self._rate = self._sent = self._mark = np.zeros(0)
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
        if key not in self._numbers:
            self._numbers[key] = len(self._capacity)
            self._capacity = np.append(self._capacity, capacity)
        self._capacity[self._numbers[key]] = capacity
        self.changed = True

    def scale_link(self, key: Hashable, factor: float) -> None:
        """Multiplies a link's rate."""
        self.set_link(key, float(self._capacity[self._numbers[key]]) * factor)

    def hub_links(self, node: str) -> tuple[Hashable, ...]:
        """The links between the hub and ``node``."""
        return (("hub", node), "uplink") if self.uplink is not None else (("hub", node),)

    def start(self, flow: Flow) -> None:
        """A flow begins; bytes move from its ``starts_at`` on."""
        if not self._free:
            self._grow()
        at = flow.place = self._free.pop()
        self._flows[at] = flow
        first, *second = (self._numbers[key] for key in flow.links)
        self._links[0, at], self._links[1, at] = first, second[0] if second else 0
        self._cap[at], self._starts_at[at] = flow.cap, flow.starts_at
        self._mark[at] = flow.marks[0][0]
        self.changed = True

    def _grow(self) -> None:
        count = max(_MORE_PLACES, len(self._flows))
        self._free += range(len(self._flows) + count - 1, len(self._flows) - 1, -1)
        self._flows += [None] * count
        self._links = np.append(self._links, np.zeros((2, count), np.int64), axis=1)
        nothing, never = np.zeros(count), np.full(count, np.inf)
        self._cap, self._starts_at = np.append(self._cap, never), np.append(self._starts_at, never)
        self._rate, self._sent = np.append(self._rate, nothing), np.append(self._sent, nothing)
        self._mark = np.append(self._mark, never)

    def stop(self, flow: Flow) -> None:
        """A flow ends, at its end or before; nothing where it has ended."""
        if flow.place < 0:
            return
        self.look(flow)
        at, flow.place = flow.place, -1
        self._flows[at] = None
        self._free.append(at)
        self._starts_at[at] = self._mark[at] = np.inf
        self._rate[at] = self._sent[at] = 0.0
        self.changed = True

    def hold(self, flow: Flow) -> None:
        """A flow's bytes move no more, though it has not ended."""
        flow.starts_at = float("inf")
        if flow.place >= 0:
            self._starts_at[flow.place] = np.inf
            self._rate[flow.place] = 0.0
            self.changed = True

    def look(self, flow: Flow) -> None:
        """Sets a flow's ``rate`` and ``sent``."""
        if flow.place >= 0:
            flow.rate, flow.sent = float(self._rate[flow.place]), float(self._sent[flow.place])

    def next_mark_in(self, now: float) -> float:
        """Seconds until the next flow passes a mark or begins, at the present rates; infinite when none will."""
        self._share(now)
        moving = self._rate > 0
        passing = (self._mark[moving] - self._sent[moving]) / self._rate[moving]
        starting = self._starts_at[self._starts_at > now + _SOON_S] - now
        return max(0.0, min(float(passing.min(initial=np.inf)), float(starting.min(initial=np.inf))))

    def advance(self, now: float, seconds: float) -> list[tuple[Flow, list[int]]]:
        """Moves bytes from ``now`` on, at the rates of the last sharing.

        Returns the flows that passed marks, with the marks' labels.
        """
        waits = self._starts_at - now
        if np.any((waits > 0) & (waits <= seconds + _SOON_S)):
            self.changed = True
        self._sent += self._rate * seconds
        passed = []
        for at in np.flatnonzero(self._sent >= self._mark - _NEAR_BYTES).tolist():
            flow = self._flows[at]
            assert flow is not None  # noqa: S101 - a free place has no mark
            sent, labels = self._sent[at] + _NEAR_BYTES, []
            while not flow.done and sent >= flow.marks[flow.next_mark][0]:
                labels.append(flow.marks[flow.next_mark][1])
                flow.next_mark += 1
            if labels:
                passed.append((flow, labels))
            if flow.done:
                self._mark[at], self._rate[at] = np.inf, 0.0
                self.changed = True
            else:
                self._mark[at] = flow.marks[flow.next_mark][0]
        return passed

    def _share(self, now: float) -> None:
        if not self.changed:
            return
        self.changed = False
        self._rate[:] = 0.0
        active = np.flatnonzero((self._starts_at <= now + _SOON_S) & (self._mark < np.inf))
        first, second = self._links[:, active]
        self._rate[active] = max_min(self._capacity, first, second, self._cap[active])
