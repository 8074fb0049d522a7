"""The commands on data: what each asks of the client, and how its answer is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from overdb.cli.console import as_json, as_text
from overdb.cli.session import ExitCode, Session, UsageError
from overdb.cli.txn_script import Script, ScriptError, parse_script
from overdb.operations import Add, Delete, Get, KeyValue, Operation, Put, TransactResult

TABLE_ROWS_MAX = 1000  # shown at once; a longer scan on a terminal goes on in a table of its own


def get(session: Session, key: str, version: int | None, output: str | None) -> ExitCode:
    """Show the value of a key."""
    name = os.fsencode(key)
    with session.progress(f"get {as_text(name)}"):
        found = session.client.get(name, version=version)
    console = session.console
    if console.json_lines:
        fields: dict[str, object] = {"key": as_json(name), "found": found is not None}
        if found is not None:
            fields |= {"value": as_json(found.value), "version": found.version}
        console.json(fields)
    elif found is None:
        console.error(f'no key "{as_text(name)}"' + (f" at version {version}" if version else ""))
    if found is None:
        return ExitCode.NO
    if output is not None:
        _write(session, output, found.value)
    elif console.terminal:
        row = (as_text(name), as_text(found.value), str(found.version))
        console.table(("key", "value", "version"), [row], right=("version",))
    elif not console.json_lines:
        console.raw(found.value + b"\n")
    return ExitCode.OK


def _write(session: Session, output: str, value: bytes) -> None:
    if output == "-":
        session.console.raw(value)
        return
    try:
        Path(output).write_bytes(value)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None


def put(session: Session, key: str, value: str | None, file: str | None) -> ExitCode:
    """Write a key."""
    name = os.fsencode(key)
    if (value is None) == (file is None):
        raise UsageError("put: give either a VALUE (- for standard input) or --file FILE")
    if file is not None:
        content = _read(file)
    elif value == "-":
        if session.in_shell:
            raise UsageError("put: the shell's input is for commands: use --file FILE")
        content = sys.stdin.buffer.read()
    else:
        content = os.fsencode(value or "")
    with session.progress(f"put {as_text(name)}"):
        version = session.client.put(name, content)
    console = session.console
    if console.json_lines:
        console.json({"key": as_json(name), "version": version})
    elif console.terminal:
        console.line(f"put {as_text(name)} ({len(content)} bytes) at version {version}")
    else:
        console.line(str(version))
    return ExitCode.OK


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def delete(session: Session, keys: Sequence[str]) -> ExitCode:
    """Delete keys; one that is missing is no error."""
    console = session.console
    with session.progress("delete") as progress:
        for number, key in enumerate(keys, 1):
            name = os.fsencode(key)
            progress.update(f"deleted {number - 1} of {len(keys)} keys")
            deleted = session.client.delete(name)
            if console.json_lines:
                fields = {"key": as_json(name), "existed": deleted.existed}
                console.json(fields | {"version": deleted.version})
            else:
                what = "deleted" if deleted.existed else "no key"
                console.line(f"{what} {as_text(name)}")
    return ExitCode.OK


def scan(
    session: Session,
    start: str,
    end: str,
    *,
    prefix: str | None,
    limit: int,
    reverse: bool,
    keys_only: bool,
    version: int | None,
) -> ExitCode:
    """Show the keys of a range."""
    items = session.client.scan(
        os.fsencode(start),
        os.fsencode(end),
        prefix=None if prefix is None else os.fsencode(prefix),
        limit=limit,
        reverse=reverse,
        keys_only=keys_only,
        version=version,
    )
    batch: list[KeyValue] = []
    count = 0
    progress_text = "scanned {} keys"
    with session.progress(progress_text.format(0)) as progress:
        for item in items:
            batch.append(item)
            count += 1
            if len(batch) == TABLE_ROWS_MAX:
                progress.update(progress_text.format(count))
                if session.console.terminal:
                    progress.stop()  # the table is the progress now
                _show_items(session, batch, keys_only=keys_only)
                batch.clear()
    if batch:
        _show_items(session, batch, keys_only=keys_only)
    if session.console.terminal:
        session.console.line(f"{count} {'key' if count == 1 else 'keys'}")
    return ExitCode.OK


def _show_items(session: Session, items: Iterable[KeyValue], *, keys_only: bool) -> None:
    console = session.console
    if console.json_lines:
        for item in items:
            fields: dict[str, object] = {"key": as_json(item.key)}
            if not keys_only:
                fields["value"] = as_json(item.value)
            console.json(fields | {"version": item.version})
    elif console.terminal:
        columns = ["key", "version"] if keys_only else ["key", "value", "version"]
        rows = (
            [as_text(i.key), str(i.version)]
            if keys_only
            else [as_text(i.key), as_text(i.value), str(i.version)]
            for i in items
        )
        console.table(columns, rows, right=("version",))
    elif keys_only:
        console.lines(as_text(item.key) for item in items)
    else:
        console.lines(f"{as_text(item.key)}\t{as_text(item.value)}" for item in items)


def transact(session: Session, file: str) -> ExitCode:
    """Run the transaction that a file, or standard input for ``-``, describes."""
    if file == "-":
        if session.in_shell:
            raise UsageError("txn: write the transaction on the lines after txn, or name a file")
        if sys.stdin.isatty():
            print("transaction, end with Ctrl-D:", file=sys.stderr)
        content = sys.stdin.buffer.read()
    else:
        content = _read(file)
    return run_script(session, os.fsdecode(content), "" if file == "-" else f"{file}: ")


def run_script(session: Session, text: str, place: str) -> ExitCode:
    """Run a transaction given as text; ``place`` says where errors are."""
    try:
        script = parse_script(text)
    except ScriptError as error:
        raise UsageError(f"{place}{error}") from None
    with session.progress("transaction"):
        result = session.client.transact(script.compares, script.then, script.otherwise)
    _show_result(session, script, result)
    return ExitCode.OK if result.succeeded else ExitCode.NO


def _show_result(session: Session, script: Script, result: TransactResult) -> None:
    console = session.console
    branch = script.then if result.succeeded else script.otherwise
    ran = "then" if result.succeeded else "else"
    pairs = list(zip(branch, result.results, strict=True))
    if console.json_lines:
        results = []
        for operation, outcome in pairs:
            fields: dict[str, object] = {
                "operation": type(operation).__name__.lower(),
                "key": as_json(operation.key),
                "found": outcome.found,
            }
            if isinstance(operation, Add) or (isinstance(operation, Get) and outcome.found):
                fields["value"] = as_json(outcome.value)
            results.append(fields | {"version": outcome.version})
        console.json({"branch": ran, "version": result.version, "results": results})
        return
    told = [(op, _told(op, outcome.found, outcome.value)) for op, outcome in pairs]
    console.line(f"{ran} ran at version {result.version}")
    if not console.terminal:
        console.lines(
            f"{type(op).__name__.lower()}\t{as_text(op.key)}\t{text}" for op, text in told
        )
    elif told:
        rows = [(type(op).__name__.lower(), as_text(op.key), text) for op, text in told]
        console.table(("operation", "key", "result"), rows)


def _told(operation: Operation, found: bool, value: bytes) -> str:
    """Return what came of one operation, for a person."""
    if isinstance(operation, Get):
        return as_text(value) if found else "(no key)"
    if isinstance(operation, Add):
        return as_text(value)
    if isinstance(operation, Put):
        return "replaced" if found else "created"
    assert isinstance(operation, Delete)
    return "deleted" if found else "(no key)"
