"""What becomes of a transfer whose pieces are dropped while it brings them."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from exo_dl.core import swarm as core
from exo_dl.net.fetch import FetchEvent, JobEnded, PieceDone
from exo_dl.sim.scenarios import model
from exo_dld import transfers
from exo_dld.transfers import Transfers, _Fetch


class SlowStore:
    """A store in which a record takes until it is let go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.done: list[str] = []

    def record(self, piece: int, digest: bytes) -> None:
        self.begun.set()
        assert self.go_on.wait(10)
        self.done.append(f"recorded {piece}")


def test_a_piece_that_is_being_recorded_is_there_to_be_dropped() -> None:
    """Recorded after its file was dropped, it would be of the wrong reading, and the next would fail as well."""
    store: Any = SlowStore()
    fetch = _Fetch(store, (), peer="a", began=0.0)
    recording = threading.Thread(target=fetch.record, args=(3, b""))
    dropping = threading.Thread(target=lambda: (fetch.void(), store.done.append("dropped")))
    recording.start()
    assert store.begun.wait(10)
    dropping.start()
    dropping.join(0.1)
    store.go_on.set()
    for thread in (recording, dropping):
        thread.join(10)
    assert store.done == ["recorded 3", "dropped"]
    with pytest.raises(KeyError):
        fetch.record(4, b"")


class Bench:
    """The transfers of one worker, of which a pool that does nothing reports what a test says."""

    def __init__(self) -> None:
        self.ended: asyncio.Queue[core.SwarmEvent] = asyncio.Queue()
        self.strikes: list[str] = []
        self.counted: list[str] = []
        self.more: list[bool] = []
        self.report: Any = None

        def register(report: Any) -> int:
            self.report = report
            return 1

        extent = SimpleNamespace(fd=-1, offset=0, size=1)
        parts: dict[str, Any] = {
            "store": SimpleNamespace(
                extent=lambda _: extent, abandon=lambda _: None, digest=lambda _: b"", folder="here"
            ),
            "pool": SimpleNamespace(submit=lambda _: None, cancel=lambda _: None),
            "jobs": SimpleNamespace(register=register, unregister=lambda _: None),
            "ports": SimpleNamespace(
                peer_address=lambda _: ("127.0.0.1", 1),
                signer=lambda _: SimpleNamespace(adjust=None),
                dropped=lambda peer, reason: self.counted.append(f"{peer} {reason.value}"),
            ),
            "testimony": SimpleNamespace(digest=lambda *_: bytes(32), broken=self.strikes.append),
        }
        self.transfers = Transfers(
            pull_id="p",
            manifest=model(size_bytes=8 << 20, files=1),
            hub=SimpleNamespace(),  # type: ignore[arg-type]
            feed=self.feed,
            encrypted=False,
            ended=lambda *_: None,
            **parts,
        )
        self.transfers.from_peer(core.FetchFromPeer(1, "b", 0b110, False))

    def feed(self, event: core.SwarmEvent, *, more: bool = False) -> None:
        self.more.append(more)
        self.ended.put_nowait(event)

    def corrupt(self) -> None:
        events: list[FetchEvent] = [JobEnded(1 << 32 | 1, core.FetchResult.CORRUPT, "other bytes", 0.0, 1, 0.1)]
        self.report(events)

    async def result(self) -> core.FetchResult:
        async with asyncio.timeout(10):
            event = await self.ended.get()
        assert isinstance(event, core.FetchEnded)
        return event.result


async def test_wrong_bytes_are_their_senders_fault() -> None:
    bench = Bench()
    bench.corrupt()
    assert await bench.result() is core.FetchResult.CORRUPT
    assert bench.strikes == ["b"]
    assert len(bench.counted) == 1


@pytest.mark.parametrize("first", ["the bytes", "the drop"])
async def test_of_a_file_that_is_dropped_just_then_they_are_not(first: str) -> None:
    """The sender reads the file again, and this node hears of that a moment before or after the new bytes."""
    bench = Bench()
    steps = [bench.corrupt, lambda: bench.transfers.void(0b100)]
    for step in steps if first == "the bytes" else reversed(steps):
        step()
    assert await bench.result() is core.FetchResult.MISSING
    assert not bench.strikes


async def test_a_verdict_holds_up_nobody_who_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_JUDGED_AFTER_S", 3600.0)
    bench = Bench()
    bench.corrupt()
    bench.transfers.cancel(1)
    assert await bench.result() is core.FetchResult.CANCELLED
    assert not bench.strikes
    bench.transfers.from_peer(core.FetchFromPeer(1, "b", 0b1000, False))
    bench.corrupt()
    async with asyncio.timeout(10):
        await bench.transfers.close()


async def test_of_a_batch_only_the_last_event_is_thought_about() -> None:
    """Each thought costs as much as the event; where the last event was none for the machine, the one before is it."""
    bench = Bench()
    bench.transfers.from_peer(core.FetchFromPeer(2, "b", 0b1000, False))
    done = JobEnded(1 << 32 | 1, core.FetchResult.DONE, "", 0.0, 1, 0.1)
    accused = JobEnded(1 << 32 | 2, core.FetchResult.CORRUPT, "other bytes", 0.0, 1, 0.1)
    pieces = [PieceDone(1 << 32 | 1, piece, bytes(32), 1 << 20, 0.0) for piece in (1, 2)]
    bench.report([*pieces, done, accused])
    assert bench.more == [True, False]
    assert isinstance(await bench.ended.get(), core.PiecesArrived)
    assert await bench.result() is core.FetchResult.DONE
