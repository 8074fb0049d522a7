"""The commands that ask what became of transactions, and which are open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overdb.cli.console import as_json, as_text
from overdb.cli.session import ExitCode, Session, UsageError
from overdb.ids import RequestId

if TYPE_CHECKING:
    from overdb.operations import TransactResult
    from overdb.status import GroupTransactions, OpenTransaction, TransactionStatus

KEYS_SHOWN_MAX = 3  # of a transaction in a table; the rest is counted
KEY_CHARACTERS_MAX = 80

_MEANING = {
    "UNKNOWN": "unknown: never seen, or forgotten; it may have run",
    "OPEN": "open: not decided yet, ask again",
    "COMMITTED": "committed",
    "ABORTED": "aborted: it did nothing and never will",
}
_ENDS = {"COMMITTED": ExitCode.OK, "ABORTED": ExitCode.NO}


def status(session: Session, text: str) -> ExitCode:
    """Show what became of a transaction."""
    try:
        request_id = RequestId.parse(text)
    except ValueError as error:
        raise UsageError(f"txn status: {error}") from None
    with session.progress(f"status of {request_id}"):
        found = session.client.transaction_status(request_id)
    if session.console.json_lines:
        _status_json(session, request_id, found)
    else:
        _status_lines(session, found)
    return _ENDS.get(found.state.name, ExitCode.UNKNOWN)


def _status_json(session: Session, request_id: RequestId, found: TransactionStatus) -> None:
    fields: dict[str, object] = {"id": str(request_id), "state": found.state.name.lower()}
    if found.result is not None:
        fields |= {"branch": _branch(found.result), "version": found.result.version}
        fields["results"] = [
            {"found": r.found, "value": as_json(r.value), "version": r.version}
            for r in found.result.results
        ]
    session.console.json(fields)


def _status_lines(session: Session, found: TransactionStatus) -> None:
    console, result = session.console, found.result
    console.line(_MEANING[found.state.name])
    if result is None:
        return
    console.line(f"{_branch(result)} ran at version {result.version}")
    rows = [
        (str(number), "yes" if r.found else "no", as_text(r.value), str(r.version))
        for number, r in enumerate(result.results, 1)
    ]
    if not console.terminal:
        console.lines("\t".join(row) for row in rows)
    elif rows:
        columns = ("operation", "found", "value", "version")
        console.table(columns, rows, right=("operation", "version"))


def _branch(result: TransactResult) -> str:
    return "then" if result.succeeded else "else"


def open_ones(session: Session, group: int | None) -> ExitCode:
    """Show which transactions are open; UNAVAILABLE when some group does not answer."""
    with session.progress("open transactions"):
        groups = session.client.transactions(group)
    console = session.console
    if console.json_lines:
        for one in groups:
            console.json(_group_json(one))
    elif console.terminal:
        for number, one in enumerate(groups):
            _group_table(session, one, first=number == 0)
    else:
        for one in groups:
            _group_lines(session, one)
    return ExitCode.OK if all(one.reachable for one in groups) else ExitCode.UNAVAILABLE


def _group_json(group: GroupTransactions) -> dict[str, object]:
    return {
        "group": group.group,
        "reachable": group.reachable,
        "count": group.count,
        "transactions": [
            {
                "id": str(one.id),
                "attempt": one.attempt,
                "state": one.state.name.lower(),
                "age_us": one.age_us,
                "participants": list(one.participants),
                "keys": [as_json(key) for key in one.keys],
                "key_count": one.key_count,
                "waits_for": [str(other) for other in one.waits_for],
            }
            for one in group.transactions
        ],
    }


def _headline(group: GroupTransactions) -> str:
    if not group.reachable:
        return f"group {group.group}: no leader answers"
    more = group.count - len(group.transactions)
    shown = f" (the oldest {len(group.transactions)} are shown)" if more > 0 else ""
    return f"group {group.group}: {group.count or 'none'} open{shown}"


def _group_table(session: Session, group: GroupTransactions, *, first: bool) -> None:
    console = session.console
    if not first:
        console.line("")
    console.line(_headline(group))
    if not group.transactions:
        return
    numbers = {str(one.id): f"#{at}" for at, one in enumerate(group.transactions, 1)}
    rows = [
        (
            numbers[str(one.id)],
            one.state.name.lower(),
            age_text(one.age_us),
            ",".join(map(str, one.participants)) or "-",
            # A transaction that is not listed is named by its id.
            " ".join(numbers.get(str(other), str(other)) for other in one.waits_for) or "-",
            f"{one.id}\n{_keys(one)}",  # an id alone takes half of the line
        )
        for one in group.transactions
    ]
    columns = ("#", "state", "age", "groups", "waits for", "id and keys")
    console.table(columns, rows, right=("#", "age"))


def _group_lines(session: Session, group: GroupTransactions) -> None:
    if not group.reachable:
        session.console.line(_headline(group))
        return
    session.console.lines(
        "\t".join(
            (
                f"group {group.group}",
                str(one.id),
                one.state.name.lower(),
                f"age {age_text(one.age_us)}",
                f"keys {_keys(one)}",
                "waits for " + (",".join(map(str, one.waits_for)) or "-"),
            )
        )
        for one in group.transactions
    )


def _keys(one: OpenTransaction) -> str:
    shown = " ".join(_short(as_text(key)) for key in one.keys[:KEYS_SHOWN_MAX])
    more = one.key_count - len(one.keys[:KEYS_SHOWN_MAX])
    return f"{shown} +{more}" if more > 0 else shown


def _short(text: str) -> str:
    return text if len(text) <= KEY_CHARACTERS_MAX else f"{text[:KEY_CHARACTERS_MAX]}…"


def age_text(microseconds: int) -> str:
    """Return an age for a person: ``1.250 s``, or minutes from two of them on."""
    seconds = microseconds / 1e6
    return f"{seconds:.3f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
