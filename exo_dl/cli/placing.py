"""The options that say which node gets what, and ``exo-dl plan``, which shows what would come of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exo_dl.cli.options import common, open_client, run, split_nodes
from exo_dl.errors import UsageError

if TYPE_CHECKING:
    from exo_dl.types import Placement, PullPlan

__all__ = ["placement_of", "placement_options", "plan", "render"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MAX_PLAN_BYTES = 8 << 20
_BAR = 32


def placement_options(function: _Command) -> _Command:
    """Adds the options of a placement; they arrive as one argument, ``placing``, for `placement_of`."""
    options = (
        click.option(
            "--place",
            type=click.Choice(["full", "layers", "experts", "files", "none"]),
            help="Which node gets what: everything, a share of the layers or of the experts by its memory, files by"
            " name (--want), or nothing (it helps to fetch). [default: full]",
        ),
        click.option("--want", multiple=True, metavar="NODE=GLOB", help="Files for a node. Repeatable."),
        click.option("--memory", multiple=True, metavar="NODE=SIZE", help="Memory of a node, as 96GiB. Repeatable."),
        click.option("--fraction", type=float, metavar="PART", help="Part of memory for weights. [default: 0.75]"),
        click.option(
            "--helper", multiple=True, metavar="NODE", help="A node that helps and keeps nothing. Repeatable."
        ),
        click.option("--plan", "plan_file", metavar="FILE", help="A plan file (TOML or JSON) in place of --place."),
        click.option("--replan", is_flag=True, help="Divide anew, moving as little as possible."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def placement_of(values: dict[str, Any]) -> Placement | None:
    """Takes the options of `placement_options` out of ``values``. None where none was given.

    Raises:
        UsageError: one that cannot be used.
    """
    place, want, memory = values.pop("place"), values.pop("want"), values.pop("memory")
    fraction, helper = values.pop("fraction"), values.pop("helper")
    plan_file, replan = values.pop("plan_file"), values.pop("replan")
    if not (place or want or memory or helper or plan_file or replan or fraction is not None):
        return None
    from exo_dl.types import Placement  # costs 10 ms, which a pull without all this need not wait for

    return Placement(
        place=place or "",
        wants=tuple(_pair("--want", text) for text in want),
        memory=tuple((node, _size(size, text)) for text in memory for node, size in [_pair("--memory", text)]),
        fraction=fraction or 0.0,
        helpers=tuple(helper),
        replan=replan,
        plan=_read_plan(plan_file) if plan_file else "",
    )


def _pair(option: str, text: str) -> tuple[str, str]:
    node, equals, value = text.partition("=")
    if not equals or not node or not value:
        raise UsageError(f"{option} {text!r} is not of the form NODE=VALUE.")
    return node, value


def _size(text: str, whole: str) -> int:
    from exo_dl.core.units import parse_size

    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"--memory {whole!r}: {error.what}", hint=error.hint) from error


def _read_plan(name: str) -> str:
    """A plan file as JSON."""
    import tomllib

    try:
        with open(os.path.expanduser(name), "rb") as file:
            data = file.read(_MAX_PLAN_BYTES + 1)
    except OSError as error:
        raise UsageError(f"The plan file {name} cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_PLAN_BYTES:
        raise UsageError(f"The plan file {name} has more than {_MAX_PLAN_BYTES >> 20} MiB.")
    try:
        text = data.decode()
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
        return json.dumps(found)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"The plan file {name} is neither TOML nor JSON: {str(error)[:200]}.") from error


@click.command()
@click.argument("model", metavar="ORG/NAME[@REVISION]")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match. Repeatable.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out files that match. Repeatable.")
@click.option("--nodes", multiple=True, metavar="all|NAME,...", help="Names or ids. [default: all]")
@placement_options
@common
def plan(model: str, include: Any, exclude: Any, nodes: Any, *, as_json: bool, state_dir: Any, **placing: Any) -> None:
    """Show which node would get what of a model, and move nothing.

    Reads the headers of the weights at most: from this node's disk where they are there, else from the hub.
    """
    placement = placement_of(placing)
    targets = split_nodes(nodes)
    run(_plan(model, include, exclude, targets, placement, as_json=as_json, state_dir=state_dir))


async def _plan(
    model: str,
    include: Sequence[str],
    exclude: Sequence[str],
    nodes: Sequence[str],
    placement: Placement | None,
    *,
    as_json: bool,
    state_dir: str | None,
) -> None:
    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    async with open_client(state_dir) as client:
        found = await client.plan_pull(model, include=include, exclude=exclude, nodes=nodes, placement=placement)
    if as_json:
        print_json(as_dict(found))
    else:
        print(render(found), flush=True)


def render(found: PullPlan) -> str:
    """A plan as a table and a picture."""
    from exo_dl.cli.text import clean, human_bytes, percent, table

    layers = f", {found.layers} layers" if found.layers else ""
    lines = [
        f"{clean(found.repo)} at {found.commit[:12]}: {human_bytes(found.model_bytes)}{layers}, place {found.place}",
        "",
    ]
    rows = []
    for node in found.nodes:
        usable = node.usable_bytes
        rows.append(
            (
                node.name,
                human_bytes(node.memory_bytes) if node.memory_bytes else "-",
                _runs(node.layers) or "-",
                node.experts or "-",
                human_bytes(node.bytes),
                f"{percent(node.bytes, usable)} of {human_bytes(usable)}" if usable else "-",
                human_bytes(node.disk_free_bytes) if node.disk_free_bytes else "-",
                f"{node.whole_files} whole" + (f", {node.part_files} in part" if node.part_files else ""),
            )
        )
    headings = ("NODE", "MEMORY", "LAYERS", "EXPERTS", "BYTES", "FILLS", "DISK FREE", "FILES")
    lines += [table(headings, rows), ""]
    most = max((node.bytes for node in found.nodes), default=0)
    width = max((len(node.name) for node in found.nodes), default=0)
    for node in found.nodes:
        bar = "#" * max(round(_BAR * node.bytes / most), 1 if node.bytes else 0) if most else ""
        where = _strip(node.layers, found.layers)
        lines.append(f"{clean(node.name).ljust(width)}  {bar.ljust(_BAR)}  {where}".rstrip())
    lines += ["", f"From the hub: {human_bytes(found.union_bytes)} at most, once for the cluster."]
    lines += [f"Note: {clean(note)}" for note in found.notes]
    return "\n".join(lines)


def _runs(runs: Sequence[tuple[int, int]]) -> str:
    """Layers as a person counts them: from 0, both ends named."""
    return ", ".join(str(first) if end == first + 1 else f"{first}-{end - 1}" for first, end in runs)


def _strip(runs: Sequence[tuple[int, int]], count: int) -> str:
    """Where in the model the layers are."""
    if not count or not runs:
        return ""
    cells = ["."] * min(count, _BAR)
    for first, end in runs:
        for cell in range(first * len(cells) // count, max(-(-end * len(cells) // count), 1)):
            if cell < len(cells):
                cells[cell] = "="
    return f"[{''.join(cells)}]"
