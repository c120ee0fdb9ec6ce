"""``exo-dl pull``, and the watching of a pull that ``exo-dl status`` shares with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from exo_dl.cli.options import EXIT_INTERRUPTED, common, note, open_client, run, split_nodes
from exo_dl.cli.placing import placement_of, placement_options
from exo_dl.errors import CancelledPullError, DaemonUnavailableError, PullFailedError, UsageError

if TYPE_CHECKING:
    from exo_dl.cli.plain import PullView
    from exo_dl.client import Client
    from exo_dl.types import Placement, Pull

__all__ = ["absolute_layout", "pull", "raise_for_end", "watch"]


@click.command()
@click.argument("model", metavar="ORG/NAME[@REVISION]")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match. Repeatable.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out files that match. Repeatable.")
@click.option(
    "--nodes",
    multiple=True,
    metavar="all|NAME,...",
    help="Names or ids of the nodes that get the model. [default: all, also those that join later]",
)
@click.option(
    "--layout",
    default="hf",
    metavar="hf|dir:PATH|exo[:PATH]|sparse",
    help="Where it is put on each node: its Hugging Face cache, a plain folder, or exo's models directory; sparse:"
    " parts of files keep their place in files with holes. [default: hf]",
)
@click.option(
    "--repo-type",
    type=click.Choice(["model", "dataset", "space"]),
    default="model",
    help="What ORG/NAME is. [default: model]",
)
@click.option("--share-gated", is_flag=True, help="Give a gated or private model to nodes too that may not read it.")
@placement_options
@click.option("--no-wait", is_flag=True, help="Start it and return at once.")
@common
def pull(
    model: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    nodes: tuple[str, ...],
    layout: str,
    repo_type: str,
    *,
    share_gated: bool,
    no_wait: bool,
    as_json: bool,
    state_dir: str | None,
    **placing: Any,
) -> None:
    """Bring a model to every node of the cluster, or to each a part of it (--place; see exo-dl plan).

    Exits with 0 only when every target node has every wanted file, verified and published.
    With --json the last line is a summary.
    """
    targets = split_nodes(nodes)
    place = absolute_layout(layout)
    placement = placement_of(placing)
    started: list[str] = []
    try:
        run(
            _pull(
                model,
                include=include,
                exclude=exclude,
                nodes=targets,
                layout=place,
                placement=placement,
                repo_type=repo_type,
                share_gated=share_gated,
                no_wait=no_wait,
                as_json=as_json,
                state_dir=state_dir,
                started=started,
            )
        )
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:
            note(_interrupted(started))
        raise


def absolute_layout(layout: str) -> str:
    """``--layout`` with an absolute path: the daemon's working directory is not the user's.

    Raises:
        UsageError: it is none of those that there are.
    """
    if layout in ("hf", "sparse", "exo"):
        return layout
    kind, colon, path = layout.partition(":")
    if kind not in ("dir", "exo") or not colon or not path or "\0" in path:
        raise UsageError(
            f"--layout {layout!r} is not known.", hint="Use 'hf', 'dir:PATH', 'exo', 'exo:PATH' or 'sparse'."
        )
    return f"{kind}:" + os.path.abspath(os.path.expanduser(path))


async def watch(client: Client, pull_id: str, *, as_json: bool) -> Pull:
    """Shows a pull until it has ended; gives its last state."""
    view = _choose_view(as_json=as_json)
    last: Pull | None = None
    updates = client.watch_pull(pull_id)
    try:
        async for last in updates:
            view.update(last)
    except DaemonUnavailableError as error:
        raise DaemonUnavailableError(
            f"The daemon stopped while the pull {pull_id} was running.",
            hint=f"Start it again (exo-dl up), then give the same command again. ({error.what})",
        ) from error
    finally:
        view.close()
    if last is None:
        raise DaemonUnavailableError(f"The daemon told nothing about the pull {pull_id}.")
    return last


def raise_for_end(pull: Pull) -> None:
    """Returns when a pull is done.

    Raises:
        PullFailedError: at least one target node lacks something; the hint names each and why.
        CancelledPullError: it was cancelled.
    """
    from exo_dl.cli.text import clean
    from exo_dl.types import NodeState, PullState

    if pull.state is PullState.DONE:
        return
    if pull.state is PullState.CANCELLED:
        raise CancelledPullError(
            f"The pull of {pull.repo} was cancelled.", hint="Verified pieces are kept: pull it again to go on."
        )
    lacking = [*(node for node in pull.nodes if node.state is not NodeState.DONE), *pull.lost_nodes]
    what = f"The pull of {pull.repo} failed"
    if count := len(pull.nodes) + len(pull.lost_nodes):
        what += f": {len(lacking)} of {count} nodes lack the model"
    said = {NodeState.LOST: "was lost during the pull, and does not have the model"}
    lines = [f"{node.name}: {node.error or said.get(node.state, node.state)}" for node in lacking]
    if pull.error and not all(node.error and node.error in pull.error for node in lacking):
        lines.insert(0, pull.error)
    lines.append("What was verified is kept: the same command goes on from there.")
    raise PullFailedError(f"{what}.", hint="\n".join(clean(line) for line in lines))


def _choose_view(*, as_json: bool) -> PullView:
    """JSON lines where they are asked for, the live view on a terminal, plain lines elsewhere."""
    from exo_dl.cli import plain

    if as_json:
        return plain.JsonView()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from exo_dl.cli.views import LiveView  # imports rich: 80 ms that a script need not pay

        return LiveView()
    return plain.PlainView()


async def _pull(
    model: str,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    nodes: Sequence[str],
    layout: str,
    placement: Placement | None,
    repo_type: str,
    share_gated: bool,
    no_wait: bool,
    as_json: bool,
    state_dir: str | None,
    started: list[str],
) -> None:
    async with open_client(state_dir) as client:
        start = await client.start_pull(
            model,
            repo_type=repo_type,
            include=include,
            exclude=exclude,
            nodes=nodes,
            layout=layout,
            share_gated=share_gated,
            placement=placement,
        )
        pull = start.pull
        started.append(pull.pull_id)
        if not no_wait:
            if start.joined and not as_json:
                note(f"This pull already runs ({pull.pull_id}); watching it.")
            pull = await watch(client, pull.pull_id, as_json=as_json)
    from exo_dl.cli import plain
    from exo_dl.cli.text import print_json
    from exo_dl.types import PullState

    if as_json:
        print_json(plain.summary(pull))
    elif no_wait and not pull.state.ended:
        print(f"{'Joined' if start.joined else 'Started'} the pull {pull.pull_id} of {pull.repo}.", flush=True)
        print(f"Watch it with: exo-dl status {pull.pull_id} --watch", flush=True)
    elif pull.state is PullState.DONE:
        print(plain.ending(pull), flush=True)
    if pull.state.ended:
        raise_for_end(pull)


def _interrupted(started: list[str]) -> str:
    if not started:
        return "\nInterrupted. If the pull had started, it is listed by: exo-dl status"
    return (
        f"\nThe pull goes on without this command.\n"
        f"Watch it with:  exo-dl status {started[0]} --watch\n"
        f"Cancel it with: exo-dl cancel {started[0]}"
    )
