"""Where a model is put so that programs find it: the Hugging Face cache, a plain folder, or the folder of exo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.errors import UsageError
from exo_dl.store.dirlayout import DirLayout
from exo_dl.store.exolayout import ExoLayout, default_models_dir
from exo_dl.store.folder import Folder
from exo_dl.store.hflayout import HFLayout, Staged

__all__ = ["DirLayout", "ExoLayout", "HFLayout", "Layout", "Staged", "layout_for"]


class Layout(Protocol):
    """A target for published files. Thread-safe. Every method raises StorageError where the disk fails.

    Attributes:
        name: "hf", "dir" or "exo".
        folder: the target; part files lie inside of it, on the same file system as what they become.
    """

    name: str
    folder: Folder

    def part_name(self, manifest: Manifest, blob: Blob, node_id: str) -> str:
        """Where this node puts a content together, relative to `folder`."""
        ...

    def existing(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """Files that may have this content already, by place and size; not read."""
        ...

    def places(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """All the files that have the content in the end."""
        ...

    def check_room(self, needed_bytes: int) -> None:
        """Raises StorageError, with the figures, when the disk has less room than that."""
        ...

    def parts_folder(self, manifest: Manifest, node_id: str) -> str:
        """Where what a node has of files that it does not want whole goes, relative to `folder`; empty: into it."""
        ...

    def publish_blob(self, manifest: Manifest, blob: Blob, part: str, *, in_place: frozenset[Path]) -> Path:
        """Takes a verified part file over, where `places` other than ``in_place`` need it; returns where it is now."""
        ...

    def finish(self, manifest: Manifest, revision: str, held: Mapping[int, Staged]) -> Path:
        """Makes the held contents (by blob index) visible to programs and returns the folder that they open."""
        ...


def layout_for(text: str, *, hf_cache_dir: Path) -> Layout:
    """The layout that a person named: "hf" (also ""), "sparse", "dir:ABSOLUTE-PATH", "exo" or "exo:ABSOLUTE-PATH".

    "sparse" is "hf" where files are wanted whole; see `Selection.sparse`.

    Raises:
        UsageError: it is none of them.
    """
    if text in ("", "hf", "sparse"):
        return HFLayout(hf_cache_dir)
    if text == "exo":
        return ExoLayout(default_models_dir(), hf_cache_dir=hf_cache_dir)
    kind, _, path = text.partition(":")
    if kind not in ("dir", "exo") or not os.path.isabs(path) or "\0" in path:
        raise UsageError(
            f"{text[:200]!r} is no layout.",
            hint="It is 'hf', 'exo', 'sparse', or 'dir:' or 'exo:' and an absolute path.",
        )
    if kind == "exo":
        return ExoLayout(Path(path), hf_cache_dir=hf_cache_dir)
    return DirLayout(Path(path), hf_cache_dir=hf_cache_dir)
