"""A hub that gives wrong bytes once: the file that they are in is read again, nothing else is, and nobody waits."""

from __future__ import annotations

import pytest

from tests.sim.wrong_bytes import cluster_with_a_wrong_piece

SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_with_a_wrong_piece_is_read_again_and_no_other(seed: int) -> None:
    cluster = cluster_with_a_wrong_piece(seed)
    report = cluster.run(until_s=60)
    assert report.complete
    assert [node.error for node in cluster.doubting] == [None] * len(cluster.nodes)
    twice = cluster.wrong_file_bytes
    assert report.hub_bytes <= report.model_bytes + twice + cluster.manifest.piece_bytes(cluster.wrong_piece)
    once_s = report.bound_once_s * (1 + twice / report.model_bytes)
    assert report.seconds <= 3 * once_s + 2, "a node waited until it helped itself"


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_what_a_late_writer_spoilt_is_taken_from_a_peer(seed: int) -> None:
    cluster = cluster_with_a_wrong_piece(seed)
    cluster.was_wrong = True  # the hub is right
    node = cluster.doubting[seed % 2]
    node.spoilt = 1 << cluster.wrong_piece
    report = cluster.run(until_s=60)
    assert report.complete and not node.spoilt
    assert not any(other.readings.to_pb() or other.error for other in cluster.doubting), "no file is doubted"
    assert report.hub_bytes <= report.model_bytes + cluster.manifest.piece_bytes(cluster.wrong_piece)
    assert report.seconds <= 3 * report.bound_once_s + 2
