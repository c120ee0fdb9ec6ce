"""A hub that misbehaves: every node ends with the model all the same, or says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.cluster import CommandError, Node
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.served import read_requests, summarize

_SHARDS = "*.safetensors"
_SOME_BYTES = 300_000
_HELPS_ITSELF_S = 15.0
"""A node to which nothing comes for so long reads from the hub what it lacks, whatever others read."""


def _largest_file(model: LabModel) -> int:
    return max((model.folder / path).stat().st_size for path in model.digests)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("429", {"count": 4, "retry_after_s": 1}),
        ("429", {"count": 4, "retry_after_s": 1, "ratelimit": True}),
        ("503", {"count": 6, "retry_after_s": 0.2}),
        ("500", {"count": 6}),
        ("close", {"count": 6, "after_bytes": _SOME_BYTES}),
        ("stall", {"count": 2, "after_bytes": _SOME_BYTES}),
        ("200-for-206", {"count": 3}),
        ("short", {"count": 6}),
        # What is not asked for again is met only as often as a pull asks at least: once for each of three files.
        ("long", {"count": 3}),
        ("etag", {"count": 1}),
        ("wrong-bytes", {"count": 1, "after_bytes": _SOME_BYTES}),
        ("429", {"on": "api", "count": 1, "retry_after_s": 1}),
        ("503", {"on": "api", "count": 1, "retry_after_s": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_what_passes_is_waited_out_or_read_again(
    trio: list[Node], hub: LocalHub, model: LabModel, tmp_path: Path, kind: str, given: dict[str, Any]
) -> None:
    hub.fault(kind, **({"path": _SHARDS} if given.get("on") != "api" else {}), **given)
    summary = trio[0].json("pull", model.repo)[-1]
    assert summary["state"] == "done", summary
    for node in trio:
        check_copy(model, node.home)
    assert not any(fault["count"] for fault in hub.faults.listed()), "the fault was never met"
    if kind in ("429", "503", "500", "short", "close"):
        assert summarize(read_requests(tmp_path / "access.log")).total_bytes <= 1.15 * model.size_bytes
    if kind == "wrong-bytes":  # no piece of that file is known to be right, so all of it is read again, and no other
        hub.settle()
        read = summarize(read_requests(tmp_path / "access.log")).total_bytes
        assert model.size_bytes < read <= 1.15 * model.size_bytes + _largest_file(model)
        assert summary["wall_s"] < _HELPS_ITSELF_S


@pytest.mark.parametrize(
    ("kind", "given", "exit_codes"),
    [
        ("wrong-bytes", {"after_bytes": 10}, {8, 9}),
        ("404", {"code": "EntryNotFound"}, {3, 9}),
        ("403", {"code": "GatedRepo"}, {4, 9}),
    ],
)
def test_what_does_not_pass_ends_the_pull_with_a_reason(
    trio: list[Node], hub: LocalHub, model: LabModel, kind: str, given: dict[str, Any], exit_codes: set[int]
) -> None:
    shard = max(model.digests, key=lambda path: (model.folder / path).stat().st_size)
    hub.fault(kind, path=f"*{shard}", **given)
    with pytest.raises(CommandError) as caught:
        trio[0].json("pull", model.repo, timeout_s=60)
    assert caught.value.exit_code in exit_codes
    assert shard in caught.value.stderr + caught.value.stdout
    for node in trio:
        assert not list(node.home.glob("hub/models--*/refs/*")), "the model must not look complete"


@pytest.mark.parametrize("hub", [{"redirect": "hub"}], indirect=True, ids=["redirects"])
@pytest.mark.parametrize("expire", [False, True], ids=["good", "expired"])
def test_files_behind_signed_urls(trio: list[Node], hub: LocalHub, model: LabModel, *, expire: bool) -> None:
    if expire:
        hub.fault("403-signed", count=3)
    assert trio[0].json("pull", model.repo)[-1]["state"] == "done"
    for node in trio:
        check_copy(model, node.home)
    carried = [record for record in hub.records if record["storage"] and record["auth"]]
    assert not carried, "the token went to another origin"
