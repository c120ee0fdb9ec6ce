"""Disks that others fill while a pull runs, and that have room again later."""

from __future__ import annotations

import contextlib
import filecmp
import re
from pathlib import Path

import pytest

from bench.cluster import CommandError, Node, hub_cache
from bench.models import LabModel
from bench.served import summarize
from tests.lab.conftest import MIB, MakeLab, plans
from tests.lab.recovery import by_name

pytestmark = pytest.mark.timeout(120)


def inside(node: Node) -> Path:
    """The node's ``HF_HOME`` as its own daemon sees it: on a file system that nobody else has."""
    return Path(f"/proc/{node.process.pid}/root") / node.home.relative_to("/")


def fill(file: Path) -> None:
    """Takes all room of a file system."""
    block = bytes(MIB)
    with file.open("wb", buffering=0) as taken, contextlib.suppress(OSError):
        while taken.write(block):
            pass


def check_files(model: LabModel, node: Node) -> None:
    """All files of the model, byte by byte, as the node's own daemon published them."""
    snapshot = inside(node) / hub_cache(node.home, model.repo).relative_to(node.home) / "snapshots" / model.commit
    files = [path.relative_to(model.folder) for path in model.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for name in files:
        assert filecmp.cmp(snapshot / name, model.folder / name, shallow=False), name


def test_disks_that_are_filled_in_the_middle_and_have_room_again(
    make_lab: MakeLab, model: LabModel, tmp_path: Path
) -> None:
    """n1 reserves what a pull needs when it begins. n2 cannot: that call does nothing, as on some file systems."""
    unreserved = tmp_path / "unreserved"
    unreserved.mkdir()
    (unreserved / "sitecustomize.py").write_text(
        "from exo_dl.store import osfile\nosfile.preallocate = lambda fd, offset, size: None\n"
    )
    lab = make_lab(
        plans(400.0, 400.0),
        settings={"n2": {"PYTHONPATH": str(unreserved)}},
        small_disks=dict.fromkeys(("n1", "n2"), 2 * model.size_bytes),
    )
    lab.start()
    n1, n2 = lab.nodes["n1"], lab.nodes["n2"]
    watcher = n1.launch("pull", model.repo, "--json")
    watcher.wait_for_share(0.2, timeout_s=20)
    for node in (n2, n1):
        fill(inside(node) / "filler")
    with pytest.raises(CommandError) as raised:
        watcher.wait(timeout_s=60)
    assert raised.value.exit_code == 9
    told = rf"n2: .*The disk refused \d+ bytes: No space left.* disk of {re.escape(str(n2.home))}/hub: make room there"
    assert re.search(told, raised.value.stderr), raised.value.stderr
    nodes = by_name(raised.value.documents[-1])
    assert (nodes["n1"]["state"], nodes["n2"]["state"]) == ("done", "failed")
    assert 0 < nodes["n2"]["bytes_done"] < model.size_bytes
    check_files(model, n1)

    (inside(n2) / "filler").unlink()
    mark = lab.mark()
    summary = n1.json("pull", model.repo)[-1]
    assert summary["state"] == "done"
    check_files(model, n2)
    lacked = model.size_bytes - nodes["n2"]["bytes_done"]
    assert by_name(summary)["n2"]["bytes_from_peers"] <= lacked + 8 * MIB, "what it has is kept"
    assert summarize(lab.requests(since=mark)).total_bytes <= 0.5 * model.size_bytes, "the other node has all of it"
