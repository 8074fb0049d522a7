"""Builds that are broken in one way each: the simulator goes red on every one, within its budget of seeds,
and by the promise that this build breaks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest

from tests.simulation.cluster import full_disk_variants as full
from tests.simulation.cluster import lagging_variants as lag
from tests.simulation.cluster import variants
from tests.simulation.cluster.run import Outcome, Run
from tests.simulation.transactions import test_variants as of_transactions
from tests.sizes import Sizes
from tests.unit.raft import lease_variants as of_leases
from tests.unit.raft import variants as of_raft

pytestmark = pytest.mark.timeout(1800)  # dozens of seeds in the full size
Patch = pytest.MonkeyPatch
SEEDS_MAX = 80
# A seed that turns a build red, where many are green: quick runs begin with it.
KNOWN = {
    "applied_index_first": 5,
    "clock_of_the_wall": 4,
    "clocks_heard_long_ago_count": 5,
    "failed_fsync_ignored": 8,
    "heartbeat_moves_commit": 5,
    "held_until_all_is_sent": 4,
    "held_until_the_transfer_ends": 4,
    "implausible_messages_count": 4,
    "lease_never_expires": 1,
    "level_raised_alone": 19,
    "lives_not_compared": 11,
    "middle_corruption_cut": 5,
    "no_entry_of_the_own_term": 6,
    "reads_without_a_round": 5,
    "room_only_with_writes": 3,
    "scans_are_refused": 10,
    "snapshot_forgets_the_vote": 58,
    "start_ids_ignored": 3,
    "starts_not_noted": 3,
    "state_of_its_own": 2,
    "time_of_the_clock_that_is_ahead": 5,
    "time_of_the_leader_alone": 9,
    "transfers_keep_off_the_reserve": 7,
    "waiters_forgotten": 1,
    "writes_look_through_locks": 1,
}
CONTROL_SEEDS = 4
SECONDS = 8.0  # with faults
CONTROL_SECONDS = 3.0  # of most settings in a quick run; a drawn quarter of them has SECONDS


@dataclass(frozen=True, order=True)
class Setting:
    """What brings it to light. ``faults``, ``workloads``: their names, none for all kinds."""

    faults: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    pause: float = 0.0  # seconds between two steps of a client; 0: drawn
    leases: bool = False  # in all seeds, not in some
    hoards: bool = False  # likewise
    lags: bool = False  # likewise

    def run(self, seed: int, seconds: float = SECONDS) -> Outcome:
        return Run(
            seed,
            seconds,
            only=self.faults,
            workloads=self.workloads,
            pause=self.pause,
            leases=self.leases or None,
            hoards=False if self.lags else self.hoards or None,
            lags=self.lags or None,
            heartbeat_ms=100,  # what ``KNOWN`` was found with
        ).run()


ALL_KINDS = Setting()
READS = ("registers",)
FULL = Setting(
    ("fill_disk", "fill_the_leaders_disk", "fill_the_disks_of_a_group"), READS, hoards=True
)
LAGGING = Setting(("leave_behind",), pause=0.06, lags=True)
HOSTILE = Setting(("send_hostile_messages",))
# The broken build, what must be said of it (a regular expression), the setting.
CASES: list[tuple[Callable[[Patch], None], str, Setting]] = [
    (
        variants.fsync_off,
        r"does not start: .*(is corrupt|cannot be read)|started (with|in term)",
        Setting(("lose_power", "lose_power_everywhere")),
    ),
    (
        variants.directories_not_fsynced,
        r"does not start|started (with|in term 0)|has lost its disk",
        Setting(("lose_power", "lose_power_everywhere")),
    ),
    (
        variants.failed_fsync_ignored,
        r"does not start: .*is corrupt.*entry \d+ follows entry \d+|started (with|in term)",
        Setting(("fail_fsync", "lose_power_everywhere")),
    ),
    (
        variants.middle_corruption_cut,
        r"started (with|in term)",
        Setting(("damage_disk",)),
    ),
    (
        variants.applied_index_first,
        r"(clock|state|checksum) .* after entry \d+; it is .* elsewhere",
        Setting(("kill", "lose_power")),
    ),
    (variants.answers_before_the_quorum, r"is committed and on the disks of", ALL_KINDS),
    (
        variants.clock_of_the_wall,
        r"the clock went from",
        Setting(("jump_clock", "restart_quickly", "hand_over")),
    ),
    (
        variants.time_of_the_leader_alone,
        r"ahead of what two of its machines have said",
        Setting(("jump_clock", "hand_over")),
    ),
    (
        variants.time_of_the_clock_that_is_ahead,
        r"ahead of what two of its machines have said",
        Setting(("jump_clock", "hand_over")),
    ),
    (
        variants.clocks_heard_long_ago_count,
        r"ahead of what two of its machines have said",
        Setting(("wrong_in_turn",)),
    ),
    (
        variants.advance_bounded_by_the_own_time,
        r"is too far ahead",
        Setting(("wrong_time",), ("bank",)),
    ),
    (variants.results_not_kept, r"ran at \d+, and again at", ALL_KINDS),
    (variants.commit_at_the_first_vote, r"alarm: .*another outcome|: decided", ALL_KINDS),
    (variants.state_of_its_own, r"clock .* elsewhere", ALL_KINDS),
    (
        variants.level_raised_alone,
        r"level 1 is not known here",
        Setting(("upgrade", "kill", "hand_over")),
    ),
    (
        variants.reads_without_a_round,
        r"registers: not linearizable.*kind='read'",
        Setting(("strand_the_leader",), READS, 0.03),
    ),
    (
        of_leases.lease_never_expires,
        r"registers: not linearizable.*kind='read'",
        Setting(("strand_the_leader",), READS, 0.03, leases=True),
    ),
    (
        variants.snapshot_forgets_the_vote,
        r"started in term 0|is an old copy: it has (acknowledged|voted)",
        Setting(("isolate", "pause", "kill_at_an_installation"), (), 0.06),
    ),
    (
        variants.waiters_forgotten,
        r"holds \d+ keys and misses \d+; somebody is ahead of it on",
        Setting(("pause_router", "change_weather"), ("bank", "lists"), 0.03),
    ),
    (
        variants.no_entry_of_the_own_term,
        r"not healed|healed cluster does not answer|no answer to a healed cluster's client|is at level 0",
        Setting(("restart_quickly",), READS, 6.0),
    ),
    (
        of_raft.vote_not_saved,
        r"started in term|gave its vote",
        Setting(("restart_quickly", "kill")),
    ),
    (
        of_raft.heartbeat_moves_commit,
        r"was committed there before|is committed and on the disks of",
        ALL_KINDS,
    ),
    (of_raft.answer_before_fsync, r"is committed and on the disks of", Setting(("slow_disk",))),
    (of_raft.own_copy_counted_early, r"is committed and on the disks of", Setting(("slow_disk",))),
    (
        of_transactions.a_lock_freed_without_an_outcome,
        r"is open and holds \d+ of its",
        Setting(("kill_router", "pause")),
    ),
    (
        of_transactions.writes_look_through_locks,
        r"gets version \d+ behind \d+",
        Setting(("kill_router",), ("bank", "counters"), 0.1),
    ),
    (
        variants.implausible_messages_count,
        r"not healed|gave up|healed cluster|elsewhere|on the disks of|committed there",
        HOSTILE,
    ),
    (variants.nobody_is_asked_back, r"not healed|healed cluster", HOSTILE),
    (
        variants.strangers_are_heard,
        r"checksum|on the disks of|committed there before|not healed|without the committed entry",
        HOSTILE,
    ),
    (
        variants.commands_without_bounds,
        r"the limit is 1|no longer kept|gave up|expired|not healed|alarm",
        HOSTILE,
    ),
    (full.room_only_with_writes, r"disks? .*full", FULL),
    (full.old_versions_stay, r"disks? .*full", FULL),
    (full.scans_are_refused, r"a scan was refused by a full disk|not healed|healed cluster", FULL),
    (full.transfers_keep_off_the_reserve, r"disks? .*full|caught up", FULL),
    (lag.held_until_all_is_sent, r"compacted \d+ to \d+ while replica \d+ lacks", LAGGING),
    (lag.held_until_the_transfer_ends, r"compacted \d+ to \d+ while replica \d+ lacks", LAGGING),
    (lag.nothing_is_evicted, r"bytes of applied entries are in memory", LAGGING),
    (
        variants.floors_of_the_settings,
        r"the floors of ids and versions went from|ran before, and again|was refused as expired",
        Setting(("change_settings", "suspend_all_machines"), ("past",), 0.05),
    ),
    (
        variants.another_disk_takes_part,
        r"started (with|in term)|entries; \d+ are committed|both lead|refused a message"
        r"|without the committed entry|committed there before|granted its vote|on the disks",
        Setting(("wipe_disk", "isolate", "kill"), (), 0.06),
    ),
]


_RESTORED = (
    r"started (with|in term)|entries; \d+ are committed|both lead|gave up: ProtocolViolation"
    r"|without the committed entry|committed there before|gave its vote|on the disks"
)
_RESTORES = Setting(("restore_directory", "isolate", "kill"), (), 0.06)
CASES += [
    (variants.starts_not_noted, _RESTORED, _RESTORES),
    (variants.start_ids_ignored, _RESTORED, _RESTORES),
    (variants.lives_not_compared, _RESTORED, _RESTORES),
    (variants.older_lives_count, _RESTORED, _RESTORES),
    (
        variants.other_groups_take_part,
        r"votes with OVERDB_GROUPS=3|elsewhere",
        Setting(("join_with_other_groups",)),
    ),
]


@pytest.mark.parametrize(
    ("variant", "noticed", "setting"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_a_broken_build_goes_red(
    variant: Callable[[Patch], None],
    noticed: str,
    setting: Setting,
    monkeypatch: Patch,
    sizes: Sizes,
) -> None:
    variant(monkeypatch)
    for seed in sizes.from_known(KNOWN.get(variant.__name__, 0), SEEDS_MAX):
        problem = setting.run(seed).problem
        if problem:
            print(f"seed {seed}: {problem}")
            assert re.search(noticed, problem, re.DOTALL), "red, and for another reason"
            return
    raise AssertionError(f"{SEEDS_MAX} seeds did not notice")


SETTINGS = sorted({setting for _, _, setting in CASES})


def long_settings(first_seed: int) -> list[int]:
    """Returns the quarter of the settings whose quick controls last as long as their broken builds."""
    return Random(first_seed).sample(range(len(SETTINGS)), -(-len(SETTINGS) // 4))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_whole_build_is_green_under_the_same_faults(setting: Setting, sizes: Sizes) -> None:
    """Each setting has seeds of its own: a seed draws more than the setting says."""
    number = SETTINGS.index(setting)
    long = sizes.full or number in long_settings(sizes.first_seed)
    seconds = SECONDS if long else CONTROL_SECONDS
    for drawn in sizes.seeds(quick=1, full=CONTROL_SEEDS):
        seed = drawn + number
        problem = setting.run(seed, seconds).problem
        assert not problem, f"seed {seed}: {problem}"
