"""The command ``exo-dl``: its commands, and how errors become exit codes.

Only click is imported here; what a command needs is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

import exo_dl
from exo_dl.cli.cluster import cluster
from exo_dl.cli.commands import cancel, ls, peers, status, verify
from exo_dl.cli.limits import leave, limit
from exo_dl.cli.metrics import metrics
from exo_dl.cli.options import EXIT_INTERRUPTED, remote_options, require_local, state_dir_option
from exo_dl.cli.placing import plan
from exo_dl.cli.pull import pull
from exo_dl.errors import ExoDlError

__all__ = ["cli", "main", "run"]

_EPILOG = """\b
Exit codes:
  0   done; for pull: every target node has every wanted file, verified
  1   an error that exo-dl did not expect (a bug: please report it)
  2   an argument, name, glob or setting that cannot be used
  3   no such model, revision, pull or node
  4   the hub refused: no token, a gated model
  5   the hub cannot be reached, or gave an unusable answer
  6   no daemon answers (start one with: exo-dl up)
  7   disk full, a folder that cannot be written, a damaged state database
  8   bytes that do not have the hub's digest (verify)
  9   the pull started, and ended with a node that lacks something, whatever
      the reason; the message gives it for each node
  10  the pull was cancelled
  11  a daemon already runs there, or its port is taken
  12  another node broke the protocol
  130 interrupted by Ctrl-C; a pull goes on without the command

\b
Environment: EXO_DL_STATE_DIR, EXO_DL_CONFIG, EXO_DL_CONNECT, EXO_DL_TICKET. The daemon's: exo-dl up --help
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(exo_dl.__version__, prog_name="exo-dl")
@state_dir_option
@remote_options
def cli(state_dir: str | None, connect: str | None, ticket: str | None) -> None:
    """One command, and every machine of the cluster has the model; each byte is read from the hub once."""


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def up(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run this node's daemon in the foreground (as exo-dld does).

    Takes the flags of exo-dld: exo-dl up --help shows them.
    """
    require_local()
    state_dir = context.find_root().params.get("state_dir")
    inherited = ("--state-dir", state_dir) if state_dir is not None else ()
    command = [sys.executable, "-m", "exo_dld", *inherited, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    # The daemon takes this process's place: signals and exit codes are its own.
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and this very interpreter


for _command in (up, pull, plan, status, peers, ls, cancel, verify, limit, metrics, leave, cluster):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a command and leaves with its exit code."""
    # gRPC's C library logs to stderr what comes back as an error anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone. Nothing may be flushed to it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.stderr.flush()
    # Everything is said and closed: taking the interpreter apart would only keep the caller waiting.
    os._exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit code."""
    try:
        result = cli.main(arguments, prog_name="exo-dl", standalone_mode=False)
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ExoDlError as error:
        _show(error)
        return error.exit_code
    return result if isinstance(result, int) else 0


def _show(error: ExoDlError) -> None:
    from exo_dl.cli.text import clean

    lines = [f"exo-dl: {clean(error.what)}", *(f"  {clean(line)}" for line in error.hint.splitlines())]
    print("\n".join(lines), file=sys.stderr, flush=True)
