"""``overdb shell``: the same commands, typed one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from overdb.cli._words import WordError, split_words
from overdb.cli.session import ExitCode, Session, UsageError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

PROMPT = "overdb> "
MORE_PROMPT = "   ...> "
COMMANDS = (
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
)
OPTIONS = {
    "get": ("--version", "--output", "--help"),
    "put": ("--file", "--help"),
    "delete": ("--help",),
    "scan": ("--prefix", "--limit", "--reverse", "--keys-only", "--version", "--help"),
    "txn": ("status", "--help"),
    "transactions": ("--group", "--help"),
    "status": ("--help",),
    "locate": ("--help",),
    "members": ("add", "promote", "remove", "transfer", "--group", "--help"),
    "time": ("repair", "--group", "--help"),
}
HELP = """\
  get KEY [--version N]        the value of a key
  put KEY VALUE                write a key
  delete KEY...                delete keys
  scan [START] [END]           keys in order; also --prefix P --limit N --reverse
  txn                          a transaction: type it on the next lines, an empty
                               line runs it (help txn shows one)
  txn status ID                what became of one
  transactions [--group N]     those that are open, and who waits for whom
  status                       groups, leaders, replicas
  locate KEY                   where a key lives
  members [add|promote|...]    who is in which group, and changes of that
  time [repair]                the machines' clocks; repair a group's time
  help [COMMAND]               this, or all about a command
  exit                         or Ctrl-D
Quote words with blanks; \\n, \\t, \\" and \\xNN write special characters."""

Ask = Callable[[str], str]  # gives the line for a prompt; EOFError when there is no more


def run(session: Session) -> int:
    """Read and run commands until ``exit`` or the end of the input.

    On a terminal with editing, history and completion, and the exit code is 0. Otherwise the lines
    of standard input are run, and the exit code is that of the last one.
    """
    session.in_shell = True
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    ask = _prompting() if terminal else _reading
    if terminal:
        session.console.line(f"OverDB at {session.endpoints}; help lists the commands")
    code = 0
    while True:
        try:
            line = ask(PROMPT)
        except EOFError:
            break
        except KeyboardInterrupt:  # at the prompt: forget the line
            continue
        try:
            ended, code = _run_line(session, line, ask, code)
        except KeyboardInterrupt:
            if not terminal:
                raise
            session.console.error("interrupted; a write that was under way may still run")
            code = ExitCode.INTERRUPTED
            continue
        if ended:
            break
    return 0 if terminal else code


def _run_line(session: Session, line: str, ask: Ask, code: int) -> tuple[bool, int]:
    """Run one line; return whether the shell ends, and the exit code so far."""
    from overdb.cli import app, commands  # noqa: PLC0415  (they import each other)

    try:
        words = [word.text for word in split_words(line)]
    except WordError as error:
        session.console.error(f"column {error.column}: {error.message}")
        return False, ExitCode.USAGE
    if not words:
        return False, code
    name = words[0].lower()
    if name in ("exit", "quit") and len(words) == 1:
        return True, code
    if name == "help" and len(words) == 1:
        session.console.line(HELP)
        return False, 0
    if name == "help" and words[1] in COMMANDS:
        return False, app.invoke([words[1], "--help"], session)
    if name not in COMMANDS:
        what = words[1] if name == "help" else words[0]
        session.console.error(f'no command "{what}": help lists them')
        return False, ExitCode.USAGE
    if name == "txn" and len(words) == 1:
        script = _script(ask)
        return False, app.guarded(session, lambda: commands.run_script(session, script, ""))
    return False, app.invoke([name, *words[1:]], session)


def _script(ask: Ask) -> str:
    """Read the lines of a transaction up to an empty one."""
    lines = []
    while True:
        try:
            line = ask(MORE_PROMPT)
        except EOFError:
            break
        if not line.strip():
            break
        lines.append(line)
    return "\n".join(lines)


def _reading(_prompt: str) -> str:
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UsageError(
            f"standard input is not {error.encoding} text: for byte {byte:02x} type \\x{byte:02x}"
        ) from None
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _prompting() -> Ask:
    """Return what asks on a terminal."""
    from prompt_toolkit import PromptSession  # noqa: PLC0415  (slow to load)
    from prompt_toolkit.completion import NestedCompleter  # noqa: PLC0415
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415

    words = {name: dict.fromkeys(OPTIONS[name]) for name in COMMANDS}
    path = history_path()
    prompting: PromptSession[str] = PromptSession(
        history=InMemoryHistory() if path is None else FileHistory(str(path)),
        completer=NestedCompleter.from_nested_dict(
            {**words, "help": dict.fromkeys(COMMANDS), "exit": None}
        ),
        enable_history_search=True,
    )
    return prompting.prompt


def history_path() -> Path | None:
    """Return where the history is kept, ``$XDG_STATE_HOME/overdb/history``; None if nowhere."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "overdb" / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return None
    return path
