from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from exo_dl.cli import plain, views
from exo_dl.cli.plain import JsonView, PlainView, summary
from exo_dl.rpc.v1 import pull_pb2
from exo_dl.types import NodeState, Pull, from_message
from tests.unit.client.fake_daemon import make_node, make_pull

SUMMARY = {
    *("pull_id", "repo", "commit", "state", "wall_s", "bound_s"),
    *("bytes_wanted", "bytes_from_hub", "bytes_from_peers", "nodes", "lost_nodes"),
}
SUMMARY_NODE = {
    *("id", "name", "state", "bytes_wanted", "bytes_done", "bytes_from_hub", "bytes_from_peers"),
    *("hub_bytes_per_s", "peer_bytes_per_s", "error"),
}


def pull_of(state: pull_pb2.PullState = pull_pb2.PULL_STATE_RUNNING, **values: object) -> Pull:
    return from_message(Pull, make_pull(state, **values))


def drawn(pull: Pull, *, width: int = 140, height: int = 30) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(views.render(pull, width=width, height=height))
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]


def test_live_view_has_a_bar_for_each_node_and_a_line_for_the_cluster() -> None:
    lines = drawn(pull_of()).splitlines()
    assert lines[0].startswith("org/model at c0ffee")
    for line, name in zip(lines[1:3], ("anna", "bob"), strict=True):
        assert line.startswith(name)
        for part in ("━", "50 %", "1.0 GB/2.0 GB", "hub 20.0 MB/s (600 MB)", "peers 80.0 MB/s (400 MB)", "10 s left"):
            assert part in line
    assert lines[3].startswith("cluster 50 %  0/2 nodes  hub 40.0 MB/s (1.2 GB)  peers 160 MB/s (800 MB)")
    assert "(least 10 s)" in lines[3]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 84, 100, 112, 130, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    nodes = [
        make_node("n" * 60, pull_pb2.NODE_PULL_STATE_FAILED, error="disk full " * 20),
        make_node("b", pull_pb2.NODE_PULL_STATE_PULLING),
    ]
    lines = drawn(pull_of(nodes=nodes, events=["something happened " * 10]), width=width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert len(lines) <= 6


@pytest.mark.parametrize("width", range(70, 200, 7))
def test_figures_are_whole_where_the_terminal_is_wide_enough(width: int) -> None:
    lines = drawn(pull_of(nodes=[make_node("a-name-of-24-characters-", pull_pb2.NODE_PULL_STATE_PULLING)]), width=width)
    assert "…" not in lines.splitlines()[1]


def test_an_error_of_a_node_has_a_line_of_its_own() -> None:
    nodes = [make_node("anna", pull_pb2.NODE_PULL_STATE_FAILED, error="The disk is full.")]
    lines = drawn(pull_of(nodes=nodes)).splitlines()
    assert lines[1].rstrip().endswith("failed")
    assert lines[-1].rstrip() == "anna: The disk is full."


def test_many_nodes_fit_the_height_and_those_at_work_come_first() -> None:
    nodes = [make_node(f"done-{i}", pull_pb2.NODE_PULL_STATE_DONE) for i in range(40)]
    nodes.append(make_node("busy", pull_pb2.NODE_PULL_STATE_PULLING))
    lines = drawn(pull_of(nodes=nodes), height=20).splitlines()
    assert len(lines) <= 20
    assert lines[1].startswith("busy")
    assert "more nodes" in lines[-2]


def test_a_bar_is_never_longer_than_it_is_and_full_only_at_the_end() -> None:
    for done, held, hub, peers in [(0, 0, 0, 0), (1, 0, 0, 1), (1999, 5, 9000, 3), (2000, 0, 1, 1999), (1500, 0, 0, 0)]:
        node = pull_of(
            nodes=[
                make_node(
                    "a",
                    pull_pb2.NODE_PULL_STATE_PULLING,
                    bytes_wanted=2000,
                    bytes_done=done,
                    bytes_held=held,
                    bytes_from_hub=hub,
                    bytes_from_peers=peers,
                )
            ]
        ).nodes[0]
        bar = views._bar(node, 40)
        assert len(bar.plain) == 40
        rest = sum(span.end - span.start for span in bar.spans if span.style == views._STYLE["rest"])
        assert (rest == 0) == (done == 2000)


def test_a_line_names_the_file_that_a_node_reads_from_the_hub() -> None:
    def line(*paths: str) -> str:
        leases = [pull_pb2.NodeLease(first=0, end=9, position=2, path=path, bytes_left=7) for path in paths]
        node = make_node("a", pull_pb2.NODE_PULL_STATE_PULLING, leases=leases)
        return plain.node_line(pull_of(nodes=[node]).nodes[0])

    assert "reading" not in line()
    assert line("one\x1b", "one\x1b").endswith(", reading one�")
    assert line("one", "two", "three").endswith(", reading one and 2 more")


def test_live_view_gives_the_terminal_back() -> None:
    console = Console(file=io.StringIO(), width=100, height=20, force_terminal=True)
    view = views.LiveView(console)
    view.update(pull_of())
    view.update(pull_of(pull_pb2.PULL_STATE_DONE))
    view.close()
    view.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_plain_lines_tell_changes_and_not_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    view = PlainView(lambda: now)
    view.update(pull_of(events=["a"]))
    first = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[1].split(",")[0] for line in first] == ["a", "anna: pulling", "bob: pulling", "50 %"]
    now = 101.0
    view.update(pull_of(events=["a"]))
    assert capsys.readouterr().out == ""
    view.update(pull_of(events=["a", "b\x1b"]))
    assert capsys.readouterr().out.split(" ", 1)[1] == "b�\n"
    now = 105.5
    view.update(pull_of(events=["a", "b\x1b"]))
    assert len(capsys.readouterr().out.splitlines()) == 3
    view.update(pull_of(pull_pb2.PULL_STATE_DONE, events=["a", "b\x1b"]))
    assert [line.split(" ", 1)[1].split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "anna: done",
        "bob: done",
    ]


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ((), (), ()),
        ((), ("a",), ("a",)),
        (("a",), ("a", "b"), ("b",)),
        (("a", "b", "c"), ("b", "c", "d"), ("d",)),
        (("a", "a"), ("a", "a", "a"), ("a",)),
        (("a", "b"), ("x", "y"), ("x", "y")),
    ],
)
def test_new_events_of_a_list_that_forgets_its_oldest(before: tuple, after: tuple, new: tuple) -> None:  # type: ignore[type-arg]
    assert plain._new_events(before, after) == new


def test_json_view_prints_changes_at_once_and_progress_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter((100.0, 100.5, 101.1, 101.2))
    view = JsonView(lambda: next(times))
    for _ in range(3):
        view.update(pull_of())
    view.update(pull_of(pull_pb2.PULL_STATE_DONE))
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [document["state"] for document in documents] == ["running", "running", "done"]
    assert list(documents[0]) == [spec.name for spec in pull_pb2.Pull.DESCRIPTOR.fields]


def test_summary_has_the_fields_of_the_contract() -> None:
    document = summary(pull_of(pull_pb2.PULL_STATE_DONE))
    assert set(document) == SUMMARY
    assert set(document["nodes"][0]) == SUMMARY_NODE
    assert document["nodes"][0]["state"] is NodeState.DONE
    assert json.loads(json.dumps(document))["state"] == "done"
