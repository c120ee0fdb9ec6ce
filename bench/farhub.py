"""A hub that is far away: a proxy on this machine that lets every byte, and every handshake, take its time.

The network emulator of Linux would do it for real, but not every kernel has it, and it needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Self

__all__ = ["FarHub"]

_CHUNK_BYTES = 256 << 10


class FarHub:
    """Passes connections on to a hub with a round-trip time of ``rtt_s``.

    What a client sends on a new connection is held back for one round trip more: so long a handshake would have taken.
    A connection that is opened ahead of its first request has that behind it by then.

    Args:
        port: of the hub on this machine.
        rtt_s: seconds, at least 0.
    """

    def __init__(self, port: int, *, rtt_s: float) -> None:
        self._target = port
        self._rtt_s = rtt_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="far-hub", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self.body_began_s = 0.0
        """When the first byte of a file reached a client (`time.monotonic`); 0 before."""

    @property
    def url(self) -> str:
        """The endpoint for clients."""
        if self._server is None:
            raise RuntimeError("not started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> Self:
        """Starts."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this as one
        established_s = time.monotonic() + self._rtt_s
        hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._open[task] = (writer, hub_writer)
        requests: list[bytes] = []
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, hub_writer, established_s, requests))
                both.create_task(self._pass(hub_reader, writer, 0.0, None, requests))
        except* OSError:
            pass
        finally:
            for each in self._open.pop(task):
                each.close()

    async def _pass(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        not_before_s: float,
        said: list[bytes] | None,
        answers: list[bytes] | None = None,
    ) -> None:
        """One direction. Bytes travel half a round trip; those behind them do not wait for them to arrive."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def receive() -> None:
            while data := await source.read(_CHUNK_BYTES):
                await queue.put((max(time.monotonic(), not_before_s) + self._rtt_s / 2, data))
            await queue.put((time.monotonic() + self._rtt_s / 2, b""))

        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(receive())
            while True:
                due_s, data = await queue.get()
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                if not data:
                    break
                if said is not None:
                    said.append(data)
                elif answers and b"/resolve/" in answers[-1][:2000] and not self.body_began_s:
                    self.body_began_s = time.monotonic()
                target.write(data)
                await target.drain()
            receiving.cancel()
        with contextlib.suppress(OSError):
            target.write_eof()
