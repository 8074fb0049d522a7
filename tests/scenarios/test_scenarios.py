"""Every scenario file's trace is what happens now; ``--rewrite-scenarios`` writes it anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.runner import ScenarioError, execute, files

STORIES = {
    "append_delayed_never_cuts",
    "figure_7",
    "figure_8",
    "figure_8_overridden",
    "leader_partitioned",
    "leader_slow_fsync",
    "pre_vote_isolated_returns",
    "read_index_deposed_leader",
    "restart_forgets_agreed",
    "snapshot_chunk_lost",
    "snapshot_conflicting_and_matching",
    "snapshot_lagging_follower",
    "transfer",
    "transfer_interrupted",
}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_a_scenarios_trace_is_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    before = path.read_text()
    after = execute(before)
    if request.config.getoption("--rewrite-scenarios", default=False):
        path.write_text(after)
        return
    assert after == before, f"{path.name}: run python -m tests.scenarios.rewrite and read the diff"


def test_every_story_is_there() -> None:
    """A renamed or lost file must not pass in silence."""
    assert {path.stem for path in files()} == STORIES


def test_an_expectation_that_does_not_hold_fails() -> None:
    """``expect`` is not rewritten."""
    with pytest.raises(ScenarioError, match=r"line 3: > expect 1 commit 7: .*found 0"):
        execute("# story\n> cluster 3\n> expect 1 commit 7\n")


def test_a_line_that_is_nothing_is_refused() -> None:
    with pytest.raises(ScenarioError, match="line 2 is neither"):
        execute("> cluster 3\ncluster 3\n")


def test_a_changed_trace_is_noticed() -> None:
    """The comparison itself: one wrong word in a trace and the texts differ."""
    whole = execute("> cluster 1\n> elect 1\n")
    assert "leader" in whole
    assert execute(whole) == whole
    assert execute(whole.replace("leader", "follower")) != whole.replace("leader", "follower")
