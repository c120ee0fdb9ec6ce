"""Strangers on the network of a running pull: it goes on, in its budget, and the log names each of them once."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from bench import strangers
from bench.cluster import wait_until
from bench.models import LabModel, check_copy
from tests.lab.conftest import MakeLab, plans

pytestmark = pytest.mark.timeout(180)

PIECE_PORT = 52600
BUDGET_BYTES = 256 << 20
COUNT = 500


def test_five_hundred_strangers_at_each_port_do_not_hold_a_pull_up(make_lab: MakeLab, model: LabModel) -> None:
    """Where EXO_LAB_TIMED is set the pull is timed against one without strangers as well: at most 20 % longer."""
    fixed = {name: {"EXO_DL_PIECE_PORT": str(PIECE_PORT)} for name in ("n1", "n2", "n3")}
    lab = make_lab(plans(150.0, 150.0, 150.0), settings=fixed)
    timed = bool(os.environ.get("EXO_LAB_TIMED"))
    n1, n2, n3 = lab.nodes.values()
    quiet_s = 0.0
    if timed:
        lab.start(["n1", "n2"])
        begin = time.monotonic()
        n1.json("pull", model.repo)
        quiet_s = time.monotonic() - begin
        for node in (n1, n2):
            node.stop()
            node.forget()
    lab.start(["n1", "n2"])
    host, _, port = n2.addresses_in_use()[0].rpartition(":")
    argv = [sys.executable, str(Path(strangers.__file__)), host.strip("[]"), port, str(PIECE_PORT)]
    attack = n3.spawn([*argv, "--count", str(COUNT)], env={"PYTHONPATH": str(Path(strangers.__file__).parent.parent)})
    try:
        wait_until(lambda: refusals(n1.log), timeout_s=20, what="strangers are at the ports")  # type: ignore[arg-type,return-value]
        begin = time.monotonic()
        summary = n1.json("pull", model.repo)[-1]
        busy_s = time.monotonic() - begin
        assert attack.poll() is None, "the strangers gave up"
    finally:
        attack.kill()
        attack.wait(10)
    assert summary["state"] == "done"
    for node in (n1, n2):
        check_copy(model, node.home)
    wait_until(lambda: refusals(n1.log, "gRPC"), timeout_s=20, what="they are named at the gRPC port too")  # type: ignore[arg-type,return-value]
    assert n1.json("metrics")[-1]["connections_refused"] > 0
    peak_bytes = n1.peak_rss_bytes()
    n1.stop()
    for port in ("piece", "gRPC"):
        told = refusals(n1.log, port)
        assert len(told) == 1, told
    counts = counted(n1.log)
    assert min(counts) > COUNT / 2, counts
    others = [line for line in n1.log.read_text(encoding="utf-8").splitlines() if not line.startswith("{")]
    assert len(others) <= 3, others[:5]
    print(f"pull: {quiet_s:.2f} s alone, {busy_s:.2f} s with strangers; peak {peak_bytes / 1e6:.0f} MB; {counts}")
    assert peak_bytes < BUDGET_BYTES + (100 << 20)
    if timed:
        assert busy_s <= 1.2 * quiet_s


def texts(log: Path) -> list[str]:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return [json.loads(line)["text"] for line in lines]


def refusals(log: Path, port: str = "piece") -> list[str]:
    return [text for text in texts(log) if f"is refused at the {port} port" in text]


def counted(log: Path) -> tuple[int, int]:
    """Refused at the gRPC port and at the piece port, as the daemon says when it stops."""
    last = [text for text in texts(log) if text.startswith("refused since the start")][-1]
    grpc, pieces = re.findall(r"[0-9]+", last)
    return int(grpc), int(pieces)
