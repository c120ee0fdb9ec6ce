"""Which offers are of a pull that ended here, and which of the same pull started again."""

from __future__ import annotations

import pytest

from exo_dl.rpc.v1 import pull_pb2
from exo_dld.ended import EndedPulls


@pytest.mark.parametrize(
    ("generation", "started", "late"),
    [(2, 5.0, True), (1, 5.0, True), (3, 5.0, False), (2, 11.0, False), (1, 11.0, False)],
)
def test_an_offer_is_late_where_its_pull_began_before_the_end(generation: int, started: float, late: bool) -> None:
    ended = EndedPulls()
    ended.add(pull_pb2.Pull(pull_id="p"), generation=2, at=10.0)
    assert ended.is_late("p", generation=generation, started=started) is late
    assert not ended.is_late("other", generation=generation, started=started)


def test_a_pull_that_is_open_again_is_not_an_ended_one() -> None:
    ended = EndedPulls()
    ended.add(pull_pb2.Pull(pull_id="p"), generation=2, at=10.0)
    assert (ended.generation("p"), list(ended)) == (2, ["p"])
    ended.reopened("p")
    assert (ended.generation("p"), list(ended)) == (0, [])
    assert not ended.is_late("p", generation=1, started=0.0)


def test_the_last_hundred_are_remembered() -> None:
    ended = EndedPulls()
    for number in range(150):
        ended.add(pull_pb2.Pull(pull_id=str(number)), generation=1, at=float(number))
    assert list(ended) == [str(number) for number in range(50, 150)]
    assert len(ended.values()) == 100
