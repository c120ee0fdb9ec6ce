"""A hub that misbehaves in another way to each of four machines, in one and the same pull."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from bench.models import check_copy, make_lab_model
from bench.served import summarize
from tests.lab.conftest import MIB, MakeLab, plans
from tests.lab.holdings import PIECE_BYTES

pytestmark = pytest.mark.timeout(180)

# The hub answers with a redirect to a signed URL, as the real one does: a node asks the hub itself once for each file.
ASKED, SIGNED = "/lab/model/resolve/*.safetensors", "/_storage/*.safetensors"
ASKED_LATER = "/lab/model/resolve/*/model-0000[23]-of-*"
SOME_BYTES = 3 * MIB // 2

# What keeps a node from the hub for seconds (500, a changed etag) comes last.
FAULTS: dict[str, list[dict[str, Any]]] = {
    "n1": [
        {"kind": "429", "path": ASKED, "count": 1, "retry_after_s": 1},
        {"kind": "short", "path": SIGNED, "count": 1},
        {"kind": "500", "path": SIGNED, "count": 1},
    ],
    "n2": [
        {"kind": "503", "path": ASKED, "count": 1, "retry_after_s": 1},
        {"kind": "close", "path": SIGNED, "count": 2, "after_bytes": SOME_BYTES},
    ],
    "n3": [
        {"kind": "200-for-206", "path": SIGNED, "count": 1},
        {"kind": "stall", "path": SIGNED, "count": 1, "after_bytes": SOME_BYTES},
    ],
    "n4": [
        {"kind": "403-signed", "path": SIGNED, "count": 1},
        {"kind": "long", "path": SIGNED, "count": 1},
        {"kind": "etag", "path": ASKED_LATER, "count": 1},
    ],
}
"""Node -> what the hub does to it."""


def test_each_node_meets_other_faults_of_the_hub_and_all_end_with_its_bytes(
    make_lab: MakeLab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = make_lab_model(tmp_path_factory.mktemp("hub"), size_bytes=96 * MIB)
    lab = make_lab(plans(*[80.0] * 4), model=model, faulty=True, options=["--redirect", "hub"])
    nodes = lab.start()
    for name, faults in FAULTS.items():
        for fault in faults:
            lab.fault(**fault, client=lab.net.hub_address(name))
    summary = nodes[0].json("pull", model.repo)[-1]
    assert summary["state"] == "done", summary
    for node in nodes:
        check_copy(model, node.home)

    lab.stop_hub()
    lines = [json.loads(line) for line in lab.hub_log.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["time"])
    for name, faults in FAULTS.items():
        met = [line for line in lines if line["fault"] and line["client"] == lab.net.hub_address(name)]
        assert Counter(line["fault"] for line in met) == kinds(faults), name
    expired = next(line for line in lines if line["fault"] == "403-signed")
    answers = [line["status"] for line in lines if what_was_asked(line) == what_was_asked(expired)]
    assert answers[-3:] == [403, 302, 206], "the hub is asked for a new URL, and the range is read there"
    served = summarize(lab.requests()).total_bytes
    wasted = sum(map(wasted_bytes, lines))
    extra = served - model.size_bytes
    print(f"{summary['wall_s']:.1f} s; the hub served {extra} bytes too many, its faults account for {wasted}")
    assert extra <= wasted + len(nodes) * PIECE_BYTES


def what_was_asked(line: dict[str, Any]) -> tuple[str, str, str]:
    """Who asked for what, at the hub or where it redirects to."""
    return line["client"], line["path"].split("?")[0].rpartition("/")[2], line["range"]


def kinds(faults: list[dict[str, Any]]) -> Counter[str]:
    """What the hub's log says when all of these faults were met."""
    counted: Counter[str] = Counter()
    for fault in faults:
        counted["status" if fault["kind"].isdigit() else fault["kind"]] += fault["count"]
    return counted


def wasted_bytes(line: dict[str, Any]) -> int:
    """Bytes that an answer brought and that nobody can use, by what was wrong with it."""
    if line["fault"] in ("close", "stall"):
        return PIECE_BYTES  # a piece of which a part has come may be read anew
    if line["fault"] in ("200-for-206", "long"):
        first, last = map(int, line["range"].removeprefix("bytes=").split("-"))
        return max(0, int(line["bytes"]) - (last + 1 - first))
    return 0
