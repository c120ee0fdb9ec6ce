"""What the commands share: options, running a coroutine, finding a pull by what the user typed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from exo_dl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from exo_dl.client import Client
    from exo_dl.types import Pull

__all__ = ["EXIT_INTERRUPTED", "common", "find_pull", "note", "run", "state_dir_option"]

EXIT_INTERRUPTED = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Result = TypeVar("_Result")

_SHORTEST_PREFIX = 4


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
