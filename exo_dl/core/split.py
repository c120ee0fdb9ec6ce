"""Dividing a row of layers (or experts) over nodes: who gets which contiguous run.

Each node's target is the part of all bytes that its memory is of all memory, and at least one average layer. Of all
ways to cut the row, with every node within one layer of its target, the one is taken that (1) overflows no node's room,
or by the least, (2) moves the least bytes to nodes that lack them, (3) is nearest to the targets by least squares,
which for equal layers is the method of largest remainders. All arithmetic is in integers, so that every node of a
cluster finds the same split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from exo_dl.errors import PlacementError

__all__ = ["EXACT_ORDERS", "Claim", "Cut", "split", "targets"]

# Up to so many nodes every order of them is looked at. Above it those that stay keep their order, and those that join
# come in theirs, at whatever places are best.
EXACT_ORDERS = 8


@dataclass(frozen=True, slots=True)
class Claim:
    """A node in a split.

    Attributes:
        node: its id.
        weight: its part is in proportion to this; 0 or more.
        room: bytes that it can hold.
        held: the run of layers that it has had, (first, end); None for a node that joins.
    """

    node: str
    weight: int
    room: int
    held: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """The run of layers ``first <= i < end`` that a node gets."""

    node: str
    first: int
    end: int


def targets(weights: Sequence[int], total: int, count: int) -> tuple[list[int], int]:
    """The bytes that each node is to have, as integers over one common divisor.

    In proportion to the weights, but no less than an average layer for any: what that takes is taken from the others in
    proportion.

    Args:
        weights: of the nodes.
        total: bytes of all layers.
        count: number of layers, at least as many as nodes.

    Returns:
        The targets times the divisor, and the divisor; the targets sum up to ``total``.
    """
    least = set[int]()
    while True:
        rest = [index for index in range(len(weights)) if index not in least]
        weight = sum(weights[index] for index in rest)
        left = count - len(least)  # average layers that are not yet given away
        low = [index for index in rest if weights[index] * left < weight] if weight else []
        if not low:
            break
        least |= set(low)
    # A common divisor of all parts, also where the rest weigh nothing and have equal parts.
    scale = count * max(weight, 1) * len(rest)
    found = [total * max(weight, 1) * len(rest)] * len(weights)
    for index in rest:
        found[index] = total * left * (weights[index] * len(rest) if weight else 1)
    return found, scale


def split(
    sizes: Sequence[int], claims: Sequence[Claim], *, head: int = 0, tail: int = 0, any_order: bool = False
) -> list[Cut]:
    """Cuts a row of layers into one run for each node.

    Args:
        sizes: bytes of each layer, in order.
        claims: the nodes, in the order in which they stand along the row.
        head: further bytes that the node with the first layer holds.
        tail: further bytes that the node with the last layer holds.
        any_order: the nodes may change places where that moves less.

    Returns:
        The runs, in the order of the row; together they are the whole row.

    Raises:
        PlacementError: there are more nodes than layers, or no nodes.
    """
    if not claims or len(claims) > len(sizes):
        raise PlacementError(f"{len(sizes)} layers cannot be divided over {len(claims)} nodes.")
    chains = [[claim] for claim in claims] if any_order else [list(claims)]
    if any_order and len(claims) > EXACT_ORDERS:
        stay = sorted((c for c in claims if c.held is not None), key=lambda c: c.held or (0, 0))
        chains = [chain for chain in (stay, [c for c in claims if c.held is None]) if chain]
    aims, scale = targets([claim.weight for claim in claims], sum(sizes), len(sizes))
    aim_of = {claim.node: aim for claim, aim in zip(claims, aims, strict=True)}
    tolerance = max(max(sizes), 1)
    while True:
        row = _Row(sizes, chains, aim_of, scale, head, tail, tolerance * scale)
        if (cuts := row.best()) is not None:
            return cuts
        tolerance *= 2  # layers of very different sizes may leave no way within one layer


_Cost = tuple[int, int, int]
_State = tuple[tuple[int, ...], int]  # how many of each chain have their run, and where the next run begins


class _Row:
    """One search, by dynamic programming over who has had a run and where the next one begins."""

    def __init__(
        self,
        sizes: Sequence[int],
        chains: list[list[Claim]],
        aims: dict[str, int],
        scale: int,
        head: int,
        tail: int,
        tolerance: int,
    ) -> None:
        self._at = [0, *accumulate(sizes)]
        self._count = len(sizes)
        self._chains = chains
        self._nodes = sum(map(len, chains))
        self._aims = aims
        self._scale = scale
        self._head = head
        self._tail = tail
        self._tolerance = tolerance

    def _cost(self, claim: Claim, first: int, end: int) -> _Cost:
        size = self._at[end] - self._at[first]
        extra = (self._head if first == 0 else 0) + (self._tail if end == self._count else 0)
        moved = 0
        if claim.held is not None:
            low, high = max(first, claim.held[0]), min(end, claim.held[1])
            moved = size - (self._at[high] - self._at[low] if low < high else 0)
            moved += self._head if first == 0 and claim.held[0] > 0 else 0
            moved += self._tail if end == self._count and claim.held[1] < self._count else 0
        else:
            moved = size + extra
        return max(0, size + extra - claim.room), moved, (size * self._scale - self._aims[claim.node]) ** 2

    def _ends(self, claim: Claim, first: int, left: int) -> range:
        """Where a run that begins at ``first`` may end, with ``left`` nodes after it."""
        if left == 0:
            size = (self._at[-1] - self._at[first]) * self._scale
            fits = abs(size - self._aims[claim.node]) <= self._tolerance
            return range(self._count, self._count + 1) if fits else range(0)
        low, high = first + 1, self._count - left
        while (
            low <= high and (self._at[low] - self._at[first]) * self._scale < self._aims[claim.node] - self._tolerance
        ):
            low += 1
        end = low
        while (
            end <= high and (self._at[end] - self._at[first]) * self._scale <= self._aims[claim.node] + self._tolerance
        ):
            end += 1
        return range(low, end)

    def best(self) -> list[Cut] | None:
        """The best way; None when there is none within the tolerance."""
        start: _State = ((0,) * len(self._chains), 0)
        level: dict[_State, tuple[_Cost, tuple[Cut, ...]]] = {start: ((0, 0, 0), ())}
        for left in range(self._nodes - 1, -1, -1):
            following: dict[_State, tuple[_Cost, tuple[Cut, ...]]] = {}
            for (taken, first), (cost, cuts) in level.items():
                for index, chain in enumerate(self._chains):
                    if taken[index] == len(chain):
                        continue
                    claim = chain[taken[index]]
                    after = (*taken[:index], taken[index] + 1, *taken[index + 1 :])
                    for end in reversed(self._ends(claim, first, left)):
                        more = self._cost(claim, first, end)
                        whole = (cost[0] + more[0], cost[1] + more[1], cost[2] + more[2])
                        known = following.get((after, end))
                        if known is None or whole < known[0]:
                            following[after, end] = whole, (*cuts, Cut(claim.node, first, end))
            level = following
        ways = list(level.values())
        return list(min(ways, key=lambda way: way[0])[1]) if ways else None
