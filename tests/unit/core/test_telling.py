"""What nodes tell each other about their progress: as often as ever in a small cluster, no more in a large one."""

from __future__ import annotations

import pytest

from exo_dl.core.telling import PROGRESS_S, Telling


def words_to_all(others: int, seconds: float) -> int:
    telling = Telling()
    return sum(telling.to_all(others, step * PROGRESS_S, at_once=False) for step in range(int(seconds / PROGRESS_S)))


@pytest.mark.parametrize("others", [1, 15, 49])
def test_in_a_small_cluster_every_word_is_for_all(others: int) -> None:
    assert words_to_all(others, 60.0) == 60.0 / PROGRESS_S


@pytest.mark.parametrize("others", [51, 99, 149, 249, 999, 4999])
def test_what_a_node_takes_in_does_not_grow_with_the_cluster(others: int) -> None:
    assert 75 <= others * words_to_all(others, 600.0) / 600.0 <= 150


def test_what_all_must_know_is_told_at_once() -> None:
    telling = Telling()
    assert telling.to_all(1000, 0.0, at_once=False)
    assert not telling.to_all(1000, 1.0, at_once=False)
    assert telling.to_all(1000, 1.1, at_once=True)
    assert not telling.to_all(1000, 9.0, at_once=False)
