"""What a worker tells its machine of what its store found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock

from exo_dl.core.swarm import Held
from exo_dl.sim.scenarios import model
from exo_dl.store.events import PiecesFound
from exo_dld.worker import Worker


def test_pieces_that_were_dropped_after_they_were_found_are_not_held() -> None:
    """A peer's newer reading of the file came between: the machine would never ask for them, and the pull not end."""
    ports, fed = Mock(), []
    manifest = model(size_bytes=4 << 20, files=1)
    worker = SimpleNamespace(
        _closed=False,
        _manifest=manifest,
        _want=0b1111,
        _ports=ports,
        store=SimpleNamespace(have=0b0110),
        checking=0b1111,
        bytes_held=0,
        feed=fed.append,
    )
    Worker._on_store(cast("Worker", worker), PiecesFound(0b0011))
    assert fed == [Held(0b0010)]
    assert worker.checking == 0b1100
    assert worker.bytes_held == 1 << 20
