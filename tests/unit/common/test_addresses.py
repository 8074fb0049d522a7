"""Addresses that others are told to connect to."""

from __future__ import annotations

import pytest

from overdb_common.addresses import check_reachable_address


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:7410", "[::1]:80", "s0r2:7410", "node_1.cluster.local:1", "a:65535", "10.0.0.1:80"],
)
def test_what_can_be_reached_is_taken(address: str) -> None:
    assert check_reachable_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:80",
        "[::]:80",
        "[::0]:80",
        "0:80",
        "1.2.3:80",
        "x=1,y:80",
        "a b:80",
        "-x:80",
        "x" * 5000 + ":80",
        "[x]:80",
        "host:0",
        "host",
        ":80",
        "",
    ],
)
def test_what_cannot_is_refused_in_a_short_line(address: str) -> None:
    with pytest.raises(ValueError, match="'") as refused:
        check_reachable_address(address)
    assert len(str(refused.value)) < 160
