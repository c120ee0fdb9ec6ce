"""Throughput: how fast something was lately, and how many connections are worth having."""

from __future__ import annotations

__all__ = ["ConnectionController", "RateMeter"]

_HALF_LIFE_S = 2.0
_LEAST_PATIENCE_S = 0.25
_LUMPS_PATIENCE_S = 2.0
_TRIAL_PAYS = 3.0


class RateMeter:
    """Bytes per second of something that comes in bursts (whole pieces), forgetting with a half-life.

    Only time in which it was meant to run counts: call `begin` when work starts and `pause` when it stops, and an
    idle link keeps its last figure. Where many pieces come in one lump, each makes up for a part of the silence before
    it, as large as the rate so far explains. A silence of more than twice the usual gap, or half as long again as the
    longest lately, counts against the rate at once, so a link that dried up is seen before its next piece comes.

    Args:
        half_life_s: seconds after which a measurement weighs half.
        guess: bytes/s until something is measured; 0 for "unknown".
    """

    __slots__ = ("_bytes", "_gap", "_guess", "_half_life_s", "_last", "_last_bytes", "_owed", "_seconds", "total_bytes")

    def __init__(self, *, half_life_s: float = _HALF_LIFE_S, guess: float = 0.0) -> None:
        self._half_life_s = half_life_s
        self._guess = guess
        self._bytes = 0.0
        self._seconds = 0.0
        self._last: float | None = None
        self._last_bytes = 0
        self._gap = 0.0
        self._owed = 0.0  # seconds before the last arrival that are not counted yet
        self.total_bytes = 0

    @property
    def running(self) -> bool:
        """Between `begin` and `pause`."""
        return self._last is not None

    @property
    def measured(self) -> bool:
        """Whether `rate` is more than the guess."""
        return self._seconds > 0

    @property
    def seconds(self) -> float:
        """Of measuring, of which half is forgotten with each half-life: how much the rate is worth."""
        return self._seconds

    def begin(self, now: float) -> None:
        """Work starts; without effect while it runs."""
        if self._last is None:
            self._last = now

    def pause(self, now: float) -> None:
        """Work stops, by choice or for want of something to do: time that passes now says nothing."""
        if self._last is not None and self._last_bytes:
            self._count(0, self._owed + (now - self._last if self._silent_too_long(now) else 0.0))
        self._last = None

    def add(self, byte_count: int, now: float) -> None:
        """``byte_count`` bytes arrived since the last call."""
        elapsed = 0.0 if self._last is None else max(0.0, now - self._last)
        owed = self._owed + elapsed
        known = self._bytes > 0 and self._seconds >= self._half_life_s / 2
        explained = byte_count * self._seconds / self._bytes if known else owed
        counted = max(min(owed, explained), owed - self._patience_s())
        self._count(byte_count, counted)
        self._owed = owed - counted
        self._gap = max(elapsed, self._gap * self._keep(elapsed))
        self._last = now
        self.total_bytes += byte_count
        self._last_bytes = byte_count

    def rate(self, now: float) -> float:
        """Bytes per second; the guess while nothing was measured."""
        if self._seconds <= 0:
            return self._guess
        if self._last is not None and self._silent_too_long(now):
            silence = now - self._last + self._owed
            keep = self._keep(silence)
            return self._bytes * keep / (self._seconds * keep + silence)
        return self._bytes / self._seconds

    def _keep(self, seconds: float) -> float:
        return float(0.5 ** (seconds / self._half_life_s))

    def _patience_s(self) -> float:
        """How long a silence says nothing."""
        usual = self._last_bytes * self._seconds / self._bytes if self._bytes > 0 else 0.0
        return max(_LEAST_PATIENCE_S, 2 * usual, min(_LUMPS_PATIENCE_S, 1.5 * self._gap))

    def _silent_too_long(self, now: float) -> bool:
        if self._last is None or self._bytes <= 0:
            return False
        silence = now - self._last + self._owed
        return silence > _LEAST_PATIENCE_S and silence > self._patience_s()

    def _count(self, byte_count: int, seconds: float) -> None:
        keep = self._keep(seconds)
        self._bytes = self._bytes * keep + byte_count
        self._seconds = self._seconds * keep + seconds
        self._owed = 0.0


