"""Whether the disk keeps up with the transfers: decided from what their threads spend in writes that wait for it.

Pure: readings and their time come in. Decides once in three seconds: more than half of the threads' time in such writes
halves the transfers, less than a fifth doubles them again when that has lasted. How long it must last doubles each time
that more transfers turn out to be too many, so a disk that is just too slow for them does not make them swing.

A thread that gets no processor looks like one that waits for the disk. The kernel tells them apart, so where it says
that hardly anything on this machine waited for a disk, these transfers did not either (`docs/adr/0019-slow-disks.md`).
"""

from __future__ import annotations

from exo_dl.net.fetch import Writing

__all__ = ["DiskPace"]

_WINDOW_S = 3.0
_TOO_MUCH = 0.5
_LITTLE = 0.2
# Threads that were at work for less than this in a window say nothing about the disk.
_LEAST_BUSY_S = 1.0
# Part of the time in which anything on the machine waited for a disk: 0.4 and more with slow ones, 0.05 with fast ones.
_LEAST_STALLED = 0.1
_PATIENCE = 2  # windows
_LONGEST_PATIENCE = 32


class DiskPace:
    """How often the transfers are to be halved for the disk's sake.

    Args:
        most: halvings that leave one transfer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._last: tuple[Writing, float | None, float] | None = None
        self._calm = 0
        self._patience = _PATIENCE
        self._grew = False
        self.halvings = 0

    def look(self, writing: Writing, *, stalled_s: float | None, now: float) -> None:
        """Takes a reading at ``now``, in seconds. ``writing`` and ``stalled_s`` are sums since some beginning.

        ``stalled_s``: in which something on the machine waited for a disk; None where nobody knows.
        """
        if self._last is None:
            self._last = writing, stalled_s, now
            return
        before, stalled_before_s, since = self._last
        if now - since < _WINDOW_S:
            return
        self._last = writing, stalled_s, now
        busy_s, waited_s = writing.busy_s - before.busy_s, writing.waited_s - before.waited_s
        part = waited_s / busy_s if busy_s >= _LEAST_BUSY_S else 0.0
        if stalled_s is not None and stalled_before_s is not None:
            part = part if stalled_s - stalled_before_s >= _LEAST_STALLED * (now - since) else 0.0
        self._calm = self._calm + 1 if part < _LITTLE else 0
        if part > _TOO_MUCH:
            self._fewer()
        elif self._calm >= self._patience:
            self._more()

    def _fewer(self) -> None:
        if self.halvings < self._most:
            self.halvings += 1
            if self._grew:
                self._patience = min(_LONGEST_PATIENCE, 2 * self._patience)
            self._grew = False

    def _more(self) -> None:
        self._calm = 0
        if self.halvings:
            self.halvings -= 1
            self._grew = True
        else:  # all of them, and for as long again
            self._patience, self._grew = _PATIENCE, False
