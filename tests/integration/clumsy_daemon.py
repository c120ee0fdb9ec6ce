"""exo-dld with a defect: its machine is told of the end of each transfer twice."""

from __future__ import annotations

from exo_dl.core.swarm import FetchEnded
from exo_dld.app import main
from exo_dld.transfers import Transfers

_end = Transfers._end


def _end_twice(self: Transfers, fetch_id: int, event: FetchEnded, *, more: bool = False) -> None:
    _end(self, fetch_id, event, more=more)
    self._feed(event, more=more)


if __name__ == "__main__":
    Transfers._end = _end_twice  # type: ignore[method-assign]
    main()
