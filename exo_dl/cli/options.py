"""What the commands share: options, running a coroutine, finding a pull by what the user typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exo_dl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from exo_dl.access import AccessClient
    from exo_dl.client import Client
    from exo_dl.types import Pull

__all__ = [
    "EXIT_INTERRUPTED",
    "common",
    "find_pull",
    "is_remote",
    "note",
    "open_access",
    "open_client",
    "remote_options",
    "require_local",
    "run",
    "split_nodes",
    "state_dir_option",
]

EXIT_INTERRUPTED = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Result = TypeVar("_Result")

_SHORTEST_PREFIX = 4
_MAX_TICKET_BYTES = 16_384


def _inherited(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The command's own --state-dir, else the one given before the command's name."""
    return value if value is not None else context.find_root().params.get("state_dir")


def state_dir_option(function: _Command) -> _Command:
    """Adds ``--state-dir``."""
    return click.option(
        "--state-dir",
        metavar="DIR",
        callback=_inherited,
        help="The daemon's state directory. [env: EXO_DL_STATE_DIR]",
    )(function)


def remote_options(function: _Command) -> _Command:
    """Adds ``--connect`` and ``--ticket``, which stand before a command's name."""
    connect = click.option(
        "--connect",
        metavar="HOST[:PORT]",
        envvar="EXO_DL_CONNECT",
        help="A daemon on another machine, reached with the cluster secret or a ticket. [env: EXO_DL_CONNECT]",
    )
    ticket = click.option(
        "--ticket",
        metavar="FILE",
        envvar="EXO_DL_TICKET",
        help="A read-only ticket, for --connect. [env: EXO_DL_TICKET, the file or the text itself]",
    )
    return connect(ticket(function))


def is_remote() -> bool:
    """Whether the command is for a daemon on another machine."""
    return click.get_current_context().find_root().params.get("connect") is not None


def require_local() -> None:
    """Raises UsageError where the command is for a daemon on another machine."""
    if is_remote():
        raise UsageError("This command is for the machine that it runs on.", hint="Give it there, without --connect.")


def open_client(state_dir: str | None) -> Client:
    """The client that the command's options ask for."""
    from exo_dl.client import Client

    return Client(state_dir, **_remote())


def open_access(state_dir: str | None) -> AccessClient:
    """The same for tickets and the cluster's secret."""
    from exo_dl.access import AccessClient

    return AccessClient(state_dir, **_remote())


def _remote() -> dict[str, Any]:
    context = click.get_current_context().find_root()
    connect, ticket = context.params.get("connect"), context.params.get("ticket")
    if ticket is None:
        return {"connect": connect}
    if connect is None:
        raise UsageError("--ticket goes with --connect HOST[:PORT].")
    if "-----BEGIN" in ticket:
        if context.get_parameter_source("ticket") is not click.core.ParameterSource.ENVIRONMENT:
            raise UsageError(
                "A ticket on the command line shows in the list of processes.",
                hint="Put it into a file and give --ticket FILE, or into EXO_DL_TICKET.",
            )
        return {"connect": connect, "ticket": ticket}
    try:
        with open(ticket, "rb") as file:
            data = file.read(_MAX_TICKET_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no path"
        raise UsageError(f"The ticket {os.fspath(ticket)!r} cannot be read: {reason}.") from error
    return {"connect": connect, "ticket": data.decode("ascii", "replace")}


def common(function: _Command) -> _Command:
    """Adds ``--json`` and ``--state-dir``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a line.")(
        state_dir_option(function)
    )


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs ``main``; after Ctrl-C its clean-up has run, and the program ends with exit code 130."""
    import asyncio

    try:
        return asyncio.run(main)
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def note(text: str) -> None:
    """A line for the person, beside the output proper."""
    print(text, file=sys.stderr, flush=True)


async def find_pull(client: Client, text: str) -> Pull:
    """The pull that ``text`` names: its id, the first characters of its id, or its model (the newest pull of it).

    Raises:
        NotFoundError: there is none.
        UsageError: the characters fit several.
    """
    pulls: Sequence[Pull] = await client.list_pulls()
    for pull in pulls:
        if text in (pull.pull_id, pull.repo, f"{pull.repo}@{pull.revision}", f"{pull.repo}@{pull.commit}"):
            return pull
    found = [pull for pull in pulls if len(text) >= _SHORTEST_PREFIX and pull.pull_id.startswith(text.lower())]
    if len(found) > 1:
        raise UsageError(f"{text!r} fits {len(found)} pulls.", hint="Give more characters of the id.")
    if not found:
        raise NotFoundError(f"This daemon knows no pull {text!r}.", hint="List them with: exo-dl status")
    return found[0]


def split_nodes(values: Sequence[str]) -> tuple[str, ...]:
    """``--nodes`` as names: commas separate, ``all`` is no names at all.

    Raises:
        UsageError: an empty name, or ``all`` together with names.
    """
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise UsageError(f"--nodes {','.join(values)!r} holds an empty name.")
    if "all" in names:
        if len(set(names)) > 1:
            raise UsageError("--nodes takes either 'all' or names, not both.")
        return ()
    return tuple(dict.fromkeys(names))
