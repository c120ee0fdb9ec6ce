"""How links are shared among the flows that cross them: max-min fairness over arrays of flows and links.

Progressive filling (Bertsekas & Gallager, Data Networks, 6.5.2), with all links at once that are the narrowest for
every flow that they carry: these fill before any other link that such a flow crosses, in whatever order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ints", "max_min"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEAR = 0.97


def max_min(capacity: Floats, first: Ints, second: Ints, cap: Floats) -> Floats:
    """The rate of each flow, bytes/s. Links whose parts are within 3 % of each other are filled together.

    Args:
        capacity: of each link, bytes/s.
        first: for each flow, the number of a link that it crosses.
        second: for each flow, that of another; one without an end where it crosses one only.
        cap: the most that each flow can do by itself.
    """
    links, flows = len(capacity), len(cap)
    rates = np.zeros(flows)
    room = capacity.copy()
    left = np.arange(flows)
    count = np.bincount(first, minlength=links) + np.bincount(second, minlength=links)
    level = np.full(links, np.inf)
    while len(left):
        np.divide(room, count, out=level, where=count > 0)
        at_first, at_second = level[first], level[second]
        fair = np.minimum(at_first, at_second)
        # A link is full when none of its flows gets less elsewhere than this link has for it.
        limit = np.minimum(fair, cap)
        wider = np.bincount(first, limit < at_first * _NEAR, links) + np.bincount(
            second, limit < at_second * _NEAR, links
        )
        full = wider == 0
        done = full[first] | full[second] | (cap <= fair)
        rate = limit[done]
        rates[left[done]] = rate
        one, other = first[done], second[done]
        room -= np.bincount(one, rate, links) + np.bincount(other, rate, links)
        np.maximum(room, 0.0, out=room)
        count -= np.bincount(one, minlength=links) + np.bincount(other, minlength=links)
        rest = ~done
        left, first, second, cap = left[rest], first[rest], second[rest], cap[rest]
    return rates