class ConnectionController:
    """Finds how many connections to a hub are worth having, by hill climbing.

    It starts with two, of which one reads while the other waits for an answer. More are tried, one at first and twice
    as many after each trial that paid; they stay when the total rises by ``gain`` or more (or half of what they would
    bring if each brought as much as the others) over a window in which all connections were busy. Otherwise they are
    dropped again and half as many tried, and when a single one did not pay there is a pause, which doubles each time.

    Args:
        limit: never more than this many; may be changed at any time.
        gain: fraction that more connections must bring.
    """

    _SETTLE_S = 0.3
    _WINDOW_S = 1.0
    _WINDOW_MAX_S = 12.0
    _HOLD_S = 15.0
    _HOLD_MAX_S = 120.0
    _IDLE = 0.05  # of a window in which a connection may wait for its next lease

    def __init__(self, *, limit: int, gain: float = 0.10) -> None:
        self.limit = limit
        self.gain = gain
        self._target = 2
        self._step = 1
        self._rising = True
        self._base = 0.0
        self._proven = 0  # connections that the trial began with; 0 when there is none
        self._hold_until = 0.0
        self._hold_s = self._HOLD_S
        self._from: tuple[float, int, int] | None = None
        self._looked = self._idle = 0.0

    @property
    def target(self) -> int:
        """Connections to have now, 0..limit."""
        return self._target if self._target < self.limit else self.limit

    def refused(self, now: float) -> None:
        """The hub asked for less (429, 503): one connection fewer, and no trial for a while."""
        self._target = max(1, self.target - 1)
        self._rest(now)

    def observe(self, *, total_bytes: int, arrivals: int, busy: int, rest_s: float, now: float) -> bool:
        """Tells how things stand; to be called at each arrival.

        Args:
            total_bytes: bytes from the hub since the start, over all connections.
            arrivals: number of arrivals that make up ``total_bytes``; fewer than eight in a window say little.
            busy: connections that are reading now.
            rest_s: seconds for which these have work: a trial begins only where it can still pay.
            now: seconds.

        Returns:
            Whether `target` changed.
        """
        before = self._target
        if self._all_were_busy(busy, total_bytes, arrivals, now) and self._from is not None:
            started, bytes_then, arrivals_then = self._from
            self._look(total_bytes - bytes_then, arrivals - arrivals_then, busy, rest_s, now - started, now)
        return self._target != before

    def _all_were_busy(self, busy: int, total_bytes: int, arrivals: int, now: float) -> bool:
        """Whether a window runs in which all connections were busy; begins one where they are."""
        since, self._looked = now - self._looked, now
        if busy < self.target or not busy:
            self._idle += since
            if self._from is not None and self._idle > self._IDLE * max(self._WINDOW_S, now - self._from[0]):
                self._from = None
            return False
        if self._from is None:
            self._from = (now + self._SETTLE_S, -1, -1)
        if self._from[1] < 0:
            if now >= self._from[0]:
                self._from, self._idle = (now, total_bytes, arrivals), 0.0
            return False
        return True

    def _look(self, size: int, arrivals: int, busy: int, rest_s: float, elapsed: float, now: float) -> None:
        over = elapsed >= self._WINDOW_MAX_S
        if elapsed < self._WINDOW_S or (arrivals < 8 * busy and not over):
            return
        rate = size / elapsed
        # Bytes come a piece at a time, and connections in step: a piece of each is noise that a trial must rise above.
        noise = rate * busy / max(1, arrivals)
        if not self._proven:
            self._from = None
            if now >= self._hold_until and rest_s >= _TRIAL_PAYS * elapsed:
                self._base = rate
                self._grow()
            return
        needed = self._base * (1 + min(self.gain, (self._target - self._proven) / self._proven / 2))
        if rate - noise >= needed:
            self._paid(rate)
        elif self._rising or over or rate + noise < needed:
            self._failed(now)

    def _paid(self, rate: float) -> None:
        self._base = rate
        self._hold_s = self._HOLD_S
        if self._rising:
            self._step *= 2
        self._grow()

    def _failed(self, now: float) -> None:
        self._target, self._proven, self._from = max(1, self._proven), 0, None
        self._rising = False
        self._step //= 2
        if not self._step:
            self._rest(now)

    def _grow(self) -> None:
        self._from, self._proven = None, 0
        if self._target < self.limit:
            self._proven = self._target
            self._target = min(self.limit, self._target + self._step)

    def _rest(self, now: float) -> None:
        self._proven, self._from = 0, None
        self._step, self._rising = 1, True
        self._hold_until = now + self._hold_s
        self._hold_s = min(self._HOLD_MAX_S, self._hold_s * 2)
