"""Scenarios as text: a story, commands, and under each command everything that it made happen.

A file begins with its story (lines with ``#``). A command is a line that begins with ``> ``; the
lines below it, indented, are its trace. ``python -m tests.scenarios.rewrite`` writes the traces anew:
commit only what you understand. ``expect`` commands are not rewritten, they fail.

Commands (replicas are numbers, entries are written ``term.index``):

    cluster 3                      a group of three voters with empty logs; then words with numbers:
                                   ``append 2`` (an Append holds at most 2 bytes, or one entry), ``keep 4``
                                   (ticks for which the log is kept for a silent follower), ``window 48``
                                   (bytes of a snapshot under way), ``memory 500`` (bytes of entries)
    log 2 1.1 1.2 commit 1         before it starts: what is on replica 2's disk; also ``S1.4`` first
    elect 1                        the others forget their leader, 1 campaigns; only votes move
    timeout 1                      1's election timer runs out
    tick 1 20                      time passes for 1 (``tick all 2`` for everyone)
    wait 1 20                      the same, and whatever it sends meanwhile is lost
    propose 1 a b                  entries with these payloads
    read 1 name                    a linearizable read
    transfer 1 2                   1 hands leadership over to 2
    deliver                        deliver until nothing is under way (``deliver 1>2``: on that link;
                                   ``deliver 1>2 Append``: the oldest such message, and no more)
    step                           deliver what is under way now, not what follows from it
    drop 1>2 Chunk                 lose messages (``drop``, ``drop 1>2``: all of them); ``duplicate``
    delay 1>2 Append               set the oldest such message aside until ``release``
    partition 1 | 2 3              what is sent across is lost from now on; ``heal``
    slow 1 / fsync 1 / fast 1      1's disk waits for ``fsync``; works by itself again
    crash 1 / restart 1            lose everything that is not fsynced
    compact 1                      a snapshot of what is applied becomes the first element
    repair 1 2                     deliver between the two until 2 has 1's log; count the round trips
    show                           every replica on a line
    expect 1 log 1.1 2.2           (also: role, term, commit, applied, leader, first) fail otherwise
    expect round trips 1           of the last ``repair``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from overdb_node.raft.errors import NotLeader, Overloaded
from overdb_node.raft.messages import Message, VoteAnswer, VoteRequest
from overdb_node.raft.settings import RaftSettings
from overdb_node.raft.types import HardState
from tests.paper.helpers import TICKS_MAX, disk_of, show
from tests.paper.host import Disk, Host
from tests.scenarios.describing import describe

DIRECTORY = Path(__file__).parent
MESSAGES_MAX = 500
SETTINGS = {
    "append": "append_bytes_max",
    "keep": "keep_silent_ticks",
    "window": "chunk_window_bytes",
    "memory": "log_memory_bytes_max",
}
Link = tuple[int, int]


class ScenarioError(Exception):
    """A script that cannot be run, or an expectation that does not hold."""


class Scenario:
    """The state behind a script; ``run`` executes one command and returns its trace."""

    def __init__(self) -> None:
        self.settings = RaftSettings()
        self.disks: dict[int, Disk] = {}
        self.hosts: dict[int, Host] = {}
        self.network: list[tuple[int, int, Message]] = []
        self.aside: list[tuple[int, int, Message]] = []
        self.cut: set[Link] = set()
        self.down: set[int] = set()
        self.slow: set[int] = set()
        self.trace: list[str] = []
        self.round_trips = 0
        self._seen: dict[int, dict[str, object]] = {}

    def run(self, command: str) -> list[str]:
        self.trace = []
        name, *arguments = command.split()
        handler: Callable[[list[str]], None] | None = getattr(self, f"do_{name}", None)
        if handler is None:
            raise ScenarioError(f"no such command: {command}")
        handler(arguments)
        return self.trace

    # --- the group ------------------------------------------------------------------------------

    def do_cluster(self, arguments: list[str]) -> None:
        count = int(arguments[0])
        numbers = zip(arguments[1::2], map(int, arguments[2::2]), strict=True)
        self.settings = RaftSettings(**{SETTINGS[word]: number for word, number in numbers})
        self.disks = {i: disk_of("", count) for i in range(1, count + 1)}

    def do_log(self, arguments: list[str]) -> None:
        replica, *words = arguments
        commit, term = 0, 0
        if "term" in words:
            term = int(words.pop(words.index("term") + 1))
            words.remove("term")
        if "commit" in words:
            commit = int(words.pop(words.index("commit") + 1))
            words.remove("commit")
        disk = disk_of(" ".join(words), len(self.disks), maker=int(replica))
        last = disk.entries[-1].term if disk.entries else disk.snapshot.term
        disk.hard_state = HardState(max(term, last), 0, commit)
        self.disks[int(replica)] = disk

    def _host(self, replica: str | int) -> Host:
        if not self.hosts:
            for each in self.disks:
                self._start(each)
        host = self.hosts[int(replica)]
        if host.replica_id in self.down:
            raise ScenarioError(f"replica {replica} is down")
        return host

    def _start(self, replica: int) -> None:
        host = Host(replica, self.disks[replica], Random(replica), self._send, self.settings)
        self.hosts[replica] = host
        self.down.discard(replica)
        self._seen[replica] = self._look(host)
        host.pump()

    def _all(self) -> list[Host]:
        if not self.hosts:
            self._host(next(iter(self.disks)))
        return [host for i, host in self.hosts.items() if i not in self.down]

    # --- what happens -----------------------------------------------------------------------------

    def _send(self, sender: int, to: int, message: Message) -> None:
        if (sender, to) in self.cut or to in self.down:
            self.trace.append(f"{sender}>{to} {describe(message)}: lost")
            return
        self.network.append((sender, to, message))

    def _after(self, host: Host) -> None:
        """Let the host finish (unless its disk is slow), and write down what has changed."""
        start = len(self.trace)
        host.pump()
        if host.replica_id not in self.slow:
            host.settle()
        now, before = self._look(host), self._seen[host.replica_id]
        self._seen[host.replica_id] = now
        changed = [f"{what} {value}" for what, value in now.items() if value != before[what]]
        if changed:
            self.trace.insert(start, f"  {host.replica_id}: " + ", ".join(changed))
        for read, index in host.answered:
            self.trace.append(f"  {host.replica_id}: read {read} answered at {index}")
        for read in host.failed:
            self.trace.append(f"  {host.replica_id}: read {read} failed")
        host.answered.clear()
        host.failed.clear()

    @staticmethod
    def _look(host: Host) -> dict[str, object]:
        raft = host.raft
        return {
            "role": raft.role.value,
            "term": raft.term,
            "leader": raft.leader_id,
            "commit": raft.commit_index,
            "applied": host.state.index,
            "agreed": f"{raft.agreed_term}:{raft.agreed}",
            "durable": raft.durable,
            "log": show(raft.log) or "empty",
        }

    def _deliver(self, item: tuple[int, int, Message]) -> None:
        self.network.remove(item)
        sender, to, message = item
        lost = ": lost" if to in self.down else ""
        self.trace.append(f"{sender}>{to} {describe(message)}{lost}")
        if not lost:
            host = self._host(to)
            host.raft.receive(sender, message)
            self._after(host)

    def _chosen(self, arguments: list[str]) -> Iterator[tuple[int, int, Message]]:
        """Messages under way on a link and of a kind, oldest first."""
        link, kind = None, ""
        if arguments:
            sender, _, to = arguments[0].partition(">")
            link = (int(sender), int(to))
            kind = arguments[1] if len(arguments) > 1 else ""
        for item in list(self.network):
            if link in (None, item[:2]) and kind in ("", type(item[2]).__name__):
                yield item

    def _first(self, arguments: list[str]) -> tuple[int, int, Message]:
        for item in self._chosen(arguments):
            return item
        raise ScenarioError(f"no such message is under way: {' '.join(arguments)}")

    # --- messages -----------------------------------------------------------------------------------

    def do_deliver(self, arguments: list[str]) -> None:
        if len(arguments) > 1:
            self._deliver(self._first(arguments))
            return
        for _ in range(MESSAGES_MAX):
            item = next(self._chosen(arguments), None)
            if item is None:
                return
            self._deliver(item)
        raise ScenarioError(f"more than {MESSAGES_MAX} messages")

    def do_step(self, _: list[str]) -> None:
        for item in list(self.network):
            self._deliver(item)

    def do_drop(self, arguments: list[str]) -> None:
        for item in list(self._chosen(arguments)):
            self.network.remove(item)
            self.trace.append(f"{item[0]}>{item[1]} {describe(item[2])}: lost")

    def do_duplicate(self, arguments: list[str]) -> None:
        self.network.append(self._first(arguments))

    def do_delay(self, arguments: list[str]) -> None:
        item = self._first(arguments)
        self.network.remove(item)
        self.aside.append(item)
        self.trace.append(f"{item[0]}>{item[1]} {describe(item[2])}: delayed")

    def do_release(self, _: list[str]) -> None:
        self.network, self.aside = self.network + self.aside, []

    def do_partition(self, arguments: list[str]) -> None:
        sides = [set(map(int, side.split())) for side in " ".join(arguments).split("|")]
        for a in sides:
            for b in sides:
                if a is not b:
                    self.cut |= {(x, y) for x in a for y in b}

    def do_heal(self, _: list[str]) -> None:
        self.cut = set()

    # --- inputs -------------------------------------------------------------------------------------

    def do_tick(self, arguments: list[str]) -> None:
        hosts = self._all() if arguments[0] == "all" else [self._host(arguments[0])]
        for _ in range(int(arguments[1])):
            for host in hosts:
                host.raft.tick()
                self._after(host)

    def do_wait(self, arguments: list[str]) -> None:
        before = list(self.network)
        self.do_tick(arguments)
        self.network = before
        self.trace = [line for line in self.trace if line.startswith("  ")]

    def do_timeout(self, arguments: list[str]) -> None:
        host = self._host(arguments[0])
        if host.raft.is_leader:
            raise ScenarioError(f"replica {arguments[0]} leads: it has no election timer")
        for _ in range(TICKS_MAX):
            host.raft.tick()
            fired = host.raft.election._elapsed == 0
            self._after(host)
            if fired:
                return
        raise ScenarioError(f"replica {arguments[0]} does not campaign")

    def do_elect(self, arguments: list[str]) -> None:
        candidate, tries = self._host(arguments[0]), 1
        for host in self._all():
            host.raft.leader_id = 0  # as if an election timeout had passed
            self._seen[host.replica_id] = self._look(host)
        self.do_timeout(arguments)
        while not candidate.raft.is_leader:
            votes = [i for i in self.network if isinstance(i[2], VoteRequest | VoteAnswer)]
            if votes:
                self._deliver(votes[0])
            elif candidate.raft.role.value == "follower" and tries:
                tries -= 1  # it had to learn the present term first
                self.do_timeout(arguments)
            else:
                raise ScenarioError(f"replica {arguments[0]} is not elected")
        self.network = [i for i in self.network if not isinstance(i[2], VoteRequest | VoteAnswer)]

    def do_propose(self, arguments: list[str]) -> None:
        host = self._host(arguments[0])
        try:
            host.raft.propose([word.encode() for word in arguments[1:]])
        except (NotLeader, Overloaded) as error:
            self.trace.append(f"  {arguments[0]}: refused, {type(error).__name__}")
        self._after(host)

    def do_read(self, arguments: list[str]) -> None:
        host = self._host(arguments[0])
        try:
            host.raft.read(arguments[1])
        except (NotLeader, Overloaded) as error:
            self.trace.append(f"  {arguments[0]}: refused, {type(error).__name__}")
        self._after(host)

    def do_transfer(self, arguments: list[str]) -> None:
        host = self._host(arguments[0])
        host.raft.transfer(int(arguments[1]))
        self._after(host)

    def do_compact(self, arguments: list[str]) -> None:
        host = self._host(arguments[0])
        if not host.compact():
            self.trace.append(f"  {arguments[0]}: not now")
        self._after(host)

    # --- disks --------------------------------------------------------------------------------------

    def do_slow(self, arguments: list[str]) -> None:
        self.slow.add(self._host(arguments[0]).replica_id)

    def do_fsync(self, arguments: list[str]) -> None:
        host = self._host(arguments[0])
        host.settle()
        self._after(host)

    def do_fast(self, arguments: list[str]) -> None:
        self.slow.discard(int(arguments[0]))
        self._after(self._host(arguments[0]))

    def do_crash(self, arguments: list[str]) -> None:
        self.down.add(self._host(arguments[0]).replica_id)

    def do_restart(self, arguments: list[str]) -> None:
        replica = int(arguments[0])
        self._start(replica)
        state = self._seen[replica] = self._look(self.hosts[replica])
        self.trace.append(f"  {replica}: " + ", ".join(f"{k} {v}" for k, v in state.items()))
        self._after(self.hosts[replica])

    # --- looking ------------------------------------------------------------------------------------

    def do_repair(self, arguments: list[str]) -> None:
        leader, follower = self._host(arguments[0]), self._host(arguments[1])
        there, back = f"{arguments[0]}>{arguments[1]}", f"{arguments[1]}>{arguments[0]}"
        self.round_trips = 0
        last = leader.raft.log.last_index
        while leader.raft.leading.progress[follower.replica_id].match < last:
            for link in (there, back):
                if not list(self._chosen([link])):
                    raise ScenarioError(
                        f"replica {arguments[1]} is not repaired, nothing under way"
                    )
                for item in list(self._chosen([link])):
                    self._deliver(item)
            self.round_trips += 1
        self.trace.append(f"round trips: {self.round_trips}")

    def do_show(self, _: list[str]) -> None:
        for host in self._all():
            state = self._look(host)
            self.trace.append(
                f"{host.replica_id}: " + ", ".join(f"{k} {v}" for k, v in state.items())
            )

    def do_expect(self, arguments: list[str]) -> None:
        if arguments[:2] == ["round", "trips"]:
            found, wanted = str(self.round_trips), arguments[2]
        else:
            replica, what, *rest = arguments
            found, wanted = str(self._look(self._host(replica))[what]), " ".join(rest)
        if found != wanted:
            raise ScenarioError(f"expected {' '.join(arguments)}, found {found}")


def execute(text: str) -> str:
    """The text of a scenario file with the traces as they are now."""
    scenario, lines = Scenario(), []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("    "):
            continue
        lines.append(line)
        if line.startswith("> "):
            try:
                trace = scenario.run(line[2:])
            except (AssertionError, LookupError, ValueError, ScenarioError) as error:
                raise ScenarioError(f"line {number}: {line}: {error}") from error
            lines += ["    " + entry for entry in trace]
        elif line.strip() and not line.startswith("#"):
            raise ScenarioError(f"line {number} is neither story nor command nor trace: {line}")
    return "\n".join(lines) + "\n"


def files() -> list[Path]:
    return sorted(DIRECTORY.glob("*.txt"))
