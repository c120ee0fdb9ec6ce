"""Three daemons and a local hub as processes of this machine, on loopback: no root, no namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bench.cluster import Node, wait_linked
from bench.hub import LocalHub
from bench.models import LabModel, make_lab_model
from bench.ports import free_port
from exo_dl.net.identity import new_secret
from tests.integration.llama import make_llama

MIB = 1 << 20

MakeNodes = Callable[..., list[Node]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LabModel:
    return make_lab_model(tmp_path_factory.mktemp("hub"), size_bytes=24 * MIB)


@pytest.fixture(scope="session")
def llama(model: LabModel) -> LabModel:
    """A model that can be divided, on the same hub."""
    return make_llama(model.root)


@pytest.fixture
def repo(model: LabModel) -> str:
    return model.repo


@pytest.fixture
def hub(model: LabModel, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalHub]:
    """A local hub; indirect parameters are further options of it."""
    options = {"rate": 60e6} | getattr(request, "param", {})
    with LocalHub(model.root, log=tmp_path / "access.log", **options) as hub:
        yield hub


slowly = pytest.mark.parametrize("hub", [{"rate": 5e6}], indirect=True, ids=["5MB/s"])
"""For tests that need a pull with a middle: it lasts about 5 s."""


@pytest.fixture
def make_nodes(hub: LocalHub, tmp_path: Path) -> Iterator[MakeNodes]:
    """Makes nodes of one cluster that know each other by a static peer. The test starts them; they end with it."""
    secret = new_secret()
    nodes: list[Node] = []

    def make(*names: str, mdns: bool = False, **settings: str) -> list[Node]:
        port = free_port()
        for name in names:
            first = not nodes
            nodes.append(
                Node(
                    name,
                    tmp_path / name,
                    secret=secret,
                    endpoint=hub.url,
                    port=port if first and not mdns else 0,
                    peers=[] if first or mdns else [f"127.0.0.1:{nodes[0].port}"],
                    settings={"EXO_DL_MDNS": str(mdns).lower()} | settings,
                )
            )
        return nodes[-len(names) :]

    try:
        yield make
    finally:
        for node in nodes:
            node.kill()
            print(f"--- {node.log}\n{node.log_tail()}")  # shown when the test failed


def start_all(nodes: Sequence[Node]) -> None:
    """Starts nodes, and waits until each is linked to all others."""
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready()
    wait_linked(nodes)


@pytest.fixture
def trio(make_nodes: MakeNodes) -> list[Node]:
    nodes = make_nodes("one", "two", "three")
    start_all(nodes)
    return nodes
