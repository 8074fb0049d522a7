"""Options of every gRPC channel and server between our own processes, and of the router's public port.

A client that pings more often than its server allows is cut off with ``too_many_pings``; the server's
default is one ping in 300 s. So both ends are set here, together.
"""

from __future__ import annotations

Option = tuple[str, int | str]

# The largest request is 4 MiB by default and 8 MiB at most; what carries it needs some room.
MESSAGE_BYTES_MAX = 16 << 20
WINDOW_BYTES = 1 << 20

# A peer whose machine vanished is noticed after 4 + 4 s. A peer that is merely slow answers pings from
# threads of gRPC, so this does not hang on a busy event loop.
KEEPALIVE_MS = 4_000
KEEPALIVE_TIMEOUT_MS = 4_000

# Somebody waits for a leader that is being started again: ask often. One attempt to connect gets a
# second, because an address that has moved does not even refuse.
RECONNECT_MS_INITIAL = 100
RECONNECT_MS_MAX = 500
CONNECT_ATTEMPT_MS = 1_000

# Containers come back under another address. The default looks a name up at most every 30 s.
DNS_MS_MIN = 500

_COMMON: tuple[Option, ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # A ping with every message, to size windows for links that are slow and long: ours are neither, and an
    # idle cluster spent a sixth of its time on them. Instead a window that many messages fit in.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
)


def channel_options() -> list[Option]:
    """Return the options of a channel to a node or router."""
    return [
        *_COMMON,
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_INITIAL),
        ("grpc.min_reconnect_backoff_ms", CONNECT_ATTEMPT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ("grpc.dns_min_time_between_resolutions_ms", DNS_MS_MIN),
        # A new channel tries at once, whatever an earlier one to the same address went through.
        ("grpc.use_local_subchannel_pool", 1),
        # Retries are ours: they need the same request id and the caller's deadline.
        ("grpc.enable_retries", 0),
        # A proxy of the environment is for the world outside, not for the processes of a cluster.
        ("grpc.enable_http_proxy", 0),
    ]


def server_options() -> list[Option]:
    """Return the options of a server."""
    return [
        *_COMMON,
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
        # With it a second process on the same port starts quietly and takes half of the connections.
        ("grpc.so_reuseport", 0),
    ]
