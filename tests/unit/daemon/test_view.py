"""What one node shows of a pull: when it ends, what it waits for, and that nothing in it goes back."""

from __future__ import annotations

import pytest

from exo_dl.core.leases import HeldLease
from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.errors import ProtocolError
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld import messages
from exo_dld.nodestate import NodeState, State
from exo_dld.view import LOST_GRACE_S, NodeView, PullView

MIB = 1 << 20
MANIFEST = Manifest(
    "huggingface",
    "model",
    "org/name",
    "c" * 40,
    tuple(FileEntry(path, 8 * MIB, path.encode() * 32, path.encode() * 20) for path in "ab"),
    (),
)


def view_of(**states: NodeState) -> PullView:
    view = PullView("p", "org/name", "main", "c" * 40, "hf", 1, 100, 0.0)
    view.nodes = {name: NodeView(name, name, state) for name, state in states.items()}
    return view


def lose(view: PullView, name: str, at: float) -> None:
    view.nodes[name].state, view.nodes[name].lost_at = NodeState.LOST, at


def test_a_pull_waits_for_a_lost_node_for_the_grace_and_for_nothing_longer() -> None:
    view = view_of(a=NodeState.DONE, b=NodeState.PULLING)
    lose(view, "b", 10.0)
    assert view.waits_for() == ["b"]
    assert view.outcome(10.0 + LOST_GRACE_S - 0.1) is None
    assert view.outcome(10.0 + LOST_GRACE_S) is State.FAILED
    assert "b: the link to it was lost" in view.summary()


def test_a_lost_node_ends_nothing_while_another_works() -> None:
    view = view_of(a=NodeState.PULLING, b=NodeState.PULLING)
    lose(view, "b", 0.0)
    assert view.outcome(1000.0) is None
    assert view.waits_for() == []


def test_a_failed_pull_is_done_after_all_when_the_lost_node_gets_through() -> None:
    view = view_of(a=NodeState.DONE, b=NodeState.DONE)
    lose(view, "b", 0.0)
    view.state, view.error = State.FAILED, view.summary()
    assert not view.heal()
    view.nodes["b"].update(pb.NodeProgress(state=int(NodeState.DONE), bytes_wanted=5, bytes_done=5))
    assert view.heal()
    assert (view.state, view.error) == (State.DONE, "")


def test_a_cancelled_pull_stays_cancelled() -> None:
    view = view_of(a=NodeState.DONE)
    view.state = State.CANCELLED
    assert not view.heal()


def rows(view: PullView) -> tuple[list[str], list[str]]:
    shown = view.to_pb(0.0, coordinator="a", epoch=1)
    return [node.name for node in shown.nodes], [node.name for node in shown.lost_nodes]


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED])
def test_a_lost_node_has_no_row_after_the_end_until_it_comes_back(end: State) -> None:
    view = view_of(a=NodeState.DONE, b=NodeState.PULLING)
    view.nodes["b"].bytes_wanted, view.nodes["b"].bytes_done = 100, 40
    assert view.lose("b", 1.0)
    assert rows(view) == (["a", "b"], [])
    assert "b" in view.farewell()
    view.end(end, "", 7.0)
    assert rows(view) == (["a"], ["b"])
    assert view.to_pb(8.0, coordinator="a", epoch=1).bytes_done == 40, "the sum does not go back"
    view.nodes["b"].update(pb.NodeProgress(state=int(NodeState.PULLING), bytes_wanted=100, bytes_done=50))
    assert rows(view) == (["a", "b"], [])
    view.lose("b", 9.0)
    assert rows(view) == (["a"], ["b"]), "it was lost again"


def test_of_a_pull_that_went_well_nobody_is_lost() -> None:
    view = view_of(a=NodeState.DONE, late=NodeState.PULLING)
    assert view.farewell() == ""
    view.end(State.DONE, "", 1.0)
    assert not view.lose("a", 2.0)
    assert not view.lose("late", 2.0)
    assert rows(view) == (["a"], [])


def test_what_a_lost_node_was_to_read_is_told() -> None:
    view = view_of(a=NodeState.PULLING, b=NodeState.PULLING)
    view.manifest = MANIFEST
    view.nodes["b"].leases = (HeldLease(1, 0, 4, 1), HeldLease(2, 6, 8, 6))
    assert view.unread("b") == "", "it is there"
    view.lose("b", 1.0)
    left = (MANIFEST.run_bytes(1, 4) + MANIFEST.run_bytes(6, 8)) / 1e6
    assert view.unread("b").startswith(f"b was to read {left:.1f} MB more from the hub (a, and elsewhere)")
    view.lose("a", 1.0)
    assert view.unread("a") == view.unread("nobody") == "", "it read nothing"


