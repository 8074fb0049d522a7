"""The program as a user runs it: output, exit codes, one-line errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from overdb import ResourceExhausted
from overdb.cli.app import app, hoisted
from overdb.cli.session import exit_code_of
from overdb.v1 import cluster_pb2
from tests.unit.cli.conftest import Finished, Run
from tests.unit.cli.programs import run_on
from tests.unit.client.fake_router import RouterThread, refusal

PROGRAM = (sys.executable, "-c", "from overdb.cli import main; main()")


def objects(finished: Finished) -> list[dict[str, object]]:
    return [json.loads(line) for line in finished.stdout.splitlines()]


def refused(finished: Finished, code: int, words: str) -> None:
    """Check an exit code, and that stderr is one line with these words and no traceback."""
    assert finished.returncode == code, finished.stderr
    lines = finished.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert lines[0].startswith("overdb: ")


def test_put_get_delete(run: Run, tmp_path: Path) -> None:
    assert run("put", "a", "1").stdout == b"1001\n"
    assert run("get", "a").stdout == b"1\n"
    refused(run("get", "missing"), 1, 'no key "missing"')
    assert run("put", "n", "-5").returncode == 0
    assert run("get", "n").stdout == b"-5\n"
    assert run("put", "--", "--dash", "x").returncode == 0
    assert (
        run("delete", "a", "zz", "--", "--dash").stdout == b"deleted a\nno key zz\ndeleted --dash\n"
    )
    refused(run("get", "a"), 1, "no key")
    assert run("put", "bin", "-", given=b"\xff\0\n").returncode == 0
    assert run("get", "bin", "--output", str(tmp_path / "out")).stdout == b""
    assert (tmp_path / "out").read_bytes() == b"\xff\0\n"
    assert run("get", "bin", "--output", "-").stdout == b"\xff\0\n"
    assert run("put", b"\xfe", "--file", str(tmp_path / "out")).returncode == 0
    assert objects(run("get", b"\xfe", "--json")) == [
        {"key": {"base64": "/g=="}, "found": True, "value": {"base64": "/wAK"}, "version": 1008}
    ]


def test_json_is_one_object_a_line(run: Run) -> None:
    assert objects(run("--json", "put", "a", "ü")) == [{"key": "a", "version": 1001}]
    assert objects(run("get", "a", "--json")) == [
        {"key": "a", "found": True, "value": "ü", "version": 1001}
    ]
    missing = run("get", "b", "--json")
    assert missing.returncode == 1
    assert objects(missing) == [{"key": "b", "found": False}]
    assert objects(run("delete", "a", "b", "--json")) == [
        {"key": "a", "existed": True, "version": 1002},
        {"key": "b", "existed": False, "version": 1003},
    ]


def test_scan(run: Run, router_thread: RouterThread) -> None:
    store = router_thread.router.store
    for i in range(5):
        store.values[b"k%d" % i] = (b"v\t%d" % i, 900 + i)
    assert run("scan").stdout.splitlines()[0] == b"k0\tv\\t0"
    assert run("scan", "k1", "k3", "--keys-only").stdout == b"k1\nk2\n"
    assert run("scan", "--prefix", "k", "--reverse", "--limit", "1").stdout == b"k4\tv\\t4\n"
    assert objects(run("scan", "--limit", "1", "--json")) == [
        {"key": "k0", "value": "v\t0", "version": 900}
    ]
    assert run("scan", "nothing").stdout == b""
    refused(run("scan", "b", "a"), 2, "end is not behind start")
    refused(run("scan", "a", "--prefix", "b"), 2, "either prefix, or start and end")


def test_a_transaction_prints_its_branch_and_ends_with_1_for_else(run: Run, tmp_path: Path) -> None:
    script = "compare\n missing a\nthen\n put a 1\n add n 5\n get zz\nelse\n get a\n"
    first = run("txn", given=script.encode())
    assert first.returncode == 0
    assert first.stdout.splitlines() == [
        b"then ran at version 1001",
        b"put\ta\tcreated",
        b"add\tn\t5",
        b"get\tzz\t(no key)",
    ]
    file = tmp_path / "swap.txn"
    file.write_text(script)
    second = run("txn", str(file), "--json")
    assert second.returncode == 1
    assert objects(second) == [
        {
            "branch": "else",
            "version": 1002,
            "results": [
                {"operation": "get", "key": "a", "found": True, "value": "1", "version": 1001}
            ],
        }
    ]
    file.write_text("then\n  put a\n")
    refused(run("txn", str(file)), 2, f"{file}: line 2, column 8: expected a value")
    refused(run("txn", str(tmp_path / "none")), 2, "cannot read")


def status_with_a_dead_replica() -> cluster_pb2.StatusResponse:
    status = cluster_pb2.StatusResponse(cluster="c", router_version="1.0")
    led = status.groups.add(group=0, leader_id=1, term=3, slots=2048)
    led.replicas.add(
        id=1, address="h:7410", reachable=True, role="ROLE_LEADER", commit_index=9, applied_index=9
    )
    led.replicas.add(
        id=2,
        address="h:7411",
        reachable=True,
        role="ROLE_FOLLOWER",
        commit_index=8,
        applied_index=7,
        problem="disk nearly full",
    )
    status.groups.add(group=1, slots=2048).replicas.add(id=4, address="h:7413")
    return status


def test_status_ends_with_3_when_it_does_not_serve(run: Run, router_thread: RouterThread) -> None:
    assert run("status").returncode == 0
    told = status_with_a_dead_replica()
    router_thread.do(lambda: setattr(router_thread.router, "status", told))
    plain = run("status")
    assert plain.returncode == 3
    assert plain.stdout.decode().splitlines() == [
        "cluster c, level 0, router 1.0: NOT serving: no leader in group 1",
        "group 0\treplica 1\th:7410\tleader\tlag 0",
        "group 0\treplica 2\th:7411\tfollower\tlag 2\tdisk nearly full",
        "group 1\treplica 4\th:7413\tunreachable\tlag -",
    ]
    (whole,) = objects(run("status", "--json"))
    assert whole["serving"] is False
    assert len(whole["groups"]) == 2  # type: ignore[arg-type]
    assert run("locate", "k").stdout.splitlines()[3] == b"group\t1"
    assert objects(run("locate", "k", "--json"))[0]["leader_address"] == "127.0.0.1:7413"


def test_errors_are_one_line_and_have_their_exit_code(
    run: Run, router_thread: RouterThread, tmp_path: Path
) -> None:
    router = router_thread.router
    refused(run("nothing"), 2, "No such command 'nothing'")
    refused(run("get"), 2, "Missing argument")
    refused(run("get", "k", "--version", "0"), 2, "--version")
    refused(run("put", "k"), 2, "either a VALUE")
    refused(run("put", "k", "v", "--file", "f"), 2, "either a VALUE")
    refused(run("put", "k", "--file", str(tmp_path / "none")), 2, "No such file")
    refused(run("get", ""), 2, "key is empty")
    refused(run("get", "k", "--timeout", "0"), 2, "timeout of 0.0 seconds")
    refused(run("get", "k", "--output", str(tmp_path)), 1, "no key")
    refused(run("-e", "http://x", "get", "k"), 2, "is not host:port")
    down = run("-e", "127.0.0.1:1", "--timeout", "2", "put", "k", "v")
    refused(down, 3, "127.0.0.1:1: connection refused")
    router_thread.do(lambda: setattr(router, "rule", lambda _: None))
    refused(run("put", "k", "v", "--timeout", "2"), 4, "outcome unknown")
    shown = run("put", "k", "v", "--timeout", "2", "--json")
    error = json.loads(shown.stderr)["error"]
    assert error["code"] == "DEADLINE_EXCEEDED"
    assert error["request_id"].endswith("/1")
    refused(run("get", "k", "--timeout", "2"), 3, "no answer")
    for code, ends in ((9, 5), (10, 5), (12, 5), (3, 2)):
        rule = lambda entry, code=code: refusal(entry, code, "because")  # noqa: E731
        router_thread.do(lambda rule=rule: setattr(router, "rule", rule))  # type: ignore[misc]
        refused(run("put", "k", "v", "--timeout", "3"), ends, "because")


def test_a_refusal_that_was_retried_to_the_end_has_the_exit_code_of_refusals() -> None:
    """Beside the others: in a process it may end as unknown, when the time ends a copy under way."""
    assert exit_code_of(ResourceExhausted("full")) == 5


def test_ctrl_c_is_quiet_and_ends_with_130(router_thread: RouterThread) -> None:
    router = router_thread.router
    router_thread.do(lambda: setattr(router, "rule", lambda _: None))
    process = subprocess.Popen(
        [*PROGRAM, "-e", router.address, "put", "k", "v", "--timeout", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    router_thread.call(router.until(lambda: len(router.entries) == 1))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_closed_pipe_is_quiet(router_thread: RouterThread) -> None:
    store = router_thread.router.store
    for i in range(5000):
        store.values[b"key-%05d" % i] = (b"v" * 100, 1)
    router_thread.router.scan_page_items = 1000
    process = subprocess.Popen(
        [*PROGRAM, "-e", router_thread.router.address, "scan"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"key-00000")
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 141
    assert errors == b""


def test_the_shell_runs_lines_of_standard_input(run: Run) -> None:
    lines = (
        'put a "x y"\nget a\n\nhelp\nGET a\ntxn\n  then\n  add n 2\n\nscan --limit 1\n'
        "delete a\nstatus\nlocate k\nget a\n"
    )
    done = run("shell", given=lines.encode())
    assert done.returncode == 1  # of the last line: the key is gone
    text = done.stdout.decode()
    assert text.startswith("1001\nx y\n")
    assert "then ran at version 1002\nadd\tn\t2\n" in text
    assert "a\tx y\n" in text
    assert text.endswith("leader\t4 at 127.0.0.1:7413\n")
    assert done.stderr == b'overdb: no key "a"\n'
    assert run("shell", given=b"get nothing\nexit\nget more\n").returncode == 1
    assert run("--json", "shell", given=b"get nothing\n").stdout == (
        b'{"key": "nothing", "found": false}\n'
    )


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("frobnicate", 2, 'no command "frobnicate": help lists them'),
        ("shell", 2, 'no command "shell"'),
        ("help nope", 2, 'no command "nope"'),
        ('get "open', 2, "column 5: the quote"),
        ("get", 2, "Missing argument"),
        ("put k -", 2, "use --file"),
        ("txn\nthen\n  put a\n\n", 2, "line 2, column 8: expected a value"),
        ("txn -", 2, "on the lines after txn"),
    ],
)
def test_the_shell_says_what_is_wrong(run: Run, line: str, code: int, words: str) -> None:
    refused(run("shell", given=line.encode() + b"\n"), code, words)


@pytest.mark.parametrize("before", [b"", b"txn\n"])
def test_the_shell_says_that_its_input_is_no_text(run: Run, before: bytes) -> None:
    done = run("shell", given=before + b"\xff\xe9\n", PYTHONIOENCODING="utf-8:strict")
    refused(done, 2, "standard input is not utf-8 text: for byte ff type \\xff")


def test_a_forked_program_has_the_streams_of_one_that_was_started(
    run: Run, router_thread: RouterThread
) -> None:
    lines = b'put a "\xc3\xa9\rb"\r\nget a\n'
    environment = {"PYTHONIOENCODING": "latin-1:replace", "COLUMNS": "80"}
    forked = run("--json", "shell", given=lines, **environment)
    started = subprocess.run(
        [*PROGRAM, "--json", "-e", router_thread.router.address, "shell"],
        input=lines,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )
    for one in (forked, started):
        assert (one.returncode, one.stderr) == (started.returncode, started.stderr)
        assert json.loads(one.stdout.splitlines()[-1])["value"] == "Ã©\rb"


@pytest.mark.timeout(60)
def test_the_shell_on_a_terminal_keeps_its_history(
    router_thread: RouterThread, tmp_path: Path
) -> None:
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "-e", router_thread.router.address, "shell"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "80"},
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""

    def until(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(controller, 4096)
            if b"\x1b[6n" in seen:  # the terminal is asked where its cursor is
                seen = seen.replace(b"\x1b[6n", b"")
                os.write(controller, b"\x1b[1;1R")

    until(b"overdb>")
    os.write(controller, b"put a 1\r")
    until(b"at version 1001")
    seen = seen.partition(b"at version 1001")[2]
    until(b"overdb>")
    os.write(controller, b"\x04")
    assert process.wait(20) == 0
    os.close(controller)
    assert "put a 1" in (tmp_path / "overdb" / "history").read_text()


def test_tables_fit_80_columns(router_thread: RouterThread) -> None:
    store = router_thread.router.store
    store.values[b"k" * 60] = (b"v" * 3000, 1_700_000_000_000_000)
    told = status_with_a_dead_replica()
    router_thread.do(lambda: setattr(router_thread.router, "status", told))
    for command, words in (
        ("scan", "(3000 characters)"),
        ("status", "does not answer"),
        ("get", "1700000000000000"),
    ):
        arguments = [command, "k" * 60] if command == "get" else [command]
        shown = on_a_terminal("-e", router_thread.router.address, *arguments)
        assert words in " ".join(shown.split()), shown
        assert max(len(line) for line in shown.splitlines()) <= 80


def test_more_than_a_terminal_holds_arrives(router_thread: RouterThread) -> None:
    values = {b"key-%04d" % number: (b"v" * 60, 1) for number in range(1000)}
    router_thread.router.store.values.update(values)
    shown = on_a_terminal("-e", router_thread.router.address, "scan")
    assert len(shown) > 70_000
    assert all(key.decode() in shown for key in values)


def on_a_terminal(*arguments: str) -> str:
    """Return what the program writes to a terminal of 80 columns, without its colours."""
    controller, terminal = os.openpty()
    name = Path(os.ttyname(terminal))
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    pieces: list[bytes] = []

    def read() -> None:  # concurrently: the program blocks when the terminal's buffer is full
        with contextlib.suppress(OSError):  # EIO: the program has closed the terminal
            while piece := os.read(controller, 4096):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_on((name, name, Path(os.devnull)), arguments, environment)
    finally:
        os.close(terminal)
        reader.join()
        os.close(controller)
    return b"".join(pieces).decode()


def test_help_documents_the_exit_codes_in_80_columns() -> None:
    shown = CliRunner().invoke(app, ["--help"], prog_name="overdb").output
    assert "Exit codes:" in shown
    assert "outcome unknown" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").stdout.decode() == f"overdb {version('overdb')}\n"


def test_options_of_the_program_may_stand_anywhere_before_two_dashes() -> None:
    options, rest = hoisted(["get", "k", "--json", "-e", "a:1", "--timeout=3", "--", "--json"])
    assert options == ["--json", "-e", "a:1", "--timeout=3"]
    assert rest == ["get", "k", "--", "--json"]
    assert hoisted(["get", "-e"]) == (["-e"], ["get"])


def test_light_commands_load_neither_tables_nor_the_shell_nor_the_supervisor() -> None:
    code = (
        "import sys\n"
        "from overdb.cli.app import run\n"
        "code = run(['-e', '127.0.0.1:1', '--timeout', '0.01', 'get', 'k'])\n"
        "heavy = {'rich.table', 'rich.console', 'prompt_toolkit', 'overdb.cli.local'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 3, done.stderr


def test_without_typer_the_remedy_is_named() -> None:
    code = "import sys\nsys.modules['typer'] = None\nfrom overdb.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    refused(done, 2, "pip install 'overdb[cli]'")


def test_a_full_disk_behind_the_output_is_one_line(router_thread: RouterThread, run: Run) -> None:
    run("put", "k", "v")
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(
            [*PROGRAM, "-e", router_thread.router.address, "get", "k"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert finished.returncode == 5
    assert finished.stderr == "overdb: cannot write the output: No space left on device\n"
