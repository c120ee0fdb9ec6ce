"""Room for what a pull writes last: the listing, links, folders, ``refs/``.

Files are reserved when a pull begins, so a disk that others fill meanwhile cannot stop them; these few KiB could be
lacking at the very end. A file keeps the room until then. Where a disk reserves nothing it keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from exo_dl.errors import StorageError
from exo_dl.store.folder import Folder, disk_errors
from exo_dl.store.osfile import preallocate
from exo_dl.store.slots import Slot

__all__ = ["KeptRoom"]

_LEAST_BYTES = 64 << 10
# A link takes a block where its target is long, and a part of its folder's block and of the listing.
_BYTES_PER_NAME = 5 << 10


class KeptRoom:
    """A file on the disk of a target, as large as what is still to be written beside the model's files.

    Args:
        folder: the target.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._name = ""

    def keep(self, slots: Sequence[Slot], to_make: Sequence[Slot]) -> None:
        """Takes room for the names of the contents that are still to be made; gives it back where there are none.

        Args:
            slots: all contents of the pull: the first names the file, so that a killed pull's is found by the next.
            to_make: those that are not here yet.

        Raises:
            StorageError: the disk is full. The file is gone then.
        """
        self._name = f"{slots[0].part_name}.room" if slots else ""
        if not to_make:
            self.free()
            return
        fd = self._folder.open(self._name, os.O_WRONLY, create=True)
        try:
            with disk_errors(self._folder.path(self._name)):
                preallocate(fd, 0, _LEAST_BYTES + _BYTES_PER_NAME * sum(len(slot.blob.paths) for slot in to_make))
        except BaseException:
            self.free()
            raise
        finally:
            os.close(fd)

    def free(self) -> None:
        """Gives the room back, to be written to at once."""
        if self._name:
            with suppress(StorageError):  # a disk that is gone: who writes there next says so
                self._folder.remove(self._name)
            self._name = ""
