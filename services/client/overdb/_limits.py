"""Every bound of the client, with its unit last."""

from __future__ import annotations

from dataclasses import dataclass

from overdb.ids import CLIENT_ID_SECONDS_MAX

TIMEOUT_SECONDS_MAX = 3600.0  # an id is accepted for an hour: nothing can be retried for longer


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client holds and how long it waits. The defaults fit a router nearby."""

    message_bytes_max: int = 1024 * 1024
    """Payload of one batch message; a single larger request travels alone."""
    request_bytes_max: int = 4 * 1024 * 1024
    """One request. Routers have their own limits on keys, values and requests."""
    queued_bytes_max: int = 64 * 1024 * 1024
    """Payload of all requests without an answer; beyond it a call raises ResourceExhausted."""
    received_bytes_max: int = 16 * 1024 * 1024
    """Largest message that is accepted from a router or a leader."""
    connect_seconds_max: float = 1.0
    """How long one router may take to answer a connection, before the next is tried."""
    silence_seconds_max: float = 1.0
    """How long a router may owe answers and be silent, before its health is asked; a leader is left then."""
    probe_seconds_max: float = 0.5
    """How long a health question may take, before a router counts as not answering."""
    backoff_seconds_min: float = 0.02
    """First pause before a refused request, or an unreachable set of routers, is tried again."""
    backoff_seconds_max: float = 1.0
    """Longest such pause."""
    client_id_seconds_max: float = CLIENT_ID_SECONDS_MAX
    """Age at which a new client id is taken."""
    close_seconds_max: float = 1.0
    """How long close() waits for connections to end."""
