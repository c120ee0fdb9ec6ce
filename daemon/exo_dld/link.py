"""One link between two nodes: a bidirectional stream of messages with bounded queues and a watch on silence.

Rules: the first message in each direction is a Hello. Nothing here waits for a peer without a limit: what it does not
read within `drain_s` or says nothing for `silence_s` ends the link, and so does a full queue (a message that was
dropped would leave the two sides with different views; a new link starts from whole maps).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from exo_dl.errors import ProtocolError
from exo_dl.net.addresses import split_host_port
from exo_dl.net.identity import is_node_id
from exo_dl.rpc.v1.swarm_pb2 import Beat, Goodbye, Hello, LinkMessage
from exo_dld.dropped import Reason
from exo_dld.streams import MOST_TOGETHER, Stream, StreamBrokenError

__all__ = [
    "GRPC_OPTIONS",
    "MAX_ADDRESSES",
    "MAX_MESSAGE_BYTES",
    "PROTOCOL",
    "Link",
    "OtherProtocolError",
    "Timing",
    "check_hello",
]

PROTOCOL = 2
MAX_MESSAGE_BYTES = 32 << 20
MAX_ADDRESSES = 16
_MAX_HELLO_BYTES = 8192
# A peer that says more than this is heard more slowly, so that the loop has time for the others: 4 times what an honest
# node says in the busiest second, and whole maps at once.
_MESSAGES_PER_S = 4_000.0
_MESSAGES_AT_ONCE = 8_000.0
_MAX_NAME_CHARS = 64
# A gRPC message takes 1.3 ms of CPU at both ends together, whatever is in it: what can wait goes together.
_PATIENCE_S = {"lease_progress": 0.1, "beat": 0.5}
_BYTES_TOGETHER = 256 << 10
_LISTEN_AGAIN_S = 0.01

GRPC_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # A path that died silently is noticed by beats first; this is for connections without a link.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # Links are for the local network; and each dial is an attempt of its own, not one behind a shared back-off.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # Nobody compresses here: a few bytes that unpack to gigabytes are refused unread.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Two daemons must never share one port by accident.
    ("grpc.so_reuseport", 0),
)
"""For the daemon's gRPC server and for every channel between nodes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times in seconds, and limits, of links. Only tests give other values."""

    beat_s: float = 1.0
    silence_s: float = 4.0
    drain_s: float = 10.0
    handshake_s: float = 5.0
    dial_s: float = 3.0
    redial_min_s: float = 0.2
    redial_max_s: float = 5.0
    # A peer that dials while the link that we dialled is younger than this raced with us; later it has lost the link.
    race_s: float = 3.0
    # A peer that broke the protocol is not linked again for this long, four times as long each time.
    bar_s: float = 2.0
    bar_max_s: float = 45.0
    # How long a peer that was lost (and is not a static one) is still shown and dialled.
    forget_s: float = 60.0
    queue_messages: int = 16_384
    queue_bytes: int = 64 << 20


class OtherProtocolError(ProtocolError):
    """A Hello of another version of the protocol."""


def check_hello(message: LinkMessage | None, *, expected_id: str) -> Hello:
    """The Hello in a stream's first message, held to its bounds.

    Args:
        message: what came first; None where the stream ended.
        expected_id: the node id in the peer's certificate.

    Raises:
        ProtocolError: it is no Hello that may be trusted; the text says what is wrong.
    """
    if message is None or message.WhichOneof("body") != "hello":
        raise ProtocolError("The first message of a link must be a Hello.")
    hello = message.hello
    if hello.ByteSize() > _MAX_HELLO_BYTES:
        raise ProtocolError(f"A Hello may have {_MAX_HELLO_BYTES} bytes; this one has {hello.ByteSize()}.")
    if hello.protocol != PROTOCOL:
        raise OtherProtocolError(
            f"It speaks protocol {hello.protocol}, this daemon speaks {PROTOCOL}.",
            hint="Use the same version of exo-dl on all machines.",
        )
    if not is_node_id(hello.node_id) or hello.node_id != expected_id:
        raise ProtocolError(f"It says that it is node {hello.node_id[:32]!r}, but its certificate is {expected_id}'s.")
    if not all(0 < len(text) <= _MAX_NAME_CHARS and text.isprintable() for text in (hello.name, hello.version)):
        raise ProtocolError(f"A name and a version have 1 to {_MAX_NAME_CHARS} printable characters.")
    if not (1 <= hello.grpc_port <= 65535 and 1 <= hello.piece_port <= 65535):
        raise ProtocolError("A port is a number from 1 to 65535.")
    if len(hello.addresses) > MAX_ADDRESSES:
        raise ProtocolError(f"A node may tell {MAX_ADDRESSES} addresses; this one tells {len(hello.addresses)}.")
    for address in hello.addresses:
        try:
            split_host_port(address)
        except ValueError:
            raise ProtocolError(f"{address[:64]!r} is no address.") from None
    return hello


