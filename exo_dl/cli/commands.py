"""``status``, ``peers``, ``ls``, ``cancel`` and ``verify``: what goes on, and what is there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from exo_dl.cli.options import common, find_pull, open_client, run
from exo_dl.errors import IntegrityError

if TYPE_CHECKING:
    from exo_dl.types import Model, Peer, Pull

__all__ = ["cancel", "ls", "peers", "status", "verify"]

_WATCH_EVERY_S = 1.0


@click.command()
@click.argument("pull", metavar="[PULL]", required=False)
@click.option("--watch", "watching", is_flag=True, help="Go on showing it, until it has ended or Ctrl-C.")
@common
def status(pull: str | None, *, watching: bool, as_json: bool, state_dir: str | None) -> None:
    """Show the pulls of this cluster, or one of them.

    PULL is an id, the first characters of one, or ORG/NAME. Watching one pull ends with it, and with the exit code that
    `exo-dl pull` would have.
    """
    run(_status(pull, watching=watching, as_json=as_json, state_dir=state_dir))


@click.command()
@click.option("--watch", "watching", is_flag=True, help="Go on showing them when something changes, until Ctrl-C.")
@common
def peers(*, watching: bool, as_json: bool, state_dir: str | None) -> None:
    """List the nodes of the cluster."""
    run(_peers(watching=watching, as_json=as_json, state_dir=state_dir))


@click.command()
@common
def ls(*, as_json: bool, state_dir: str | None) -> None:
    """List the models that this node holds."""
    run(_ls(as_json=as_json, state_dir=state_dir))


@click.command()
@click.argument("pull", metavar="PULL")
@common
def cancel(pull: str, *, as_json: bool, state_dir: str | None) -> None:
    """End a pull on every node.

    PULL is an id, the first characters of one, or ORG/NAME. What is verified is kept for the next pull of this model.
    """
    run(_cancel(pull, as_json=as_json, state_dir=state_dir))


@click.command()
@click.argument("model", metavar="ORG/NAME[@REVISION]")
@common
def verify(model: str, *, as_json: bool, state_dir: str | None) -> None:
    """Check a model on this node against the hub's digests.

    Reads every file of it again. Exits with 8 when a file is wrong.
    """
    run(_verify(model, as_json=as_json, state_dir=state_dir))


async def _status(wanted: str | None, *, watching: bool, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.pull import raise_for_end, watch
    from exo_dl.cli.text import print_json
    from exo_dl.types import PullState, as_dict

    async with open_client(state_dir) as client:
        if wanted is None:
            await _status_of_all(client, watching=watching, as_json=as_json)
            return
        pull = await find_pull(client, wanted)
        if watching:
            pull = await watch(client, pull.pull_id, as_json=as_json)
            if not as_json and pull.state is PullState.DONE:
                from exo_dl.cli.plain import ending

                print(ending(pull), flush=True)
            raise_for_end(pull)
        elif as_json:
            print_json(as_dict(pull))
        else:
            print(_details(pull), flush=True)


async def _status_of_all(client: Any, *, watching: bool, as_json: bool) -> None:
    import asyncio

    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    screen = _Screen()
    while True:
        pulls: Sequence[Pull] = await client.list_pulls()
        if as_json:
            print_json({"pulls": [as_dict(pull) for pull in pulls]})
        else:
            screen.show(_pull_table(pulls))
        if not watching:
            return
        await asyncio.sleep(_WATCH_EVERY_S)


async def _peers(*, watching: bool, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    screen = _Screen()

    def show(nodes: Sequence[Peer]) -> None:
        if as_json:
            print_json({"peers": [as_dict(node) for node in nodes]})
        else:
            screen.show(_peer_table(nodes))

    async with open_client(state_dir) as client:
        if not watching:
            show(await client.list_peers())
            return
        async for nodes in client.watch_peers():
            show(nodes)


async def _ls(*, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    async with open_client(state_dir) as client:
        models = await client.list_models()
    if as_json:
        print_json({"models": [as_dict(model) for model in models]})
    else:
        print(_model_table(models), flush=True)


async def _cancel(wanted: str, *, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.text import print_json
    from exo_dl.types import PullState, as_dict

    async with open_client(state_dir) as client:
        before = await find_pull(client, wanted)
        pull = await client.cancel_pull(before.pull_id)
    if as_json:
        print_json(as_dict(pull))
    elif before.state.ended:
        print(f"The pull {pull.pull_id} of {pull.repo} had already ended ({before.state}).", flush=True)
    elif pull.state is PullState.CANCELLED:
        print(f"Cancelled the pull {pull.pull_id} of {pull.repo}. What is verified is kept.", flush=True)
    else:
        print(f"The pull {pull.pull_id} of {pull.repo} is {pull.state}.", flush=True)


async def _verify(model: str, *, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.text import clean, human_bytes, print_json
    from exo_dl.types import as_dict

    wrong: list[str] = []
    size = count = 0
    async with open_client(state_dir) as client:
        async for check in client.verify_model(model):
            if as_json:
                print_json(as_dict(check))
            else:
                place = f"{check.files_done}/{check.files_total}"
                problem = "" if check.ok else f": {clean(check.problem)}"
                print(f"{place} {'ok   ' if check.ok else 'WRONG'} {clean(check.path)}{problem}", flush=True)
            count += 1
            size += check.size_bytes
            if not check.ok:
                wrong.append(check.path)
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} of {count} files of {model} on this node are not what the hub has.",
            hint=f"{', '.join(wrong)}\nRepair with: exo-dl pull {model}",
        )
    if not as_json:
        print(f"All {count} files of {model} ({human_bytes(size)}) have the hub's digest.", flush=True)


class _Screen:
    """Shows a table; the next one takes its place on a terminal, and follows after an empty line elsewhere."""

    def __init__(self) -> None:
        self._shown: str | None = None

    def show(self, text: str) -> None:
        import sys

        if text == self._shown:
            return
        if self._shown is not None:
            print("\033[H\033[2J" if sys.stdout.isatty() else "", end="" if sys.stdout.isatty() else "\n")
        self._shown = text
        print(text, flush=True)


def _pull_table(pulls: Sequence[Pull]) -> str:
    from exo_dl.cli.text import human_bytes, human_time, percent, table

    if not pulls:
        return "No pulls. Start one with: exo-dl pull ORG/NAME"
    rows = [
        (
            pull.pull_id,
            f"{pull.repo}@{pull.revision or pull.commit[:12]}",
            pull.state.value,
            percent(pull.bytes_done, pull.bytes_wanted) if pull.bytes_wanted else "-",
            str(len(pull.nodes)),
            human_bytes(pull.bytes_from_hub),
            human_bytes(pull.bytes_from_peers),
            human_time(pull.wall_s),
            "-" if pull.state.ended else human_time(pull.remaining_s),
        )
        for pull in pulls
    ]
    return table(("PULL", "MODEL", "STATE", "DONE", "NODES", "HUB", "PEERS", "TIME", "LEFT"), rows)


def _details(pull: Pull) -> str:
    from exo_dl.cli.plain import cluster_line, ending, node_line
    from exo_dl.cli.text import clean, human_bytes
    from exo_dl.types import PullState

    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(pull.started_at_s))
    lines = [
        f"{pull.pull_id}  {clean(pull.repo)}@{clean(pull.revision)} ({pull.commit})",
        f"{pull.state}, started {started}, {pull.files} files, {human_bytes(pull.model_bytes)}",
        *(f"  {node_line(node)}" for node in pull.nodes),
        ending(pull) if pull.state is PullState.DONE else cluster_line(pull),
    ]
    if pull.error:
        lines.append(f"Error: {clean(pull.error)}")
    lines.extend(f"  {clean(event)}" for event in pull.events)
    return "\n".join(lines)


def _peer_table(nodes: Sequence[Peer]) -> str:
    from exo_dl.cli.text import human_bytes, human_rate, human_time, table
    from exo_dl.types import PeerState

    if not nodes:
        return "No nodes."
    rows = [
        (
            node.name,
            node.id,
            node.state.value,
            node.addresses[0] if node.addresses else "-",
            node.version or "-",
            f"{human_bytes(node.memory_available_bytes)}/{human_bytes(node.memory_total_bytes)}"
            if node.memory_total_bytes
            else "-",
            human_bytes(node.disk_free_bytes) if node.memory_total_bytes else "-",
            human_rate(node.hub_bytes_per_s),
            human_rate(node.lan_bytes_per_s),
            node.problem or node.activity or "-",
            "now" if node.state is PeerState.SELF else f"{human_time(node.last_seen_s)} ago",
        )
        for node in nodes
    ]
    headings = ("NAME", "ID", "STATE", "ADDRESS", "VERSION", "MEMORY", "DISK FREE", "HUB", "LAN", "DOING", "SEEN")
    return table(headings, rows)


def _model_table(models: Sequence[Model]) -> str:
    from exo_dl.cli.text import human_bytes, table

    if not models:
        return "No models on this node. Pull one with: exo-dl pull ORG/NAME"
    rows = [
        (
            model.repo,
            model.commit[:12],
            ",".join(model.revisions) or "-",
            human_bytes(model.size_bytes),
            str(model.files),
            "yes" if model.complete else "no",
            model.path,
        )
        for model in models
    ]
    return table(("MODEL", "COMMIT", "REVISIONS", "SIZE", "FILES", "COMPLETE", "PATH"), rows)
