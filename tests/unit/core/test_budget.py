from __future__ import annotations

import pytest

from exo_dl.core.budget import HELD_BYTES, transfers_within

MIB = 1 << 20


@pytest.mark.parametrize(("budget", "most"), [(0, 1), (4, 1), (7, 1), (8, 2), (64, 16), (128, 32), (1024, 32)])
def test_as_many_transfers_as_the_budget_has_room_for(budget: int, most: int) -> None:
    """As many from peers as from hubs, one of each at least."""
    assert transfers_within(budget * MIB) == most
    assert 2 * most * HELD_BYTES <= max(budget * MIB, 2 * HELD_BYTES)
