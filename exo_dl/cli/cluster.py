"""``exo-dl cluster``: the secret that makes machines one cluster, and tickets for those who only watch."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exo_dl import locations, secretfile
from exo_dl.cli.options import common, note, open_access, require_local, run
from exo_dl.cli.text import print_json
from exo_dl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from exo_dl.access import ReaderTicket, Rotation

__all__ = ["cluster"]

_PROBE_TIMEOUT_S = 2.0
_NEXT = "To add a machine, run there: exo-dl cluster join SECRET && exo-dl up"


@click.group()
def cluster() -> None:
    """Who belongs to the cluster, and who may watch it."""


@cluster.command("new-secret")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new_secret(*, as_json: bool) -> None:
    """Print a fresh cluster secret. Nothing is stored."""
    from exo_dl.net import identity

    text = identity.new_secret()
    if as_json:
        print_json({"secret": text})
    else:
        print(text)


@cluster.command()
@common
def init(*, as_json: bool, state_dir: str | None) -> None:
    """Begin a cluster with this machine, and print its secret.

    The first start of the daemon does this too. Where there is a cluster already nothing is changed.
    """
    require_local()
    folder = _folder(state_dir)
    found = secretfile.find_secret(folder)
    created = found is None
    if found is None:
        text, created = secretfile.load_or_create_secret(folder)
        found = secretfile.Found(text, "")
    if as_json:
        print_json({"secret": found.text, "cluster_id": _cluster_id(found.text), "created": created})
        return
    print(found.text)
    note("A new cluster begins with this machine." if created else "This machine belongs to a cluster already.")
    note(_NEXT)


@cluster.command()
@common
def show(*, as_json: bool, state_dir: str | None) -> None:
    """Print this node's secret.

    Whoever has it is a full member of the cluster.
    """
    require_local()
    folder = _folder(state_dir)
    found = secretfile.find_secret(folder)
    if found is None:
        raise NotFoundError(
            f"There is no cluster secret in {folder} yet.",
            hint="Begin a cluster with: exo-dl cluster init\nTake over another node's with: exo-dl cluster join SECRET",
        )
    if as_json:
        source = found.source or str(secretfile.secret_path(folder))
        print_json({"secret": found.text, "cluster_id": _cluster_id(found.text), "source": source})
        return
    print(found.text)
    if found.source:
        note(f"It comes from {found.source}.")
    note(_NEXT)


@cluster.command()
@click.argument("secret", required=False)
@common
def join(secret: str | None, *, as_json: bool, state_dir: str | None) -> None:
    """Make this node a member of another node's cluster.

    SECRET is what `exo-dl cluster show` prints there. Without it, it is asked for, or read from standard input: so it
    does not show in the list of processes. A daemon that runs changes over at once.
    """
    from exo_dl.net.identity import parse_secret

    require_local()
    folder = _folder(state_dir)
    text = (_ask() if secret is None else secret).strip()
    wanted = parse_secret(text)
    running = _daemon_answers(folder)
    changed = run(_join(text, state_dir)) if running else _store(folder, text, wanted)
    if as_json:
        print_json({"state_dir": str(folder), "cluster_id": _cluster_id(text), "changed": changed})
    elif not changed:
        print("This node already has that secret.")
    elif running:
        print(f"Stored in {secretfile.secret_path(folder)}. The daemon belongs to that cluster now.")
    else:
        print(f"Stored in {secretfile.secret_path(folder)}. Start the node with: exo-dl up")


@cluster.command()
@click.option("--without", multiple=True, metavar="NAME", help="This member does not get the new secret. Repeatable.")
@click.option("--alone", is_flag=True, help="No member gets it: carry it to each machine by hand.")
@common
def rotate(without: tuple[str, ...], *, alone: bool, as_json: bool, state_dir: str | None) -> None:
    """Give the cluster a new secret, and print it.

    The members that are linked now get it over their encrypted links and go on with it at once, and pulls go on. All
    others are out: each of them needs `exo-dl cluster join SECRET` with the new one. All tickets end.

    If a stranger may have the old secret and can change traffic on this network, use --alone.
    """
    require_local()
    folder = _folder(state_dir)
    if _daemon_answers(folder):
        rotation = run(_rotate(without, alone=alone, state_dir=state_dir))
    else:
        rotation = _rotate_file(folder, without)
    stored = secretfile.read_secret(folder)
    if as_json:
        left_behind = [{"name": node.name, "reason": node.reason} for node in rotation.left_behind]
        document = {"secret": stored, "cluster_id": rotation.cluster_id, "moved": list(rotation.moved)}
        print_json(document | {"left_behind": left_behind})
        return
    print(stored)
    if rotation.moved:
        note(f"These have it too: {', '.join(rotation.moved)}.")
    for node in rotation.left_behind:
        note(f"{node.name} is out: {node.reason}.")
    note("Every machine that was left out or off needs: exo-dl cluster join SECRET")


@cluster.command()
@click.option("--read-only", is_flag=True, help="Make a ticket. There is no other kind.")
@click.option("--days", type=float, default=30.0, metavar="N", help="How long it is good. [default: 30; at most 366]")
@click.option("--label", default="", metavar="TEXT", help="Whom it is for.")
@click.option("--list", "listing", is_flag=True, help="List the tickets that have not ended.")
@click.option("--revoke", metavar="ID", help="End a ticket now.")
@common
def ticket(
    *,
    read_only: bool,
    days: float,
    label: str,
    listing: bool,
    revoke: str | None,
    as_json: bool,
    state_dir: str | None,
) -> None:
    """Let somebody watch this cluster who is no member of it.

    A ticket is a client certificate and its key, printed as PEM: whoever has it can list nodes, pulls and models, and
    do nothing else. Use it with: exo-dl --connect HOST --ticket FILE status
    """
    if (read_only, listing, revoke is not None).count(True) != 1:
        raise UsageError("Give one of --read-only, --list and --revoke ID.")
    if read_only:
        run(_make_ticket(days, label, as_json=as_json, state_dir=state_dir))
    elif listing:
        run(_list_tickets(as_json=as_json, state_dir=state_dir))
    elif revoke is not None:
        run(_revoke_ticket(revoke, as_json=as_json, state_dir=state_dir))


def _folder(state_dir: str | None) -> Path:
    return locations.default_state_dir() if state_dir is None else locations.absolute(state_dir)


def _cluster_id(text: str) -> str:
    from exo_dl.net.identity import Identity, new_node_id

    return Identity(text, new_node_id()).cluster_id


def _ask() -> str:
    if sys.stdin.isatty():
        answer: str = click.prompt("Cluster secret", hide_input=True, err=True)
        return answer
    return sys.stdin.readline(4096)


def _require_own(folder: Path) -> None:
    """Raises UsageError where the state directory's secret is not the one that counts."""
    found = secretfile.find_secret(folder)
    if found is not None and found.source:
        raise UsageError(
            f"This node's secret comes from {found.source}, so it is changed there.",
            hint="Make one with: exo-dl cluster new-secret",
        )


