"""Whose word counts in a pull: what is said by a node that has no say, or too late, is dropped before it is read."""

from __future__ import annotations

from typing import Any

from exo_dl.core.succession import Claim
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.dropped import Reason
from exo_dld.nodestate import State

__all__ = ["objection"]

_ENDS = (State.DONE.value, State.FAILED.value, State.CANCELLED.value)


def objection(
    node: str, message: pb.LinkMessage, *, wants: bool, banned: bool, me: str, claim: Claim, generation: int
) -> Reason | None:
    """Why a message about a pull is not to be heard; None where nothing speaks against it.

    Args:
        node: who says it.
        message: what.
        wants: it is a target of the pull.
        banned: it sent wrong bytes again and again.
        me: this node.
        claim: who coordinates.
        generation: of the pull.
    """
    kind = message.WhichOneof("body")
    body: Any = getattr(message, kind) if kind else None
    match kind:
        case "pull_join" | "lease_ask" | "lease_progress" | "lease_end":
            if not wants or banned:
                return Reason.NO_SAY
            return None if claim == Claim(body.epoch, me) else Reason.OTHER_EPOCH
        case "have_map" | "have" | "suspect":
            return None if wants and not banned else Reason.NO_SAY
        case "have_query" if body.epoch == 0:
            return None if wants else Reason.NO_SAY
        case "lease_grant" | "lease_cut" | "have_query":
            if body.epoch != claim.epoch:
                return Reason.OTHER_EPOCH
            return None if node == claim.node else Reason.NO_SAY
        case "node_progress" | "pull_note" | "pull_end" if body.generation != generation:
            return Reason.OTHER_EPOCH
        case "node_progress":
            return None if wants else Reason.NO_SAY
        case "pull_end" if body.state not in _ENDS:
            return Reason.MALFORMED
        case "pull_end":
            return None if State.CANCELLED.value == body.state or node == claim.node else Reason.NO_SAY
    return None
