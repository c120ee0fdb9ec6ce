"""The lab's tests: what they share, and what is shown of the daemons when one fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.lab import Lab, faulty_lab, nginx_lab
from bench.labnet import NodePlan
from bench.models import LabModel, make_lab_model

MIB = 1 << 20
HUB_MBIT = 150.0
LAN_MBIT = 1000.0

MakeLab = Callable[..., Lab]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what lies in this folder; tests/conftest.py skips it where no lab can be made."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LabModel:
    """Three shards and small files, 192 MiB: large enough that one piece read twice is below 1 %."""
    return make_lab_model(tmp_path_factory.mktemp("lab-hub"), size_bytes=192 * MIB)


def plans(*hub_mbit: float | None, lan_mbit: float = LAN_MBIT) -> list[NodePlan]:
    """Nodes n1, n2, ... with these links to the hub."""
    return [NodePlan(f"n{number}", hub_mbit=mbit, lan_mbit=lan_mbit) for number, mbit in enumerate(hub_mbit, start=1)]


@pytest.fixture
def make_lab(model: LabModel, tmp_path: Path) -> Iterator[MakeLab]:
    """Makes a lab with the model (or another one) on its hub, and no daemon started yet. All ends with the test."""
    labs: list[Lab] = []
    with contextlib.ExitStack() as stack:

        def make(nodes: Sequence[NodePlan] | None = None, **options: Any) -> Lab:
            make_it = faulty_lab if options.pop("faulty", False) else nginx_lab
            on_hub = options.pop("model", model)
            lab = make_it(nodes or plans(*[HUB_MBIT] * 4), on_hub, folder=tmp_path, **options)
            labs.append(stack.enter_context(lab))
            return lab

        yield make
        for lab in labs:
            for node in lab.nodes.values():
                print(f"--- {node.log}\n{node.log_tail()}")  # shown when the test failed
