"""Every knob of a router. Environment variables, prefix OVERDB_; ``--help`` prints this file's content."""

from __future__ import annotations

from pydantic import Field, field_validator

from overdb_common.addresses import split_addresses
from overdb_common.settings import Limits, ProcessSettings

_MIB = 1 << 20


class RouterSettings(ProcessSettings, Limits):
    """Settings of one router."""

    listen: str = Field("0.0.0.0:7400", description="address to serve on, host:port")
    seeds: str = Field(
        description="addresses of nodes, host:port separated by commas; one of each group is "
        "enough, the rest is learned from them"
    )

    request_seconds_max: float = Field(
        10.0, gt=0, le=300, description="longest time the router works on one request, s"
    )
    describe_seconds_max: float = Field(
        1.0,
        gt=0,
        le=30,
        description="a replica that does not say how it is by then counts as down, s",
    )
    poll_seconds: float = Field(
        1.5, ge=0.1, le=60, description="how often each leader is asked whether it still leads, s"
    )
    stall_seconds: float = Field(
        0.4, ge=0.05, le=30, description="a leader that owes answers this long is doubted, s"
    )
    stop_seconds_max: float = Field(
        5.0, ge=0, le=60, description="time to finish what is under way when stopping, s"
    )

    message_bytes_max: int = Field(
        _MIB, ge=4096, le=4 * _MIB, description="requests in one message to a group, bytes"
    )
    messages_in_flight_max: int = Field(
        1,
        ge=1,
        le=1024,
        description="messages with writes, and as many with reads, that wait for a group's answer; "
        "few make large messages, which cost less",
    )
    queued_bytes_max: int = Field(
        64 * _MIB, ge=_MIB, le=1 << 34, description="requests that wait for one group, bytes"
    )
    stream_bytes_max: int = Field(
        32 * _MIB, ge=_MIB, le=1 << 34, description="unanswered requests of one Batch stream, bytes"
    )
    answer_bytes_max: int = Field(
        16 * _MIB, ge=_MIB, le=1 << 34, description="answers that one slow client may leave, bytes"
    )
    unary_calls_max: int = Field(
        4096, ge=1, le=1 << 20, description="single calls (not Batch) that are worked on at a time"
    )
    scan_page_items_max: int = Field(
        1000, ge=1, le=100_000, description="items in one page of a scan"
    )
    transactions_open_max: int = Field(
        10_000,
        ge=1,
        le=1 << 20,
        description="transactions over several groups that are worked on at a time",
    )
    client_id_seconds: float = Field(
        1200.0, ge=1, le=3000, description="age at which the router takes a new client id, s"
    )

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, text: str) -> str:
        if not split_addresses(text):
            raise ValueError("at least one host:port is needed")
        return text

    def seed_addresses(self) -> tuple[str, ...]:
        """Where to ask first."""
        return split_addresses(self.seeds)
