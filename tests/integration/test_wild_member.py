"""A member with bad intent: it can waste others' time and bytes, and nothing more."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cluster import CommandError, Node, hub_cache, wait_until
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from exo_dl.core.manifest import pull_id_for
from exo_dl.hubs.huggingface import HuggingFaceHub
from exo_dl.net import wire
from exo_dl.net.http_head import render_answer
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.link import PROTOCOL
from exo_dld.nodestate import NodeState
from tests.integration.conftest import MakeNodes, start_all
from tests.integration.wild_member import WildMember, events_of, made_up
from tests.unit.net.data_plane import WildPeer

React = Callable[[WildMember, str, pb.LinkMessage], None]


@pytest.fixture
def pair(make_nodes: MakeNodes) -> list[Node]:
    nodes = make_nodes("one", "two")
    start_all(nodes)
    return nodes


def wild(nodes: list[Node], react: React, *, piece_port: int | None = None, protocol: int = PROTOCOL) -> WildMember:
    secret, peer = nodes[0].env["EXO_DL_CLUSTER_SECRET"], f"127.0.0.1:{nodes[0].port}"
    return WildMember(secret, peer, on_message=react, piece_port=piece_port, protocol=protocol)


def pulled(nodes: list[Node], model: LabModel) -> str:
    """Pulls the model, sees that both honest nodes have it, and gives the faults that they show."""
    summary = nodes[0].json("pull", model.repo, timeout_s=90)[-1]
    assert summary["state"] == "done", summary
    views = []
    for node in nodes:
        check_copy(model, node.home)
        views.append(node.json("status", summary["pull_id"])[-1])
    return events_of(views)


def dropped(node: Node, reason: str) -> int:
    """What a node counts of this reason, as `exo-dl metrics` shows it.

    That is the node which began the pull: the other may hear a word before it has opened the pull.
    """
    return int(node.json("metrics")[-1][f"dropped_{reason}"])


def on_offer(act: Callable[[WildMember, pb.PullOffer], None]) -> React:
    def react(member: WildMember, node: str, message: pb.LinkMessage) -> None:
        if message.WhichOneof("body") == "pull_offer":
            act(member, message.pull_offer)
            member.done(message.pull_offer.pull_id)

    return react


# So slow that what the member says it has is asked of it, and not there from the hub at once.
SLOW_HUB = pytest.mark.parametrize("hub", [{"rate": 8e6}], indirect=True, ids=["8MB/s"])


@SLOW_HUB
def test_bytes_that_do_not_have_the_digest_which_their_sender_named(pair: list[Node], model: LabModel) -> None:
    with wild(pair, on_offer(lambda member, offer: member.announce(offer.pull_id, made_up))):
        events = pulled(pair, model)
    assert "wild sent wrong bytes again and again" in events
    assert sum(dropped(node, "wrong_bytes") for node in pair) >= 3


def test_bytes_that_have_the_digest_which_their_sender_made_up(pair: list[Node], model: LabModel) -> None:
    """Only the digests of whole files show it; it lies again about the second reading."""

    def react(member: WildMember, node: str, message: pb.LinkMessage) -> None:
        kind = message.WhichOneof("body")
        if kind == "pull_offer":
            pull_id = message.pull_offer.pull_id
            member.announce(pull_id, member.zero_digests(pull_id))
            member.done(pull_id)
        elif kind == "have_query":
            pull_id = message.have_query.pull_id
            member.announce(pull_id, member.zero_digests(pull_id), reading=1)

    with wild(pair, react):
        events = pulled(pair, model)
    assert "does not have the digest that the hub names" in events
    # Its bytes are what it said, so no answer is wrong; what is dropped is the reading, and that is shown.
    assert dropped(pair[0], "wrong_bytes") == 0


def test_one_that_holds_nothing_of_what_it_says(pair: list[Node], model: LabModel) -> None:
    with wild(pair, on_offer(lambda member, offer: member.announce(offer.pull_id, made_up)), piece_port=9):
        pulled(pair, model)
    assert dropped(pair[0], "no_answer") >= 1


@SLOW_HUB
def test_one_that_answers_byte_by_byte(pair: list[Node], model: LabModel) -> None:
    def dribble(sock: socket.socket, _number: int) -> None:
        sock.sendall(render_answer(200, 1 << 20, {}, keep=True))
        while not peer.stop.wait(0.05):
            sock.send(b"x")

    peer = WildPeer(dribble)
    try:
        with wild(pair, on_offer(lambda member, offer: member.announce(offer.pull_id, made_up)), piece_port=peer.port):
            pulled(pair, model)
    finally:
        peer.close()
    assert dropped(pair[0], "no_answer") >= 1


def _out_of_range(member: WildMember, offer: pb.PullOffer) -> None:
    run = pb.HaveRun(first=1 << 20, digests=bytes(32))
    member.say(pb.LinkMessage(have=pb.Have(pull_id=offer.pull_id, runs=[run])))


def _endless(member: WildMember, offer: pb.PullOffer) -> None:
    word = pb.NodeProgress(pull_id=offer.pull_id, state=NodeState.DONE, generation=offer.generation)
    member.without_end(pb.LinkMessage(node_progress=word))


def _strange_leases(member: WildMember, offer: pb.PullOffer) -> None:
    member.say(pb.LinkMessage())  # how a message of a later version looks here
    for pull_id, epoch in (("f" * 20, 1), (offer.pull_id, 0), (offer.pull_id, offer.epoch + 7)):
        grant = pb.LeaseGrant(pull_id=pull_id, epoch=epoch, lease_id=1, slot=0, first=0, end=1)
        cut = pb.LeaseCut(pull_id=pull_id, epoch=epoch, lease_id=1 << 32 | 1, end=0)
        for body in ({"lease_grant": grant}, {"lease_cut": cut}):
            member.say(pb.LinkMessage(**body))  # type: ignore[arg-type]


def _suspects_everything(member: WildMember, offer: pb.PullOffer) -> None:
    for blob in member.manifests[offer.pull_id].blobs:
        for reading in (0, 0, 1, 2, 999):
            body = pb.Suspect(pull_id=offer.pull_id, reading=pb.BlobReading(blob=blob.index, reading=reading))
            member.say(pb.LinkMessage(suspect=body))


@pytest.mark.parametrize(
    ("act", "reasons"),
    [
        (_out_of_range, {"malformed": 1}),
        (_endless, {"too_many": 1}),
        (_strange_leases, {"other_protocol": 1, "unknown_pull": 2, "other_epoch": 4}),
        (_suspects_everything, {"too_many": 1}),
    ],
)
def test_what_a_member_may_not_say_changes_nothing(
    pair: list[Node], model: LabModel, act: Callable[[WildMember, pb.PullOffer], None], reasons: dict[str, int]
) -> None:
    with wild(pair, on_offer(act)) as member:
        pulled(pair, model)
        for reason, least in reasons.items():
            wait_until(lambda r=reason, n=least: dropped(pair[0], r) >= n, timeout_s=10, what=reason)  # type: ignore[misc]
        if act is _out_of_range:
            assert any("outside of this pull" in node.log_tail(lines=200) for node in pair)
            assert member.down


@pytest.mark.parametrize("hub", [{"rate": 8e6}], indirect=True, ids=["8MB/s"])
def test_one_that_speaks_a_later_version_is_refused_while_a_pull_runs(pair: list[Node], model: LabModel) -> None:
    pair[0].json("pull", model.repo, "--no-wait")
    with wild(pair, lambda *_: None, protocol=PROTOCOL + 1) as member:
        wait_until(
            lambda: pair[0].metrics().dropped_other_protocol >= 1, timeout_s=10, what="it is refused, and counted"
        )
        assert pair[0].metrics().pulls_running == 1
        problems = {peer["id"]: peer["problem"] for peer in pair[0].json("peers")[-1]["peers"]}
        assert f"It speaks protocol {PROTOCOL + 1}, this daemon speaks {PROTOCOL}" in problems[member.id]
        assert pair[0].up_peers() == ["two"]
        assert dropped(pair[0], "other_protocol") >= 1
        assert pair[0].json("pull", model.repo)[-1]["state"] == "done"
        assert not member.offers, "it hears nothing of the pull"
    for node in pair:
        check_copy(model, node.home)


def test_a_coordinator_that_gives_no_leases(pair: list[Node], model: LabModel) -> None:
    """It claims the chair with a higher epoch, and then nothing comes of it: the nodes help themselves."""

    def usurp(member: WildMember, offer: pb.PullOffer) -> None:
        claim = pb.PullOffer()
        claim.CopyFrom(offer)
        claim.epoch, claim.coordinator_id = offer.epoch + 5, member.id
        member.say(pb.LinkMessage(pull_offer=claim))

    with wild(pair, on_offer(usurp)):
        pair[0].json("pull", model.repo, "--no-wait")
        deadline = time.monotonic() + 60
        # By its whole name: it is written under another one first.
        while not all((hub_cache(node.home, model.repo) / "refs" / "main").is_file() for node in pair):
            assert time.monotonic() < deadline, "the model did not come"
            pair[0].up_peers()
    for node in pair:
        check_copy(model, node.home)


def test_a_list_of_files_that_is_not_the_hubs(pair: list[Node], hub: LocalHub, model: LabModel) -> None:
    """A member offers a model with a digest of its own: each node asks the hub, and nothing becomes visible."""
    true = HuggingFaceHub(hub.url, "").resolve(model.repo).manifest
    first, *rest = true.files
    false = replace(true, files=(replace(first, digest=bytes(len(first.digest))), *rest))
    pull_id = pull_id_for(false, "hf")
    with wild(pair, lambda *_: None) as member:
        offer = pb.PullOffer(
            pull_id=pull_id,
            manifest=wire.manifest_to_pb(false),
            coordinator_id=member.id,
            epoch=1,
            layout="hf",
            endpoint=hub.url,
            revision="main",
            generation=1,
        )
        member.from_outside(pb.LinkMessage(pull_offer=offer))

        def refused(node: Node) -> bool:
            views = [view for view in node.json("status")[-1]["pulls"] if view["pull_id"] == pull_id]
            errors = [each["error"] for view in views for each in view["nodes"] if each["name"] == node.name]
            return any("is not the hub's" in error and first.path in error for error in errors)

        for node in pair:
            wait_until(lambda node=node: refused(node), timeout_s=10, what=f"{node.name} refuses")  # type: ignore[misc]
            assert not list(node.home.glob("hub/models--*/refs/*"))
    # Parts of the refused pull stay, as of any that failed; the true one is not held up by them.
    assert pair[0].json("pull", model.repo)[-1]["state"] == "done"


@pytest.mark.parametrize("kind", ["system", "hidden", "strange"])
def test_a_folder_that_others_may_not_name_is_refused_and_told(
    pair: list[Node], model: LabModel, tmp_path: Path, kind: str
) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("not from a hub")
    target = {"system": "/usr/share/exo-dl-test", "hidden": f"{tmp_path}/.hidden/x", "strange": str(strange)}[kind]
    with pytest.raises(CommandError) as caught:
        pair[0].json("pull", model.repo, "--nodes", "two", "--layout", f"dir:{target}", timeout_s=60)
    error = caught.value
    assert error.exit_code == 9
    assert "two" in error.stderr + error.stdout
    assert "EXO_DL_ALLOW_DIRS" in error.stderr + error.stdout
    assert sorted(strange.iterdir()) == [strange / "thesis.txt"]
    assert not Path("/usr/share/exo-dl-test").exists()


def test_a_folder_that_the_settings_allow_may_be_named(make_nodes: MakeNodes, model: LabModel, tmp_path: Path) -> None:
    target = tmp_path / "models" / ".kept"
    nodes = make_nodes("one", "two", EXO_DL_ALLOW_DIRS=str(tmp_path / "models"))
    start_all(nodes)
    assert nodes[0].json("pull", model.repo, "--nodes", "two", "--layout", f"dir:{target}")[-1]["state"] == "done"
    assert (target / "config.json").exists()