def _store(folder: Path, text: str, wanted: bytes) -> bool:
    """Stores a secret where no daemon runs; False where it is there already."""
    from exo_dl.net.identity import parse_secret

    try:
        present = secretfile.find_secret(folder)
        if present is not None and parse_secret(present.text) == wanted:
            return False
        _require_own(folder)
    except UsageError:
        if secretfile.secret_path(folder).exists() is False:
            raise
        # What is there is no secret, and is replaced.
    secretfile.write_secret(folder, text)
    return True


def _daemon_answers(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(locations.socket_path(folder)))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # somebody is there (busy, or not ours to ask)
    return True


async def _join(text: str, state_dir: str | None) -> bool:
    async with open_access(state_dir) as client:
        return await client.join_cluster(text)


async def _rotate(without: tuple[str, ...], *, alone: bool, state_dir: str | None) -> Rotation:
    async with open_access(state_dir) as client:
        return await client.rotate_secret(without=without, alone=alone)


def _rotate_file(folder: Path, without: tuple[str, ...]) -> Rotation:
    from exo_dl.access import Rotation
    from exo_dl.net.identity import new_secret as make_secret

    if without:
        raise UsageError("No daemon runs here, so no other node can be told.", hint="Start it, or leave out --without.")
    _require_own(folder)
    text = make_secret()
    secretfile.write_secret(folder, text)
    note("No daemon runs here, so no other node was told.")
    return Rotation(_cluster_id(text), (), ())


async def _make_ticket(days: float, label: str, *, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.types import as_dict

    async with open_access(state_dir) as client:
        made, pem = await client.make_ticket(days=days, label=label)
    if as_json:
        print_json(as_dict(made) | {"pem": pem})
        return
    print(pem, end="", flush=True)
    note(f"The ticket {made.id} is good until {_date(made.ends_at_s)}. Whoever has the text above can use it.")
    note(f"End it before that with: exo-dl cluster ticket --revoke {made.id}")


async def _list_tickets(*, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.types import as_dict

    async with open_access(state_dir) as client:
        tickets = await client.list_tickets()
    if as_json:
        print_json({"tickets": [as_dict(each) for each in tickets]})
    else:
        print(_table(tickets), flush=True)


async def _revoke_ticket(ticket_id: str, *, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.types import as_dict

    async with open_access(state_dir) as client:
        ended = await client.revoke_ticket(ticket_id)
    if as_json:
        print_json(as_dict(ended))
    else:
        print(f"The ticket {ended.id} is revoked. Nodes that are off learn of it when they are linked again.")


def _table(tickets: tuple[ReaderTicket, ...]) -> str:
    from exo_dl.cli.text import table

    if not tickets:
        return "No tickets. Make one with: exo-dl cluster ticket --read-only"
    rows = [
        (each.id, each.label or "-", each.made_by, _date(each.made_at_s), _date(each.ends_at_s), _state(each))
        for each in tickets
    ]
    return table(("TICKET", "LABEL", "MADE BY", "MADE", "ENDS", "STATE"), rows)


def _state(each: ReaderTicket) -> str:
    return "revoked" if each.revoked else "good"


def _date(moment_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment_s))