def _patience_s(message: LinkMessage) -> float:
    """How long it can wait for company: a moment where it is news of what changes all the time.

    Progress of nodes cannot: all are told at one moment, and a node that dies in the next one is seen alike by all.
    """
    return _PATIENCE_S.get(message.WhichOneof("body") or "", 0.0)


class Link:
    """A link after its handshake. Lives on one event loop.

    Args:
        stream: the transport.
        hello: what the peer said of itself, checked.
        dialed: True where this node opened the connection.
        host: the peer's address at the other end.
        timing: limits.
        dropped: told of each message that is not heeded, or heeded late because there are too many.
        first: a message that goes out before all others.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        hello: Hello,
        dialed: bool,
        host: str,
        timing: Timing,
        dropped: Callable[[Reason], object],
        first: LinkMessage | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._timing = timing
        self._dropped = dropped
        self._queue: deque[tuple[LinkMessage, int]] = deque()
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._patience: asyncio.TimerHandle | None = None
        self._listening: asyncio.TimerHandle | None = None
        self._asked = False  # a lease was cut: somebody waits for what is left of it
        self._closed = asyncio.Event()
        self._reason = ""
        self.hello = hello
        self.dialed = dialed
        self.host = host
        self.left = False
        self.offended = False
        self.opened_at = self.last_heard = self._drained_at = self._loop.time()
        if first is not None:
            self.send(first)

    @property
    def peer_id(self) -> str:
        """The peer's node id, proven by its certificate."""
        return self.hello.node_id

    @property
    def closed(self) -> bool:
        """Whether the link has ended, or is about to."""
        return self._closed.is_set()

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages that wait to be sent."""
        return self._queue_bytes

    def send(self, message: LinkMessage) -> bool:
        """Queues a message; False where the link has ended. A full queue ends it. Never blocks.

        What can wait goes with the next message that cannot, or after a moment.
        """
        if self._closed.is_set():
            return False
        size = message.ByteSize()
        if size > MAX_MESSAGE_BYTES - 64:
            raise ProtocolError(f"A message of {size} bytes is too large for a link.")
        if len(self._queue) >= self._timing.queue_messages or self._queue_bytes + size > self._timing.queue_bytes:
            self.close("It does not read what it is sent (queue full).")
            return False
        if not self._queue:
            self._drained_at = self._loop.time()
        self._queue.append((message, size))
        self._queue_bytes += size
        patience_s = _patience_s(message)
        if not patience_s or (self._asked and message.WhichOneof("body") == "lease_progress"):
            self._asked = False
            self._wake.set()
        elif self._patience is None or self._patience.when() > self._loop.time() + patience_s:
            self._rest()
            self._patience = self._loop.call_later(patience_s, self._wake.set)
        return True

    def beat(self, beat: Beat) -> None:
        """Sends a Beat, unless so much waits already that the peer hears of us anyway."""
        if len(self._queue) < self._timing.queue_messages // 2:
            self.send(LinkMessage(beat=beat))

    def check(self, now: float) -> None:
        """Ends the link when the peer was silent, or did not read, for too long. `now` is the loop's time."""
        if now - self.last_heard > self._timing.silence_s:
            self.close(f"Nothing was heard of it for {self._timing.silence_s:g} s.")
        elif self._queue and now - self._drained_at > self._timing.drain_s:
            self.close(f"It did not read what it was sent for {self._timing.drain_s:g} s.")

    def _listen(self, seconds: float) -> None:
        """Looks after this time whether the peer is silent for too long; then again, when that could be."""
        self._listening = self._loop.call_later(seconds, self._listened, self._loop.time() + seconds)

    def _listened(self, due: float) -> None:
        now = self._loop.time()
        if now - due > self._timing.beat_s:
            # This node itself stood still, as `forgive` is about to say: what the peer said meanwhile is not read yet.
            self._listen(self._timing.beat_s)
            return
        self.check(now)
        if not self.closed:
            self._listen(max(_LISTEN_AGAIN_S, self.last_heard + self._timing.silence_s - now))

    def forgive(self, seconds: float) -> None:
        """This node itself stood still that long: the peer is not to blame for the silence."""
        self.last_heard += seconds
        self._drained_at += seconds

    def say_goodbye(self, reason: str) -> None:
        """Tells the peer that this node leaves. The peer then ends the link."""
        self.send(LinkMessage(goodbye=Goodbye(reason=reason[:200])))

    def close(self, reason: str) -> None:
        """Ends the link; the first reason counts. `run` returns soon after."""
        if not self._closed.is_set():
            self._reason = reason
            self._closed.set()

    async def run(self, deliver: Callable[[LinkMessage], None]) -> str:
        """Carries messages until the link ends. Returns why, for a person.

        Args:
            deliver: called for each message; may raise ProtocolError, which ends the link.
        """
        tasks = [asyncio.create_task(self._read(deliver)), asyncio.create_task(self._write())]
        self._listen(self._timing.silence_s)
        try:
            await self._closed.wait()
        finally:
            self.close("The link was closed.")
            if self._listening is not None:
                self._listening.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._rest()
            self._queue.clear()
            self._queue_bytes = 0
            await self._stream.finish()
        return self._reason

    async def _read(self, deliver: Callable[[LinkMessage], None]) -> None:
        allowed, since = _MESSAGES_AT_ONCE, self._loop.time()
        try:
            while (message := await self._stream.read()) is not None:
                self.last_heard = now = self._loop.time()
                allowed, since = min(_MESSAGES_AT_ONCE, allowed + (now - since) * _MESSAGES_PER_S) - 1, now
                if allowed < 0:
                    self._dropped(Reason.TOO_MANY)
                    await asyncio.sleep(-allowed / _MESSAGES_PER_S)
                kind = message.WhichOneof("body")
                if kind is None:  # of a later version
                    self._dropped(Reason.OTHER_PROTOCOL)
                self._asked = self._asked or kind == "lease_cut"
                if kind == "goodbye":
                    self.left = True
                    self.close(f"It left: {message.goodbye.reason[:200] or 'no reason given'}.")
                    return
                deliver(message)
            self.close("It closed the link.")
        except StreamBrokenError as error:
            self.close(f"The connection broke: {error}.")
        except ProtocolError as error:
            self.offended = not self.closed
            self._dropped(Reason.MALFORMED)
            self.close(f"It broke the protocol: {error}")
        finally:
            self.close("Reading from it failed; the log says why.")

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._rest()
                # What is queued meanwhile wakes this again, at once or when its time has come.
                waiting = len(self._queue)
                while waiting:
                    together = self._together(waiting)
                    await self._stream.write(*together)
                    for _ in together:
                        self._queue_bytes -= self._queue.popleft()[1]
                    waiting -= len(together)
                    self._drained_at = self._loop.time()
        except StreamBrokenError as error:
            self.close(f"The connection broke: {error}.")

    def _together(self, most: int) -> list[LinkMessage]:
        """What is written next: the first messages of the queue, at least one."""
        together: list[LinkMessage] = []
        byte_count = 0
        for message, size in islice(self._queue, min(most, MOST_TOGETHER)):
            byte_count += size
            if together and byte_count > _BYTES_TOGETHER:
                break
            together.append(message)
        return together

    def _rest(self) -> None:
        """Nothing waits for its time any more."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
