"""``exo-dl cluster``: the secret that makes machines one cluster."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import click

from exo_dl import locations, secretfile
from exo_dl.cli.options import common, note
from exo_dl.cli.text import print_json
from exo_dl.errors import AlreadyRunningError, NotFoundError, UsageError

__all__ = ["cluster"]

_PROBE_TIMEOUT_S = 2.0


@click.group()
def cluster() -> None:
    """Show, make or take over the secret of the cluster."""


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
def show(*, as_json: bool, state_dir: str | None) -> None:
    """Print the secret in this node's state directory.

    Whoever has it is a full member of the cluster.
    """
    folder = _folder(state_dir)
    text = secretfile.read_secret(folder)
    if text is None:
        raise NotFoundError(
            f"There is no cluster secret in {folder} yet.",
            hint="The daemon makes one when it first starts (exo-dl up); take over another node's with: "
            "exo-dl cluster join SECRET",
        )
    if as_json:
        print_json({"secret": text})
        return
    print(text)
    note("To add a machine, run there: exo-dl cluster join SECRET")


@cluster.command()
@click.argument("secret", required=False)
@common
def join(secret: str | None, *, as_json: bool, state_dir: str | None) -> None:
    """Make this node a member of another node's cluster.

    SECRET is what `exo-dl cluster show` prints there. Without it, it is asked for, or read from standard input: so it
    does not show in the list of processes.
    """
    from exo_dl.net.identity import parse_secret

    folder = _folder(state_dir)
    text = _ask() if secret is None else secret
    wanted = parse_secret(text)
    try:
        present = secretfile.read_secret(folder)
        same = present is not None and parse_secret(present) == wanted
    except UsageError:
        present, same = None, False  # what is there is no secret, and is replaced
    if not same:
        if _daemon_answers(folder):
            raise AlreadyRunningError(
                f"The daemon of {folder} runs with another cluster secret.",
                hint="Stop it, give this command again, and start it.",
            )
        secretfile.write_secret(folder, text)
    if as_json:
        print_json({"state_dir": str(folder), "changed": not same})
    elif same:
        print("This node already has that secret.")
    else:
        print(f"Stored in {secretfile.secret_path(folder)}. Start the node with: exo-dl up")


def _folder(state_dir: str | None) -> Path:
    return locations.default_state_dir() if state_dir is None else locations.absolute(state_dir)


def _ask() -> str:
    if sys.stdin.isatty():
        answer: str = click.prompt("Cluster secret", hide_input=True, err=True)
        return answer
    return sys.stdin.readline(4096)


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
