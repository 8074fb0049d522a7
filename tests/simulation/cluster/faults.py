"""What goes wrong in a run, drawn from its seed: each fault begins, lasts a while, and is mended.

Never so much that the cluster may lose what it acknowledged: damage to a disk (a flipped bit, a shorter
file, an fsync that fails, an empty disk) hits one replica of a group, and another one only when the first
was replaced. Everything else may hit anybody, all of them at once included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from random import Random

import overdb
from overdb_common.level import LEVEL
from overdb_node.raft.errors import NotLeader
from overdb_node.raft.group_time import HEARD_US_MAX
from overdb_simulation.cluster import Cluster, Node, RouterNode
from overdb_simulation.network import Weather
from tests.simulation.cluster import settings
from tests.simulation.cluster.clocks import Clocks, set_process_clock
from tests.simulation.cluster.hostile import HostileMessages
from tests.simulation.cluster.lagging import Absence
from tests.simulation.cluster.operators import Operators
from tests.simulation.cluster.restores import Restore, seconds_until_put_back
from tests.simulation.cluster.suspends import suspend_a_machine, suspend_all_machines

WEATHERS = (
    Weather(),
    Weather(loss=0.05, duplication=0.05, reordering=0.2),
    Weather(loss=0.2, duplication=0.05, reordering=0.3, slowness=0.2),
    Weather(loss=0.01, duplication=0.2, reordering=0.5, slowness=0.4),
    Weather(latency=0.005, jitter=0.02, reordering=0.2),
)

SMALL_JUMPS = (-5, -0.5, 0.5, 5)  # seconds; of clocks that are not called wrong for it
JUMPS = (-3650 * 86_400, -86_400, -3600, -120, 120, 3600, 86_400, 3650 * 86_400)
HEARD_SECONDS = HEARD_US_MAX / 1e6
INSTALLATION_SECONDS = 4.0  # for which an installation is waited for


# How often, and the method that does it.
FAULTS = (
    (8, "kill"),
    (4, "lose_power"),
    (5, "lose_power_in_an_operation"),
    (2, "lose_power_everywhere"),
    (5, "pause"),
    (4, "pause_the_leader"),
    (6, "isolate"),
    (6, "isolate_the_leader"),
    (4, "strand_the_leader"),
    (4, "split"),
    (4, "one_way"),
    (4, "some_links"),
    (6, "change_weather"),
    (3, "slow_disk"),
    (3, "stall_disk"),
    (2, "fill_disk"),
    (2, "fill_the_leaders_disk"),
    (2, "fill_the_disks_of_a_group"),
    (2, "fail_fsync"),
    (2, "damage_disk"),
    (6, "jump_clock"),
    (2, "jump_router_clock"),
    (2, "wrong_in_turn"),
    (2, "wrong_time"),
    (3, "drift_clock"),
    (2, "suspend_all_machines"),
    (3, "suspend_a_machine"),
    (5, "kill_router"),
    (3, "hand_over"),
    (3, "restart_quickly"),
    (4, "lose_power_in_a_start"),
    (4, "kill_at_an_installation"),
    (3, "pause_router"),
    (4, "kill_client"),
    (3, "upgrade"),
    (3, "change_settings"),
    (2, "wipe_disk"),
    (3, "restore_directory"),
    (2, "replace_node"),
    (2, "join_with_other_groups"),
    (3, "send_hostile_messages"),
)


# In runs with small logs, and only there: elsewhere no leader gives a follower up within seconds.
LAGGING = (25, "leave_behind")

# Release 0.1.0 breaks promises under them: they wait until the last program is upgraded.
SURVIVED_FROM_LEVEL_1 = frozenset(
    (
        "change_settings",
        "jump_router_clock",
        "send_hostile_messages",
        "suspend_a_machine",
        "suspend_all_machines",
        "wrong_in_turn",
        "wrong_time",
    )
)


class Faults:
    """Draws and carries out faults; ``heal`` ends all of them."""

    def __init__(
        self,
        cluster: Cluster,
        random: Random,
        only: Collection[str] = (),
        clocks: Clocks | None = None,
        *,
        lagging: bool = False,
    ) -> None:
        """``only``: names of methods, where a run is to have no other faults. ``lagging``: some followers
        are left behind."""
        self._cluster = cluster
        self.clocks = clocks or Clocks(cluster)
        self.time_was_wrong = False  # of a whole group
        self.time_stood_still = False  # or it may have, while all machines slept
        cluster.supervise = self._start
        self._world = cluster.world
        self._random = random
        self.counts: Counter[str] = Counter()
        self.refusals: list[str] = []  # starts that should have succeeded
        self._fsync_fails: set[str] = set()  # nodes that give up over this, once
        self.damaged_nodes: set[str] = set()
        self._damaged: set[int] = set()  # groups with a replica whose disk was damaged
        self.lost: dict[Node, int] = {}  # nodes whose disk is empty, and the id that it had
        self._wrong_groups: set[int] = (
            set()
        )  # whose time was wrong, and is not known to be repaired
        self.operators = Operators(cluster, self._replaced)
        self._hostile = HostileMessages(cluster, Random(random.getrandbits(64)))
        self.victim: Callable[[overdb.Client], Awaitable[None]] | None = (
            None  # what killed clients do
        )
        self._kinds: list[tuple[int, Callable[[], None]]] = [
            (weight, getattr(self, name)) for weight, name in FAULTS
        ]
        # A run has a taste: some kinds often, some never.
        for position, (weight, kind) in enumerate(self._kinds):
            factor = random.choice((0, 0, 1, 1, 3))
            if only:
                factor = int(kind.__name__ in only)
            self._kinds[position] = (weight * factor, kind)
        weight, name = LAGGING
        if lagging and (not only or name in only):
            self._kinds.append((weight, getattr(self, name)))
        if not any(weight for weight, _ in self._kinds):
            self._kinds[0] = (1, self.kill)

    def next_pause(self) -> float:
        """Seconds until the next fault."""
        return self._random.expovariate(1 / 0.8)

    def strike(self) -> None:
        """One fault."""
        weights = [weight for weight, _ in self._kinds]
        kind = self._random.choices(self._kinds, weights)[0][1]
        if kind.__name__ not in SURVIVED_FROM_LEVEL_1 or self._level_is_newest():
            kind()

    def _level_is_newest(self) -> bool:
        """Whether all groups are at the newest level, by their leaders."""
        leaders = [self._cluster.leader(group) for group in range(self._cluster.groups)]
        return all(
            node is not None and node.replica is not None and node.replica.machine.level == LEVEL
            for node in leaders
        )

    def heal(self) -> None:
        """No more faults: everything on, whole and reachable. What refuses its damaged disk is replaced."""
        cluster, network = self._cluster, self._world.network
        network.weather = Weather()
        network.set_cut(())
        for node in cluster.nodes:
            self._upgrade(node)
            self._resume(node)
            node.slow_seconds = 0.0
            node.disk.full = False
            node.disk.fail_fsyncs = 0
            node.disk.operations_until_power_loss = None
            if node.process is not None:
                node.process.clock_drift = 0.0
            self._start(node)
        for router in cluster.routers:
            self._resume(router)
            if not router.is_up:
                router.start()
        self._world.note("-", "healed")

    # --- helpers ------------------------------------------------------------------------------------

    def _note(self, kind: str, who: str = "-", **details: object) -> None:
        self.counts[kind] += 1
        self._world.note(who, kind, fault=True, **details)

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        self._world.loop.call_later(seconds, mend)

    def _node(self) -> Node:
        return self._random.choice(self._cluster.nodes)

    def _a_leader(self) -> Node | None:
        leaders = [self._cluster.leader(group) for group in range(self._cluster.groups)]
        known = [node for node in leaders if node is not None]
        return self._random.choice(known) if known else None

    def _seconds(self, least: float = 0.2, most: float = 3.0) -> float:
        return self._random.uniform(least, most)

    def _start(self, node: Node) -> None:
        if not node.is_up and not self._is_out_of_order(node) and node not in self.operators.off:
            node.start()
            if not node.refused or node.name in self.damaged_nodes:
                return
            disk_says_so = node.disk.full or "Input/output error" in node.refused
            if (
                disk_says_so or "has no room" in node.refused
            ):  # it is tried again until there is some
                self._later(1.0, lambda: self._start(node))
            else:
                self.refusals.append(f"{node.name} does not start: {node.refused}")

    def _is_out_of_order(self, node: Node) -> bool:
        """Whether it refuses the disk that was damaged under it: only replacing it helps."""
        return bool(node.refused) and node.name in self.damaged_nodes

    def repair(self) -> bool:
        """Have everything replaced that does not come back by itself; whether nothing is left to be done."""
        broken = [n for n in self._cluster.nodes if n in self.lost or self._is_out_of_order(n)]
        for node in broken:
            self.operators.replace(node)
        return not broken and not self.operators.busy and not self._wrong_groups

    def explains_fatal(self, node: Node) -> bool:
        """Whether a replica may give up, by what was done to its disk: in that life, and for that once."""
        if node.name in self._fsync_fails and not node.disk.fail_fsyncs:
            self._fsync_fails.discard(node.name)
            return True
        return node.name in self.damaged_nodes

    def _replaced(self, node: Node) -> None:
        """It is as good as new."""
        self.lost.pop(node, None)
        self.damaged_nodes.discard(node.name)
        self._fsync_fails.discard(node.name)
        self._damaged.discard(node.group)

    def _resume(self, node: Node | RouterNode) -> None:
        process = node.process
        if process is not None and process.alive and process.paused:
            self._world.loop.resume(process)

    # --- processes ----------------------------------------------------------------------------------

    def kill(self) -> None:
        node = self._node()
        if node.is_up:
            self._note("kill", node.name)
            node.kill()
            self._later(self._seconds(), lambda: self._start(node))

    def restart_quickly(self) -> None:
        node = self._a_leader() or self._node()
        if node in self.operators.off:
            return
        self._note("restart", node.name)
        node.kill()
        self._start(node)

    def lose_power(self) -> None:
        node = self._node()
        if node.is_up:
            self._note("power loss", node.name)
            node.kill(power=True)
            self._later(self._seconds(), lambda: self._start(node))

    def lose_power_in_an_operation(self) -> None:
        """At one of the next operations on the disk, in the middle of it."""
        node = self._node()
        if node.is_up:
            self._note("power loss in an operation", node.name)
            node.disk.operations_until_power_loss = self._random.randint(0, 60)

            def again() -> None:
                node.disk.operations_until_power_loss = None
                self._start(node)

            self._later(self._seconds(0.5), again)

    def lose_power_in_a_start(self) -> None:
        """While it reads, repairs and tidies up its directory."""
        node = self._node()
        if node.is_up and node not in self.operators.off:
            self._note("power loss in a start", node.name)
            node.kill(power=True)
            node.disk.operations_until_power_loss = self._random.randint(0, 40)
            self._start(node)

            def again() -> None:
                node.disk.operations_until_power_loss = None
                self._start(node)

            self._later(self._seconds(0.1, 1.0), again)

    def kill_at_an_installation(self) -> None:
        """Whoever installs a snapshot within the next seconds: in the middle of it, or right behind."""
        end = self._world.loop.time() + INSTALLATION_SECONDS

        def look() -> None:
            for node in self._cluster.nodes:
                if node.is_up and node.replica is not None and node.replica.raft.installing:
                    self._later(self._seconds(0.0, 0.01), lambda node=node: strike(node))  # type: ignore[misc]
                    return
            if self._world.loop.time() < end:
                self._later(0.001, look)

        def strike(node: Node) -> None:
            if node.is_up:
                installing = node.replica is not None and node.replica.raft.installing
                self._note(
                    "kill in an installation" if installing else "kill behind one", node.name
                )
                node.kill(power=self._random.random() < 0.5)
                self._later(self._seconds(), lambda: self._start(node))

        look()

    def leave_behind(self) -> None:
        """A follower is away until its leader has compacted what it would need next; then it catches up,
        on a slow disk at times, while writes go on (FAULTS 83)."""
        leader = self._a_leader()
        if leader is None:
            return
        followers = [n for n in self._cluster.group(leader.group) if n is not leader]
        node = self._random.choice(followers)
        if not node.is_up or node.replica is None or node in self.operators.off:
            return
        last = node.replica.raft.log.last_index
        killed = self._random.random() < 0.7
        slow = self._random.choice((0.0, 0.01, 0.1))

        def back() -> None:
            self._note("came back", node.name)
            node.slow_seconds = slow
            self._later(self._seconds(1.0), lambda: setattr(node, "slow_seconds", 0.0))
            if killed:
                self._start(node)
            elif network.cut is marker:
                network.set_cut(())

        self._note("left behind", node.name, killed=killed, last=last)
        network, marker = self._world.network, None
        if killed:
            node.kill(power=self._random.random() < 0.5)
        else:
            network.set_cut(self._apart({node.name}))
            marker = network.cut
        Absence(self._world, self._cluster, node, last, back).look()

    def lose_power_everywhere(self) -> None:
        self._note("power loss everywhere")
        for node in self._cluster.nodes:
            if node.is_up:
                node.kill(power=True)
            self._later(self._seconds(0.1, 1.5), lambda node=node: self._start(node))  # type: ignore[misc]

    def pause(self) -> None:
        self._pause(self._node())

    def pause_the_leader(self) -> None:
        node = self._a_leader()
        if node is not None:
            self._pause(node)

    def _pause(self, node: Node, seconds: float = 0.0) -> None:
        process = node.process
        if process is not None and process.alive and not process.paused:
            self._note("pause", node.name)
            process.paused = True
            self._later(seconds or self._seconds(), lambda: self._resume(node))

    def kill_router(self) -> None:
        router = self._random.choice(self._cluster.routers)
        if router.is_up:
            self._note("kill router", router.name)
            router.kill()
            self._later(self._seconds(0.1, 1.0), lambda: None if router.is_up else router.start())

    def pause_router(self) -> None:
        router = self._random.choice(self._cluster.routers)
        process = router.process
        if process is not None and process.alive and not process.paused:
            self._note("pause router", router.name)
            process.paused = True
            self._later(self._seconds(), lambda: self._resume(router))

    def kill_client(self) -> None:
        """In the middle of a transaction over groups, as a rule: what it began is finished by others."""
        victim = self.victim
        if victim is None:
            return
        self._note("kill client")

        async def work(client: overdb.Client) -> None:
            while True:
                await victim(client)

        process = self._cluster.client("victim", work)

        def kill() -> None:
            process.alive = False
            self._world.network.process_died(process)

        self._later(self._random.uniform(0.0, 0.1), kill)

    # --- programs -----------------------------------------------------------------------------------

    def upgrade(self) -> None:
        """Restart a node that runs the program of the release before with the present one (FAULTS 90)."""
        older = [node for node in self._cluster.nodes if node.level_known < LEVEL]
        if older:
            self._upgrade(self._random.choice(older))

    def _upgrade(self, node: Node) -> None:
        if node.level_known < LEVEL:
            self._note("upgrade", node.name)
            node.level_known = LEVEL
            if node not in self.operators.off:
                node.kill()
                self._start(node)

    def send_hostile_messages(self) -> None:
        """From outside, to several replicas, the leaders of the groups as a rule among them."""
        for _ in range(self._random.randint(1, 6)):
            node = self._a_leader() if self._random.random() < 0.5 else self._node()
            if node is not None and node.is_up:
                self._note("hostile messages", node.name)
                self._hostile.strike(node)

    def change_settings(self) -> None:
        """Restart a node with other limits than it had, and than the other nodes have."""
        node = self._a_leader() if self._random.random() < 0.5 else self._node()
        if node is None or node in self.operators.off:
            return
        node.limits = settings.draw(self._random)
        self._note("changed settings", node.name, **node.limits)
        node.kill()
        self._start(node)

    # --- members ------------------------------------------------------------------------------------

    def wipe_disk(self) -> None:
        """Lose everything, and start again under the old id (FAULTS 38); replace it some time later."""
        node = self._damageable()
        if node is None:
            return
        self._note("wiped disk", node.name)
        node.kill()
        node.wipe()
        self.lost[node] = node.replica_id
        self._later(self._seconds(0.0, 1.0), lambda: self._start(node))
        self._later(self._seconds(1.0, 4.0), lambda: self._replace(node))

    def restore_directory(self) -> None:
        """Copy a directory, of a running node too, and put the copy back some time later (FAULTS 82)."""
        node = self._damageable()
        if node is None:
            return
        restarts = self._random.random() < 0.8
        if restarts:
            node.kill()
            self._later(self._seconds(0.0, 0.3), lambda: self._start(node))
        self._note("copied directory", node.name, restarts=restarts)

        def put_back() -> None:
            if (
                not restore.is_possible
                or node in self.operators.off
                or node.name in self.damaged_nodes
            ):
                keep()
                return
            self._note("restored directory", node.name)
            node.kill()
            node.restore(restore.copy)
            self.lost[node] = node.replica_id
            self._later(self._seconds(0.0, 1.0), lambda: start(self._random.choice((0, 0, 1, 4))))
            self._later(self._seconds(2.0, 5.0), lambda: self._replace(node))

        def start(crashes: int) -> None:
            """Before anybody has heard it, as a rule, so that its start number grows without being noted."""
            self._start(node)
            if crashes:
                node.kill()
                self._later(self._seconds(0.0, 0.1), lambda: start(crashes - 1))

        def keep() -> None:
            self._damaged.discard(node.group)

        restore = Restore(
            self._cluster,
            node,
            restarts=restarts,
            told=lambda: self._later(seconds_until_put_back(self._random), put_back),
            given_up=keep,
        )

    def join_with_other_groups(self) -> None:
        """Replace a node by one that is set to another number of groups at first."""
        node = self._node()
        if node.group not in self._damaged and self.operators.replace(node, groups=3):
            self._note("other groups", node.name)

    def _replace(self, node: Node) -> None:
        self.operators.replace(node)

    def replace_node(self) -> None:
        """A sound one, the leader too; not while another one of its group is broken."""
        node = self._a_leader() if self._random.random() < 0.5 else self._node()
        if node is None or node.group in self._damaged:
            return
        if self.operators.replace(node):
            self._note("replace", node.name)

    def hand_over(self) -> None:
        node = self._a_leader()
        if node is None or node.replica is None or node.process is None or node.process.paused:
            return
        replica = node.replica

        def transfer() -> None:
            try:
                replica.transfer_to(replica.best_follower())
            except (NotLeader, ValueError):
                return

        self._note("hand over", node.name)
        self._world.loop.inside(node.process, transfer)

    # --- the network --------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        clients = [client.name for client in self._cluster.clients if client.alive]
        servers = [n.name for n in self._cluster.nodes] + [r.name for r in self._cluster.routers]
        return list(dict.fromkeys([*servers, *clients]))

    def _cut(self, kind: str, links: set[tuple[str, str]], seconds: float = 0.0) -> None:
        network = self._world.network
        self._note(kind, links=len(links))
        network.set_cut(links)
        marker = network.cut

        def mend() -> None:
            if network.cut is marker:
                network.set_cut(())

        self._later(seconds or self._seconds(0.5, 5.0), mend)

    def _apart(self, side: set[str]) -> set[tuple[str, str]]:
        names = self._names()
        return {(a, b) for a in names for b in names if (a in side) != (b in side)}

    def isolate(self) -> None:
        self._cut("isolate", self._apart({self._node().name}))

    def isolate_the_leader(self) -> None:
        """From its followers; routers reach it still, and ask it for reads (FAULTS 21)."""
        node = self._a_leader()
        if node is not None:
            peers = {n.name for n in self._cluster.nodes if n is not node}
            links = {(node.name, p) for p in peers} | {(p, node.name) for p in peers}
            if self._random.random() < 0.5:
                links |= self._apart({node.name})
            self._cut("isolate the leader", links)

    def strand_the_leader(self) -> None:
        """Alone with one router, which reaches nobody else, and paused: it goes on when another one leads,
        and is asked for reads before it can know (FAULTS 21, 23)."""
        node = self._a_leader()
        if node is None:
            return
        router = self._random.choice(self._cluster.routers).name
        side = {node.name, router}
        others = [name for name in self._names() if name not in side]
        group = {n.name for n in self._cluster.group(node.group)}
        # The router reaches the other groups: only of this one it hears nothing new.
        apart = {(node.name, o) for o in others} | {(router, o) for o in others if o in group}
        self._cut("strand the leader", apart | {(b, a) for a, b in apart})
        self._pause(node, self._seconds(1.0, 2.5))

    def split(self) -> None:
        names = self._names()
        side = set(self._random.sample(names, self._random.randint(1, len(names) - 1)))
        self._cut("split", self._apart(side))

    def one_way(self) -> None:
        """What one node sends is lost, or what is sent to it."""
        name = self._node().name
        others = [other for other in self._names() if other != name]
        outward = self._random.random() < 0.5
        self._cut("one way", {(name, o) if outward else (o, name) for o in others})

    def some_links(self) -> None:
        names = self._names()
        links = [(a, b) for a in names for b in names if a != b]
        self._cut(
            "some links", set(self._random.sample(links, self._random.randint(1, len(links) // 3)))
        )

    def change_weather(self) -> None:
        self._note("weather")
        self._world.network.weather = self._random.choice(WEATHERS)

    # --- disks and clocks ---------------------------------------------------------------------------

    def slow_disk(self) -> None:
        node = self._node()
        self._note("slow disk", node.name)
        node.slow_seconds = self._random.uniform(0.005, 0.1)
        self._later(self._seconds(), lambda: setattr(node, "slow_seconds", 0.0))

    def stall_disk(self) -> None:
        node = self._a_leader() or self._node()
        self._note("stalled disk", node.name)
        node.slow_seconds = self._random.uniform(2.0, 4.0)
        self._later(self._seconds(0.1, 1.0), lambda: setattr(node, "slow_seconds", 0.0))

    def fill_disk(self) -> None:
        self._fill("full disk", [self._node()])

    def fill_the_leaders_disk(self) -> None:
        node = self._a_leader()
        if node is not None:
            self._fill("full disk of a leader", [node])

    def fill_the_disks_of_a_group(self) -> None:
        group = self._random.randrange(self._cluster.groups)
        self._fill("full disks of a group", self._cluster.group(group))

    def _fill(self, kind: str, nodes: list[Node]) -> None:
        """Something else takes all but a few bytes of the disks, none or so many that a write ends in its
        middle, or as much as leaves the replicas a part of their reserves. Nobody ends for it."""
        self._note(kind, ",".join(node.name for node in nodes))
        for node in nodes:
            leave = self._random.choice((0, 0, 700, 9000, 100_000, 400_000, 900_000))
            node.disk.others_bytes = 0
            node.disk.others_bytes = max(0, node.disk.free_bytes - leave)

        def free() -> None:
            for node in nodes:
                node.disk.others_bytes = 0
                self._start(node)

        self._later(self._seconds(), free)

    def fail_fsync(self) -> None:
        node = self._damageable()
        if node is not None and node.is_up:
            self._note("failed fsync", node.name)
            self._fsync_fails.add(node.name)
            node.disk.fail_fsyncs = 1
            self._later(self._seconds(), lambda: self._start(node))

    def damage_disk(self) -> None:
        """While the process is down, as bits rot: found at the start, or by the reader."""
        node = self._damageable()
        if node is not None:
            node.kill()
            self.damaged_nodes.add(node.name)
            flips = self._random.random() < 0.7
            what = (
                node.disk.flip_bit(self._random) if flips else node.disk.truncate_some(self._random)
            )
            self._note("flipped bit" if flips else "shorter file", node.name, what=what)
            self._later(self._seconds(0.1, 1.0), lambda: self._start(node))

    def _damageable(self) -> Node | None:
        nodes = [
            node
            for node in self._cluster.nodes
            if node.group not in self._damaged and node.group not in self.operators.busy
        ]
        if not nodes:
            return None
        node = self._random.choice(nodes)
        self._damaged.add(node.group)
        return node

    def jump_clock(self) -> None:
        """Of one machine, by anything up to years, for a while or for good; of no second one in its group."""
        node = self._node()
        if node.group in self._wrong_groups:
            return
        others = self.clocks.wrong_in(node.group) - {node}
        before = node.clock_offset_ns // 1000
        small = others or not self._level_is_newest()
        seconds = self._random.choice(SMALL_JUMPS if small else (*SMALL_JUMPS, *JUMPS))
        offset = int(seconds * 1e6) if abs(seconds) > 15 else before + int(seconds * 1e6)
        if abs(seconds) <= 15 and abs(offset) > 15_000_000:
            offset = 0  # set right, where small ones would have come together
        self._note("clock jump", node.name, seconds=offset / 1e6)
        self.clocks.set(node, offset)
        if self._random.random() < 0.5:
            self._later(self._seconds(0.5, 4.0), lambda: self.clocks.set(node, 0))

    def jump_router_clock(self) -> None:
        router = self._random.choice(self._cluster.routers)
        seconds = self._random.choice((*SMALL_JUMPS, *JUMPS))
        self._note("router's clock jump", router.name, seconds=seconds)
        set_process_clock(router.process, int(seconds * 1e6))

    def wrong_in_turn(self) -> None:
        """One machine's clock is wrong and mended while nobody hears it; then another one's is."""
        leader = self._a_leader()
        if leader is None or leader.group in self._wrong_groups:
            return
        group = leader.group
        if self.clocks.wrong_in(group):
            return
        first, second = (node for node in self._cluster.group(group) if node is not leader)
        self._note("wrong in turn", first.name, then=second.name)
        self._wrong_groups.add(group)
        self.clocks.set(first, JUMPS[-1] * 1_000_000)

        def leave() -> None:
            self._cut("isolate the wrong one", self._apart({first.name}), HEARD_SECONDS + 2.0)
            self.clocks.set(first, 0)

        def end() -> None:
            self.clocks.set(second, 0)
            self._wrong_groups.discard(group)

        self._later(0.4, leave)
        self._later(HEARD_SECONDS + 0.8, lambda: self.clocks.set(second, JUMPS[-1] * 1_000_000))
        self._later(HEARD_SECONDS + 1.8, end)

    def wrong_time(self) -> None:
        """All machines of a group are ahead for a while; then an administrator repairs its time."""
        group = self._random.randrange(self._cluster.groups)
        if group in self._wrong_groups or self.clocks.wrong_in(group):
            return
        seconds = self._random.choice([jump for jump in JUMPS if jump > 0])
        self._note("wrong time", f"group {group}", seconds=seconds)
        self.time_was_wrong = True
        self._wrong_groups.add(group)
        for node in self._cluster.group(group):
            self.clocks.set(node, int(seconds * 1e6))

        def mend() -> None:
            for node in self._cluster.group(group):
                self.clocks.set(node, 0)
            self.operators.repair_time(group, lambda: self._wrong_groups.discard(group))

        self._later(self._seconds(0.5, 2.0), mend)

    def drift_clock(self) -> None:
        node = self._node()
        if node.process is not None and not node.process.clock_drift:
            self._note("clock drift", node.name)
            node.process.clock_drift = self._random.uniform(-0.2, 0.2)
            node.process.drift_since = self._world.loop.time()

    # --- machines that sleep ------------------------------------------------------------------------

    def suspend_all_machines(self) -> None:
        """A laptop is closed, a host is suspended: ids, retention and leases have passed when it wakes."""
        # With one voter down and another one's clock behind, a group's time stands still (PROTOCOL 2.1): the
        # clients' clocks are ahead of it when they wake.
        self.time_stood_still |= any(self.clocks.wrong_in(g) for g in range(self._cluster.groups))
        suspend_all_machines(self._world, self._random, self._note)

    def suspend_a_machine(self) -> None:
        """A node's, a router's or a client's; its wall clock is set right only some time after it wakes."""
        suspend_a_machine(self._cluster, self._random, self._note)
