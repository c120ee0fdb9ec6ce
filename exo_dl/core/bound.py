"""The least time in which a network can carry out a pull.

A fluid model (Kumar & Ross 2006; Mundinger, Weber & Weiss 2008): node i wants n_i bytes; the union of wants is U; i
reads from the hub at w_i (all nodes together at most W), sends at u_i and receives at d_i on the LAN, and writes at its
disk's rate. Between two stations of one Wi-Fi access point a byte takes the air twice: there the bound is too kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["NodeRates", "least_time", "least_time_read_once"]


@dataclass(frozen=True, slots=True)
class NodeRates:
    """What a node can do, bytes/s: read from the hub, send and receive on the LAN, write to its disk."""

    hub: float
    up: float
    down: float
    disk: float = math.inf


def _over(amount: float, rate: float) -> float:
    if amount <= 0:
        return 0.0
    return amount / rate if rate > 0 else math.inf


def least_time(
    *, union_bytes: int, wants: Mapping[str, int], rates: Mapping[str, NodeRates], uplink: float | None = None
) -> float:
    """Seconds below which no schedule can end, where nodes may read the same bytes from the hub twice.

    Args:
        union_bytes: bytes that at least one node wants and none holds.
        wants: bytes that each node is still to get.
        rates: the nodes' rates; nodes that want nothing may help.
        uplink: rate of a link to the hub that all nodes share; None when each has its own.
    """
    hub = sum(r.hub for r in rates.values())
    if uplink is not None:
        hub = min(hub, uplink)
    least = _over(union_bytes, hub)
    least = max(least, _over(sum(wants.values()), hub + sum(r.up for r in rates.values())))
    for node, want in wants.items():
        rate = rates[node]
        least = max(least, _over(want, rate.hub + rate.down), _over(want, rate.disk))
    return least


def least_time_read_once(
    *, union_bytes: int, wants: Mapping[str, int], rates: Mapping[str, NodeRates], uplink: float | None = None
) -> float:
    """As `least_time`, where each byte is read from the hub once: the rest must come over the LAN.

    In a time T node i reads x_i <= w_i T from the hub and receives at most d_i T, so x_i >= n_i - d_i T; the x_i sum up
    to U; and what they did not read themselves, sum n_i - U, passes their LAN links upwards.
    """
    least = least_time(union_bytes=union_bytes, wants=wants, rates=rates, uplink=uplink)
    ups = sum(r.up for r in rates.values())
    least = max(least, _over(sum(wants.values()) - union_bytes, ups))
    if not math.isfinite(least):
        return least

    def possible(seconds: float) -> bool:
        return sum(max(0.0, want - rates[node].down * seconds) for node, want in wants.items()) <= union_bytes

    if possible(least):
        return least
    low, high = least, least
    while not possible(high):
        low, high = high, max(high * 2, 1e-3)
        if high > 1e12:
            return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high
