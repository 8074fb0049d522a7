"""The commands of ``overdb``, their options, and how errors end the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from overdb.cli import member_commands, time_commands
from overdb.cli.console import OutputError, PipeClosedError
from overdb.cli.session import ExitCode, Session, UsageError, exit_code_of
from overdb.errors import OverDBError

EPILOG = """\b
Exit codes:
  0    done
  1    get: no such key; txn: the else branch ran; txn status: aborted
  2    wrong usage or invalid argument
  3    unavailable, not run: no router or leader in time; status: not serving;
       transactions: a group without a leader
  4    outcome unknown: the write may have run or may run yet (txn status too)
  5    refused for another reason; nothing was done
  130  interrupted by Ctrl-C (a write under way may still run)

\b
Keys and values are given as text (UTF-8). Output is a table on a terminal and
plain text in a pipe; with --json it is one JSON object a line, in which bytes
that are no UTF-8 are {"base64": "..."}. Errors are one line on stderr.
Write -- before keys that begin with a dash.
"""

app = typer.Typer(
    name="overdb",
    help="Reads and writes an OverDB cluster, and runs one on this machine (local).",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # plain help: it fits 80 columns and loads quickly
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

# Commands that do not need those that run a cluster.
_LIGHT = frozenset(
    {
        "get",
        "put",
        "delete",
        "scan",
        "txn",
        "transactions",
        "status",
        "locate",
        "members",
        "time",
        "shell",
    }
)

# The base of typer's own errors; it is not exported, and its home depends on typer's version.
_CommandLineError = cast("type[Exception]", typer.BadParameter.__mro__[2])

# Options of the program itself, which may also stand behind the command: with a value, or without.
_GLOBAL_VALUES = ("-e", "--endpoints", "--timeout")
_GLOBAL_FLAGS = ("--json",)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"overdb {version('overdb')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    endpoints: Annotated[
        str,
        typer.Option(
            "--endpoints",
            "-e",
            envvar="OVERDB_ENDPOINTS",
            metavar="HOST:PORT,...",
            help="Routers; one that fails is replaced by the next.",
        ),
    ] = "localhost:7400",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time limit of a request; of a page in scan.")
    ] = 5.0,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object a line.")
    ] = False,
    version: Annotated[  # noqa: ARG001  (its callback does it)
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    session: Session = context.obj
    if not session.in_shell:
        session.configure(endpoints, timeout, json_lines=json_lines)


Key = Annotated[
    str, typer.Argument(metavar="KEY", help="As text; -- before one that begins with a dash.")
]


@app.command("get")
def _get(
    context: typer.Context,
    key: Key,
    version: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Read as of this version.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the bytes there (- for stdout)."
        ),
    ] = None,
) -> int:
    """Print the value of a key. In a pipe: the value and a line end."""
    from overdb.cli import commands  # noqa: PLC0415

    return commands.get(context.obj, key, version, output)


@app.command("put", context_settings={"ignore_unknown_options": True})
def _put(
    context: typer.Context,
    key: Key,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="- reads standard input.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="Read the value from a file.")
    ] = None,
) -> int:
    """Write a key. In a pipe: prints the version."""
    from overdb.cli import commands  # noqa: PLC0415

    return commands.put(context.obj, key, value, file)


@app.command("delete")
def _delete(
    context: typer.Context, keys: Annotated[list[str], typer.Argument(metavar="KEY")]
) -> int:
    """Delete keys, one after the other. A key that is missing is no error."""
    from overdb.cli import commands  # noqa: PLC0415

    return commands.delete(context.obj, keys)


@app.command("scan")
def _scan(
    context: typer.Context,
    start: Annotated[str, typer.Argument(metavar="START", help="First key.")] = "",
    end: Annotated[str, typer.Argument(metavar="END", help="Key behind the last.")] = "",
    prefix: Annotated[
        str | None, typer.Option(help="All keys that begin so, instead of START and END.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most so many; 0: all.")] = 0,
    reverse: Annotated[bool, typer.Option("--reverse", help="From last to first.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Leave out the values.")] = False,
    version: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Read as of this version.")
    ] = None,
) -> int:
    """Print keys and values of a range in order, as of one moment.

    In a pipe: key, tab, value on each line, with backslash escapes for what is no printable text.
    """
    from overdb.cli import commands  # noqa: PLC0415

    return commands.scan(
        context.obj,
        start,
        end,
        prefix=prefix,
        limit=limit,
        reverse=reverse,
        keys_only=keys_only,
        version=version,
    )


TXN_HELP = """Run a transaction that is written in a file or on standard input; or, as
"txn status ID", print what became of one (of any write, by its id).