def test_progress_never_goes_back_nor_above_what_is_wanted() -> None:
    node = NodeView("a", "a")
    for said, shown in ((40, 40), (30, 40), (250, 100)):
        node.update(pb.NodeProgress(state=int(NodeState.PULLING), bytes_wanted=100, bytes_done=said))
        assert node.bytes_done == shown


def test_a_node_that_works_no_more_has_no_rates() -> None:
    node = NodeView("a", "a", NodeState.PULLING, hub_bytes_per_s=5.0, peer_bytes_per_s=5.0, hub_connections=2)
    node.state = NodeState.LOST
    shown = node.to_pb()
    assert (shown.hub_bytes_per_s, shown.peer_bytes_per_s, shown.hub_connections) == (0.0, 0.0, 0)


def test_a_node_that_reads_shows_what_of_which_file() -> None:
    view = view_of(a=NodeState.PULLING)
    view.manifest = MANIFEST
    end = MANIFEST.piece_count
    leases = wire.held_leases_to_pb((HeldLease(7, 0, end, end // 2 + 1),))
    word = pb.NodeProgress(state=int(NodeState.PULLING), leases=leases)
    view.nodes["a"].update(word, messages.leases_told(word, MANIFEST))
    [shown] = view.to_pb(0.0, coordinator="a", epoch=1).nodes[0].leases
    assert (shown.first, shown.end, shown.position, shown.path) == (0, end, end // 2 + 1, "b")
    assert shown.bytes_left == MANIFEST.run_bytes(end // 2 + 1, end)
    for state in (NodeState.LOST, NodeState.DONE):
        view.nodes["a"].state = state
        assert not view.to_pb(0.0, coordinator="a", epoch=1).nodes[0].leases
    view.nodes["a"].update(pb.NodeProgress(state=int(NodeState.PULLING)))
    assert not view.to_pb(0.0, coordinator="a", epoch=1).nodes[0].leases


def test_leases_that_no_node_can_hold_are_refused() -> None:
    end = MANIFEST.piece_count
    for leases in ([HeldLease(1, 0, end + 1, 0)], [HeldLease(1, 0, 1, 0)] * (wire.MAX_SHOWN_LEASES + 1)):
        word = pb.NodeProgress(state=int(NodeState.PULLING), leases=wire.held_leases_to_pb(tuple(leases)))
        with pytest.raises(ProtocolError):
            messages.leases_told(word, MANIFEST)


def test_what_several_nodes_notice_is_told_once() -> None:
    view = view_of()
    view.nodes["qkqowsuact4m2473"] = NodeView("qkqowsuact4m2473", "studio")
    assert view.note("qkqowsuact4m2473 is slow", 0.0)
    assert view.events.pop().endswith(" s: studio is slow")
    assert view.note("the hub is busy", 1.0)
    assert not view.note("the hub is busy", 2.0)
    assert view.note("the hub is busy", 8.0)
    assert len(view.events) == 2
    for number in range(500):
        view.note(f"{number}", 9.0)
    assert len(view.events) == 50


def test_a_lost_node_is_waited_for_while_the_pull_runs() -> None:
    view = view_of(a=NodeState.DONE, b=NodeState.PULLING)
    assert view.lose("b", 1.0) and view.nodes["b"].state is NodeState.LOST
    assert view.find("b") and view.nodes["b"].state is NodeState.WAITING
    assert not view.lose("a", 2.0) and view.nodes["a"].state is NodeState.DONE
    assert not view.find("a") and not view.lose("stranger", 3.0) and not view.find("stranger")


def test_after_the_end_those_are_late_that_are_not_through() -> None:
    view = view_of(a=NodeState.DONE, b=NodeState.PULLING, c=NodeState.FAILED, d=NodeState.LOST)
    view.end(State.DONE, "", 10.0)
    assert not view.lose("b", 11.0), "a late node that goes again is nobody's loss"
    nodes = ("a", "b", "c", "d", "new")
    assert [node for node in nodes if view.is_late(node)] == ["b", "d", "new"]
    view.state = State.CANCELLED
    assert not any(view.is_late(node) for node in nodes)


def test_who_was_away_since_it_was_through_does_not_go_on_for_the_coordinator_until_it_speaks() -> None:
    view = view_of(a=NodeState.DONE, b=NodeState.DONE, c=NodeState.PULLING)
    assert view.holders(["a", "b", "c", "new"]) == {"a", "b"}
    view.lose("a", 1.0)
    assert view.holders(["a", "b", "c", "new"]) == {"b"}
    view.nodes["a"].update(pb.NodeProgress(state=NodeState.DONE))
    assert view.holders(["a", "b"]) == {"a", "b"}
    assert view.holders(["b"]) == {"b"}
