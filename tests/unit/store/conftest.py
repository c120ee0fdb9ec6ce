from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_dl.core.manifest import Manifest
from exo_dl.store.library import Library
from exo_dl.store.publish import Layout
from tests.unit.store.stores import Node


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path / "state" / "state.db")
    yield made
    made.close()


class MakeNode:
    """Makes stores and closes them at the end."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._made: list[Node] = []

    def __call__(
        self,
        manifest: Manifest,
        layout: Layout,
        *,
        node_id: str = "node-a",
        want: int | None = None,
        library: Library | None = None,
    ) -> Node:
        node = Node(manifest, layout, library or self._library, node_id=node_id, want=want)
        self._made.append(node)
        return node

    def close(self) -> None:
        for node in self._made:
            node.store.close(keep=True)


@pytest.fixture
def make_node(library: Library) -> Iterator[MakeNode]:
    maker = MakeNode(library)
    yield maker
    maker.close()
