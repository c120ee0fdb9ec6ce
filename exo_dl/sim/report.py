"""What a simulated pull came to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from exo_dl.core.bound import NodeRates, least_time, least_time_read_once
from exo_dl.core.manifest import Manifest
from exo_dl.sim.node import SimNode

__all__ = ["Report", "report_of"]


@dataclass(slots=True)
class Report:
    """What a run came to. Times in simulated seconds; ``hub_ratio`` is bytes sent by the hub per byte of the model.

    ``peak_buffer_bytes`` is the most that the buffers of one node took at once.
    ``coordinator_cpu_s`` is real: what this machine took for all that lease tables decided.
    """

    seconds: float
    bound_s: float
    bound_once_s: float
    model_bytes: int
    hub_bytes: float
    hub_requests: int
    messages: int
    announcements: int
    peer_requests: int
    refused: int
    complete: bool
    peak_buffer_bytes: int = 0
    coordinator_cpu_s: float = field(default=0.0, compare=False)
    faults: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Time over the least time, where bytes may be read from the hub twice."""
        return self.seconds / self.bound_s if self.bound_s else 1.0

    @property
    def ratio_once(self) -> float:
        """Time over the least time, where each byte is read from the hub once."""
        return self.seconds / self.bound_once_s if self.bound_once_s else 1.0

    @property
    def hub_ratio(self) -> float:
        """Bytes that the hub sent, by the size of the model."""
        return self.hub_bytes / self.model_bytes if self.model_bytes else 0.0


def report_of(
    nodes: Collection[SimNode], manifest: Manifest, *, uplink: float | None, now: float, complete: bool
) -> Report:
    """The figures so far.

    Args:
        nodes: all, dead ones too.
        manifest: what is pulled.
        uplink: rate of a link that all hub traffic shares, bytes/s; None when there is none.
        now: the world's second.
        complete: whether every live node has what it wants.
    """
    live = [n for n in nodes if n.alive]
    rates = {n.name: NodeRates(n.spec.hub if n.hub_ok else 0.0, n.spec.up, n.spec.down) for n in nodes}
    held = 0
    union = 0
    for node in nodes:
        held |= node.initially
        union |= node.want
    wants = {n.name: manifest.set_bytes(n.want & ~n.initially) for n in live}
    union_bytes = manifest.set_bytes(union & ~held)
    bound = least_time(union_bytes=union_bytes, wants=wants, rates=rates, uplink=uplink)
    once = least_time_read_once(union_bytes=union_bytes, wants=wants, rates=rates, uplink=uplink)
    return Report(
        seconds=now,
        bound_s=bound,
        bound_once_s=once,
        model_bytes=manifest.total_bytes,
        hub_bytes=sum(n.count.hub_bytes for n in nodes),
        hub_requests=sum(n.count.hub_requests for n in nodes),
        messages=sum(n.count.messages for n in nodes),
        announcements=sum(n.count.announcements for n in nodes),
        peer_requests=sum(n.count.peer_requests for n in nodes),
        refused=sum(n.count.refused for n in nodes),
        complete=complete,
        peak_buffer_bytes=max((n.wire.buffers.peak_bytes for n in nodes), default=0),
        coordinator_cpu_s=sum(n.count.coordinator_cpu_s for n in nodes),
        faults=[f"{n.name}: {line}" for n in nodes for line in n.count.faults],
    )
