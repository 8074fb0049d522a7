"""Taking a port, and asking whether the process behind one serves."""

from __future__ import annotations

import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from overdb_common.addresses import local_address, split_address
from overdb_common.errors import StartupError

_REMEDY = "stop what uses that address or set {} to another one"


def bind(server: grpc.aio.Server, listen: str, variable: str = "OVERDB_LISTEN") -> int:
    """Have ``server`` listen on ``host:port`` and return the port (chosen by the system for port 0).

    Raises StartupError when the port is in use or the address is not of this machine; it names ``variable``.
    """
    probe_port(listen, variable)
    try:
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {listen} ({error})", _REMEDY.format(variable)
        ) from None


def probe_port(listen: str, variable: str = "OVERDB_LISTEN") -> None:
    """Raise StartupError when nobody could listen on ``host:port`` now.

    Asked before gRPC is, which reports a failure with several lines of its own on stderr.
    """
    host, port = split_address(listen)
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {listen} ({error.strerror or error})", _REMEDY.format(variable)
        ) from None


def is_serving(listen: str, service: str = "", seconds_max: float = 3.0) -> bool:
    """Return whether the process that listens on ``listen`` on this machine answers SERVING."""
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(local_address(listen), options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds_max)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
