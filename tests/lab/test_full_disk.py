"""A disk that has too little room, has it again later, and is filled by others while a pull runs."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
from pathlib import Path

import pytest

from bench.cluster import CommandError, Node, hub_cache
from bench.models import LabModel, check_copy
from bench.served import summarize
from tests.lab.conftest import MIB, MakeLab, plans
from tests.lab.recovery import by_name

pytestmark = pytest.mark.timeout(120)


def inside(node: Node) -> Path:
    """The node's ``HF_HOME`` as its own daemon sees it: on a file system that nobody else has."""
    return Path(f"/proc/{node.process.pid}/root") / node.home.relative_to("/")


def fill(file: Path, *, leave: int) -> None:
    """Takes all room of a file system but this much."""
    block = bytes(MIB)
    with file.open("wb", buffering=0) as taken:
        status = os.statvfs(file.parent)
        os.posix_fallocate(taken.fileno(), 0, max(MIB, status.f_bavail * status.f_frsize - leave - MIB))
        taken.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):  # others take room, and give it back, at the same time
            while leave == 0 and taken.write(block):
                pass


def check_files(model: LabModel, node: Node) -> None:
    """All files of the model, byte by byte, as the node's own daemon published them."""
    snapshot = inside(node) / hub_cache(node.home, model.repo).relative_to(node.home) / "snapshots" / model.commit
    files = [path.relative_to(model.folder) for path in model.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for name in files:
        assert filecmp.cmp(snapshot / name, model.folder / name, shallow=False), name


def test_a_disk_that_has_room_again_is_filled_by_the_next_pull(make_lab: MakeLab, model: LabModel) -> None:
    lab = make_lab(plans(1000.0, 1000.0), small_disks={"n2": 2 * model.size_bytes})
    lab.start()
    n1, n2 = lab.nodes["n1"], lab.nodes["n2"]
    filler = inside(n2) / "filler"
    fill(filler, leave=model.size_bytes // 2)
    with pytest.raises(CommandError) as raised:
        n1.json("pull", model.repo)
    assert raised.value.exit_code == 9
    assert re.search(r"n2: .*\d [MG]i?B", raised.value.stderr), "whose disk, and how much"
    nodes = by_name(raised.value.documents[-1])
    assert (nodes["n1"]["state"], nodes["n2"]["state"]) == ("done", "failed")
    check_copy(model, n1.home)

    filler.unlink()
    mark = lab.mark()
    watcher = n1.launch("pull", model.repo, "--json")
    watcher.wait_for(
        lambda view: by_name(view).get("n2", {}).get("bytes_done", 0) > 0, timeout_s=20, what="n2 has its first pieces"
    )
    # What a pull needs is reserved when it begins: nobody else can take it in the middle.
    fill(filler, leave=0)
    assert watcher.wait(timeout_s=60)[-1]["state"] == "done"
    check_files(model, n2)
    assert summarize(lab.requests(since=mark)).total_bytes <= 0.5 * model.size_bytes, "the other node has all of it"
