"""What a node says of itself, and the rates that it remembers over pulls and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from exo_dl.store.library import Library
from exo_dld.session import Session
from exo_dld.status import Status
from exo_dld.view import NodeView, PullView

MB = 1e6


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path / "state" / "state.db")
    yield made
    made.close()


def pull_with(*, hub: float = 0.0, peers: float = 0.0, mine: bool = True) -> Session:
    """A pull, as far as it is asked: what it measured at best on this node, named "me"."""
    view = PullView("p", "org/name", "main", "c" * 40, "hf", 1, 100, 0.0)
    view.nodes = {"me": NodeView("me", "me", hub_peak_bytes_per_s=hub, peer_peak_bytes_per_s=peers)}
    worker = SimpleNamespace(
        swarm=SimpleNamespace(hub_bytes_per_s=hub, peer_bytes_per_s=peers), bytes_done=30, bytes_wanted=120
    )
    spec = SimpleNamespace(pull_id="p")
    return cast("Session", SimpleNamespace(me="me", view=view, worker=worker if mine else None, spec=spec))


def rates(status: Status) -> tuple[float, float]:
    beat = status.beat()
    return beat.hub_bytes_per_s, beat.lan_bytes_per_s


def test_what_a_pull_measured_is_there_after_a_restart(tmp_path: Path, library: Library) -> None:
    Status(tmp_path, library).remember(pull_with(hub=40 * MB, peers=100 * MB))
    library.close()
    again = Library(tmp_path / "state" / "state.db")
    try:
        status = Status(tmp_path, again)
        assert status.hub_bytes_per_s == 40 * MB
        assert rates(status) == (40 * MB, 100 * MB)
    finally:
        again.close()


def test_one_pull_moves_what_is_remembered_by_a_part(tmp_path: Path, library: Library) -> None:
    status = Status(tmp_path, library)
    status.remember(pull_with(hub=10 * MB, peers=50 * MB))
    status.remember(pull_with(hub=20 * MB))
    for now in (status, Status(tmp_path, library)):
        assert rates(now) == (pytest.approx(13 * MB), 50 * MB), "what a pull did not use stays as it was"
    for _ in range(20):
        status.remember(pull_with(hub=20 * MB))
    assert status.hub_bytes_per_s == pytest.approx(20 * MB, rel=0.01)


def test_a_pull_that_moved_nothing_here_leaves_no_trace(tmp_path: Path, library: Library) -> None:
    status = Status(tmp_path, library)
    status.remember(pull_with())
    status.remember(pull_with(hub=5 * MB, mine=False))
    missing = pull_with(hub=5 * MB)
    missing.view.nodes.clear()
    status.remember(missing)
    assert rates(status) == rates(Status(tmp_path, library)) == (0.0, 0.0)


@pytest.mark.parametrize("stored", ["", "fast", "-3", "nan", "inf", "-inf", "1e400", "1e13", "0x10", "9" * 5000])
def test_a_stored_value_that_is_no_rate_counts_as_none(tmp_path: Path, library: Library, stored: str) -> None:
    library.put("hub_bytes_per_s", stored)
    library.put("lan_bytes_per_s", str(7 * MB))
    status = Status(tmp_path, library)
    assert rates(status) == (0.0, 7 * MB)
    status.remember(pull_with(hub=20 * MB))
    assert Status(tmp_path, library).hub_bytes_per_s == 20 * MB, "the first that is measured takes its place at once"


def test_while_pulls_run_their_rates_are_told(tmp_path: Path, library: Library) -> None:
    status = Status(tmp_path, library)
    status.remember(pull_with(hub=40 * MB, peers=100 * MB))
    assert status.beat().activity == "idle"
    running = [pull_with(hub=1 * MB), pull_with(hub=2 * MB), pull_with(hub=9 * MB, mine=False)]
    status.follow(lambda: running)
    assert rates(status) == (3 * MB, 100 * MB)
    beat = status.beat()
    assert list(beat.pull_ids) == ["p", "p", "p"]
    assert beat.activity == "pulling org/name 25 %, pulling org/name 25 %, coordinating org/name"
    assert 0 < beat.memory_available_bytes <= beat.memory_total_bytes


def test_the_free_space_of_a_folder_that_is_not_there_yet_is_its_disk_s(tmp_path: Path, library: Library) -> None:
    here, later = (Status(path, library).beat().disk_free_bytes for path in (tmp_path, tmp_path / "hub" / "models"))
    assert here > 0 and later == pytest.approx(here, rel=0.1)
