"""Whether the list of files that another node offers is the hub's: each node that can asks the hub itself, once.

A node that cannot goes by those that could: where as many say that it differs as say that it agrees, nothing is made
visible. The question runs beside the transfers; only the last step of a pull waits for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from exo_dl.core.manifest import Manifest
from exo_dl.errors import ExoDlError, HubBusyError, IntegrityError
from exo_dl.hubs.base import Hub

__all__ = ["HubCheck", "Verdict", "Vouched", "difference"]

_MAX_VOUCHED = 256
_LONGEST_WAIT_S = 30.0
_TRIES = 4
# A hub that has not answered by this time after everything else is done is taken for one that does not.
_OWN_S = 3.0
_OTHERS_S = 10.0


class Verdict(enum.IntEnum):
    """What a node found; the values of ``NodeProgress.manifest`` in swarm.proto."""

    UNKNOWN = 0
    AGREES = 1
    DIFFERS = 2
    CANNOT = 3


@dataclass(slots=True)
class Vouched:
    """The pulls whose list of files this node has seen at the hub itself, the newest last."""

    _ids: dict[str, None] = field(default_factory=dict)

    def add(self, pull_id: str) -> None:
        """The hub's own answer made this pull. Its id is a digest of the list."""
        self._ids[pull_id] = None
        while len(self._ids) > _MAX_VOUCHED:
            del self._ids[next(iter(self._ids))]

    def __contains__(self, pull_id: str) -> bool:
        return pull_id in self._ids


def difference(claimed: Manifest, true: Manifest) -> str:
    """What is wrong with a list of files, for a person; empty where it is the hub's."""
    ours = {entry.path: (entry.size, entry.digest) for entry in (*true.files, *true.unselected)}
    theirs = {entry.path: (entry.size, entry.digest) for entry in (*claimed.files, *claimed.unselected)}
    if claimed.commit != true.commit:
        return f"the commit is {true.commit[:12]}, not {claimed.commit[:12]}"
    for path in sorted(ours.keys() | theirs.keys()):
        if path not in theirs:
            return f"{path!r} is left out"
        if path not in ours:
            return f"the hub has no {path!r}"
        if theirs[path] != ours[path]:
            return f"{path!r} has {ours[path][0]} bytes and the digest {ours[path][1].hex()[:16]}... at the hub"
    return ""


class HubCheck:
    """The question of one node about one pull. Lives on the event loop.

    Args:
        pull_id: the pull.
        manifest: the list of files as it was offered.
        hub: who is asked.
        vouched: what needs no question; learns what was found right.
    """

    def __init__(self, pull_id: str, manifest: Manifest, *, hub: Hub, vouched: Vouched) -> None:
        self._pull_id = pull_id
        self._manifest = manifest
        self._hub = hub
        self._vouched = vouched
        self._others: dict[str, Verdict] = {}
        self._changed = asyncio.Event()
        self._awaited = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.verdict = Verdict.AGREES if pull_id in vouched else Verdict.UNKNOWN
        self.detail = ""

    def start(self, *, told: Callable[[], None], refused: Callable[[ExoDlError], None], after_s: float = 0.0) -> None:
        """Begins to ask: after so many seconds, or when somebody waits for the answer.

        Args:
            told: called when there is a verdict.
            refused: called where it is not the hub's list, with what is wrong.
        """
        if self.verdict is Verdict.UNKNOWN and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(told, refused, after_s))

    async def close(self) -> None:
        """Asks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def heard(self, node: str, verdict: int) -> None:
        """What another node found; numbers of a later version are not counted."""
        if verdict in (Verdict.AGREES, Verdict.DIFFERS, Verdict.CANNOT) and self._others.get(node) != verdict:
            self._others[node] = Verdict(verdict)
            self._set_changed()

    async def settle(self, nodes: Callable[[], list[str]]) -> str:
        """Returns when the files may be made visible; with a line for people where this node goes by others.

        Args:
            nodes: the linked nodes that take part.

        Raises:
            IntegrityError: the list is not the hub's.
        """
        self._awaited.set()
        await self._wait(lambda: self.verdict is not Verdict.UNKNOWN, _OWN_S)
        if not self._is_settled():
            await self._wait(lambda: self._is_settled() or self._heard_all(nodes()), _OTHERS_S)
        if self._is_settled():
            return ""
        words = list(self._others.values())
        agree, differ = words.count(Verdict.AGREES), words.count(Verdict.DIFFERS)
        if differ and differ >= agree:
            raise self._error(f"{differ} of the nodes that asked the hub say so, {agree} say that it agrees")
        return f"could not ask the hub for its list of files: it goes by {agree} nodes that could."

    def _is_settled(self) -> bool:
        """Whether this node has the hub's own word, and may go on."""
        if self.verdict is Verdict.DIFFERS:
            raise self._error(self.detail)
        return self.verdict is Verdict.AGREES

    def _heard_all(self, nodes: list[str]) -> bool:
        return all(node in self._others for node in nodes)

    def _error(self, why: str) -> IntegrityError:
        m = self._manifest
        what = f"The list of files that was offered for {m.repo} at {m.commit[:12]} is not the hub's: {why}."
        return IntegrityError(
            what, hint="Start the pull on a node that you trust, and look at the one that started it."
        )

    async def _run(self, told: Callable[[], None], refused: Callable[[ExoDlError], None], after_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await self._awaited.wait()
        m = self._manifest
        for _ in range(_TRIES):
            try:
                found = await asyncio.to_thread(self._hub.resolve, m.repo, m.commit, m.repo_type)
            except HubBusyError as error:
                await asyncio.sleep(min(error.retry_after_s, _LONGEST_WAIT_S))
                continue
            except ExoDlError as error:
                self.verdict, self.detail = Verdict.CANNOT, str(error)
                break
            self.detail = difference(m, found.manifest)
            self.verdict = Verdict.DIFFERS if self.detail else Verdict.AGREES
            break
        else:
            self.verdict = Verdict.CANNOT
        if self.verdict is Verdict.AGREES:
            self._vouched.add(self._pull_id)
        self._set_changed()
        told()
        if self.verdict is Verdict.DIFFERS:
            refused(self._error(self.detail))

    def _set_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            return