\b
  compare            # all must hold; may be left out
    value a == "1"   # ==, !=, <, >
    version b > 0
    exists c
    missing d
  then               # runs if they do
    put a "2"
    add n 5
    get b
    delete c
  else               # runs otherwise; may be left out
    get a

Keys may live in any groups. Prints which branch ran and the result of each operation. Words with
blanks stand in quotes; a backslash writes special characters, as in \\n and \\x00.
"""


@app.command("txn", help=TXN_HELP)
def _txn(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help='- or none: standard input; or "status".')
    ] = "-",
    request_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Behind status: as the outcome unknown named it."),
    ] = None,
) -> int:
    from overdb.cli import commands, txn_commands  # noqa: PLC0415

    if file == "status" and request_id is not None:
        return txn_commands.status(context.obj, request_id)
    if file == "status":
        raise UsageError("txn status: expected an ID behind it (a file of that name: ./status)")
    if request_id is not None:
        raise UsageError(f'txn: unexpected "{request_id}": give one FILE, or status and an ID')
    return commands.transact(context.obj, file)


@app.command("transactions")
def _transactions(
    context: typer.Context,
    group: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Only of this group.")
    ] = None,
) -> int:
    """Print the open transactions of each group: age, keys, who waits for whom."""
    from overdb.cli import txn_commands  # noqa: PLC0415

    return txn_commands.open_ones(context.obj, group)


@app.command("status")
def _status(context: typer.Context) -> int:
    """Print groups, leaders and replicas with their problems."""
    from overdb.cli import cluster_commands  # noqa: PLC0415

    return cluster_commands.status(context.obj)


@app.command("locate")
def _locate(context: typer.Context, key: Key) -> int:
    """Print where a key lives: slot, group, leader."""
    from overdb.cli import cluster_commands  # noqa: PLC0415

    return cluster_commands.locate(context.obj, key)


app.add_typer(member_commands.app, name="members")
app.add_typer(time_commands.app, name="time")


@app.command("shell")
def _shell(context: typer.Context) -> int:
    """Type commands one after the other, with history and completion."""
    from overdb.cli import shell  # noqa: PLC0415

    return shell.run(context.obj)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return the exit code. Errors are printed, none is raised."""
    options, words = hoisted(arguments)
    if not words or words[0] not in _LIGHT:
        _register_heavy()
    session = Session()
    try:
        return invoke([*options, *(words or ["--help"])], session)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except PipeClosedError:
        # Python would complain when it flushes stdout at its end: give it something to flush into.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    except OutputError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        session.console.error(str(error))
        return ExitCode.REFUSED
    finally:
        session.close()


def invoke(words: Sequence[str], session: Session) -> int:
    """Run one command in a session; return its exit code, its error being printed."""
    command = typer.main.get_command(app)
    prog_name = "" if session.in_shell else "overdb"
    return guarded(
        session,
        lambda: command.main(
            args=list(words), prog_name=prog_name, standalone_mode=False, obj=session
        ),
    )


def guarded(session: Session, action: Callable[[], Any]) -> int:
    """Run what returns an exit code, or None for 0; print its error and return the code of that."""
    try:
        return int(action() or 0)
    except OverDBError as error:
        session.console.failure(error)
        return exit_code_of(error)
    except UsageError as error:
        session.console.error(str(error))
        return ExitCode.USAGE
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except _CommandLineError as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path.strip()} --help)" if context else ""
        session.console.error(cast("Any", error).format_message() + hint)
        return ExitCode.USAGE


def hoisted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into options of the program, wherever they stand, and the rest.

    ``--`` ends the search: what follows are keys and values.
    """
    options: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _GLOBAL_VALUES:
            options += [word, *(value for value in [next(words, None)] if value is not None)]
        elif word in _GLOBAL_FLAGS or word.partition("=")[0] in _GLOBAL_VALUES:
            options.append(word)
        else:
            rest.append(word)
    return options, rest


def _register_heavy() -> None:
    from overdb.cli import local, torture  # noqa: PLC0415  (they bring a supervisor, a cluster along)

    registered = {command.name for command in app.registered_commands}
    for name, module in (("local", local), ("torture", torture)):
        if name not in registered:
            module.register(app)
