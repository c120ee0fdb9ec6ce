from __future__ import annotations

from exo_dl.core.budget import HELD_BYTES
from exo_dl.sim.buffers import BUDGET_BYTES, Buffers
from exo_dld.memory import budget_bytes


def test_a_node_without_a_budget_has_the_least_of_a_daemons() -> None:
    assert budget_bytes(lambda: 0) == BUDGET_BYTES


def test_transfers_from_peers_begin_in_order_as_threads_become_free() -> None:
    buffers, begun = Buffers(4 * HELD_BYTES), list[int]()
    for fetch_id in range(5):
        buffers.from_peer(fetch_id, lambda fetch_id=fetch_id: begun.append(fetch_id))  # type: ignore[misc]
    assert begun == [0, 1]
    buffers.end(3)  # cancelled while it waits
    buffers.end(1)
    assert begun == [0, 1, 2]
    buffers.end(0)
    assert begun == [0, 1, 2, 4] and not buffers.holds(3)
    assert buffers.peak_bytes == 2 * HELD_BYTES


def test_one_transfer_from_the_hub_too_many_is_refused() -> None:
    buffers = Buffers(4 * HELD_BYTES)
    assert [buffers.from_hub(fetch_id) for fetch_id in range(3)] == [True, True, False]
    buffers.end(0)
    assert buffers.from_hub(3)
    buffers.drop()
    assert not buffers.holds(3) and buffers.peak_bytes == 2 * HELD_BYTES
