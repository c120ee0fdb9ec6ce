"""Descriptors of the folders that were entered last, so that not every file of many is a walk from the root."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Parents"]

_MOST = 8


@dataclass(slots=True)
class _Parent:
    fd: int
    identity: tuple[int, int]
    users: int = 0
    dropped: bool = False


class Parents:
    """Thread-safe. A folder is used again only while its path leads to it.

    Args:
        enter: opens a folder by the name that it is asked for, without following links where that matters.
        path: the path of such a name.
    """

    def __init__(self, *, enter: Callable[[str, bool], int], path: Callable[[str], str]) -> None:
        self._enter = enter
        self._path = path
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Parent] = OrderedDict()
        weakref.finalize(self, _close_all, self._kept)

    @contextmanager
    def at(self, name: str, *, create: bool) -> Iterator[int]:
        """The descriptor of the folder ``name``; ``create`` makes it where it is missing.

        Raises:
            OSError: of `enter`.
        """
        parent = self._take(name)
        if parent is None:
            fd = self._enter(name, create)
            status = os.fstat(fd)
            parent = _Parent(fd, (status.st_dev, status.st_ino), users=1)
            self._keep(name, parent)
        try:
            yield parent.fd
        finally:
            self._give(parent)

    def _take(self, name: str) -> _Parent | None:
        with self._lock:
            parent = self._kept.get(name)
            if parent is None:
                return None
            self._kept.move_to_end(name)
            parent.users += 1
        try:
            status = os.stat(self._path(name))
        except OSError:
            status = None
        if status is not None and (status.st_dev, status.st_ino) == parent.identity:
            return parent
        with self._lock:
            if self._kept.get(name) is parent:
                del self._kept[name]
            parent.dropped = True
        self._give(parent)
        return None

    def _keep(self, name: str, parent: _Parent) -> None:
        with self._lock:
            old = [self._kept.pop(name)] if name in self._kept else []
            self._kept[name] = parent
            if len(self._kept) > _MOST:
                old.append(self._kept.popitem(last=False)[1])
            idle = []
            for each in old:
                each.dropped = True
                if not each.users:
                    idle.append(each.fd)
        for fd in idle:
            os.close(fd)

    def _give(self, parent: _Parent) -> None:
        with self._lock:
            parent.users -= 1
            done = parent.dropped and not parent.users
        if done:
            os.close(parent.fd)


def _close_all(kept: OrderedDict[str, _Parent]) -> None:
    for parent in kept.values():
        os.close(parent.fd)
