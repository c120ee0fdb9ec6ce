"""Gated and private models: which node may have them by its own right.

The hub gives such a model to those who were let in there. So each node asks the hub with its own token. One that may
not read the model gets no lease, and without ``--share-gated`` it takes no part at all.
"""

from __future__ import annotations

import asyncio

from exo_dl.core.manifest import Manifest
from exo_dl.errors import AccessError, ExoDlError, HubBusyError, NotFoundError
from exo_dl.hubs.base import Hub

__all__ = ["OwnAccess"]

_PATIENCE_S = 30.0
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
_HINT = (
    "Give this node a token that may: hf auth login, or HF_TOKEN for its daemon. To hand it the files that others may "
    "read, start the pull with --share-gated."
)


class OwnAccess:
    """Whether this node may read a gated model itself.

    Args:
        hub: with this node's own token.
        manifest: the model.
        needed: the model is gated or private.
        shared: who started the pull lets nodes without access have the model too.

    Attributes:
        needed: as given: then the bytes go between nodes over TLS alone.
    """

    def __init__(self, hub: Hub, manifest: Manifest, *, needed: bool, shared: bool) -> None:
        self._hub = hub
        self._manifest = manifest
        self._free = shared or not needed
        self._proven = not needed
        self.needed = needed

    def check(self) -> None:
        """Asks the hub, until it said yes once. Blocks.

        Raises:
            AccessError, NotFoundError: this node may not read the model.
            HubError: the hub does not answer.
        """
        if not self._proven:
            self._hub.check_access(self._manifest)
            self._proven = True

    async def admit(self) -> None:
        """Returns where this node may have the model.

        Raises:
            AccessError: it may not, or the hub could not be asked.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_S
        while not self._free:
            pause_s = _PAUSE_S
            try:
                return await asyncio.to_thread(self.check)
            except (AccessError, NotFoundError) as error:
                what = f"{self._manifest.repo} is not for everybody, and this node may not read it: {error.what}"
                raise AccessError(what, hint=_HINT) from error
            except HubBusyError as error:
                pause_s, last = min(max(error.retry_after_s, _PAUSE_S), _LONGEST_PAUSE_S), error.what
            except ExoDlError as error:
                last = error.what
            if loop.time() + pause_s > until:
                what = (
                    f"{self._manifest.repo} is not for everybody, and the hub cannot be asked about this node: {last}"
                )
                raise AccessError(what, hint=_HINT)
            await asyncio.sleep(pause_s)
