"""How a limit on all hub traffic of a cluster is divided over its nodes.

One node divides (the one with the smallest id), about once a second, by what each node used and whether its share held
it back. What is divided is the limit and nothing above it, at every moment: a share grows only by what others have
given up before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ShareUse", "fair_shares", "next_shares"]

# A node that is not held back may grow by this factor before the next division. What it does not use it loses by and
# by, because news of it may be a second old, and down to this part of an equal share, so that it can begin again.
_HEADROOM = 1.5
_DECAY = 0.5
_FLOOR_PART = 0.05


@dataclass(frozen=True, slots=True)
class ShareUse:
    """One node in the last second.

    Attributes:
        bytes_per_s: what it read from the hub.
        held_back: its share kept it from reading more.
        share: the share that it may still be using, bytes/s.
    """

    bytes_per_s: float = 0.0
    held_back: bool = False
    share: float = 0.0


def fair_shares(limit: float, uses: Mapping[str, ShareUse]) -> dict[str, float]:
    """Divides ``limit`` by what the nodes can use (max-min fairness).

    A node that was not held back is given what it used and some headroom; what is left goes in equal parts to those
    that were held back. Where all are content the rest is spread evenly, so that a node that begins has something to
    begin with.

    Args:
        limit: bytes/s for all together.
        uses: the nodes.

    Returns:
        A share for each node; their sum is ``limit`` and never above it.
    """
    if not uses:
        return {}
    limit = limit if limit >= 1 else 0.0
    equal = limit / len(uses)
    wishes = {
        node: limit if use.held_back else max(use.bytes_per_s * _HEADROOM, use.share * _DECAY, equal * _FLOOR_PART)
        for node, use in uses.items()
    }
    shares: dict[str, float] = {}
    left = limit
    for count, node in zip(range(len(wishes), 0, -1), sorted(wishes, key=wishes.__getitem__), strict=True):
        # The smallest wish first: what it leaves of an equal part is there for the others.
        shares[node] = min(wishes[node], left / count)
        left = max(0.0, left - shares[node])
    rest = left / len(shares)
    return _within(limit, {node: share + rest for node, share in shares.items()})


def next_shares(limit: float, uses: Mapping[str, ShareUse], *, reserved: float = 0.0) -> dict[str, float]:
    """The shares for the next second, on the way to the fair ones.

    A node that is to have less has less at once; a node that is to have more gets no more than what nobody may be using
    now. So the sum of what nodes use stays within the limit whatever the order in which they hear of it.

    Args:
        limit: bytes/s for all together.
        uses: the nodes, with the share that each may still be using.
        reserved: what nodes that cannot be asked now may still be using.
    """
    limit = max(0.0, limit - max(0.0, reserved))
    aims = fair_shares(limit, uses)
    room = limit - sum(use.share for use in uses.values())
    wanted = sum(max(0.0, aims[node] - use.share) for node, use in uses.items())
    part = min(1.0, max(0.0, room) / wanted) if wanted > 0 else 0.0
    shares = {node: min(aims[node], use.share) + max(0.0, aims[node] - use.share) * part for node, use in uses.items()}
    return _within(limit, shares)


def _within(limit: float, shares: dict[str, float]) -> dict[str, float]:
    """Takes off what rounding put on top of the limit."""
    while (total := sum(shares.values())) > limit:
        scale = min(limit / total, 1.0 - 1e-15)
        shares = {node: share * scale for node, share in shares.items()}
    return shares
