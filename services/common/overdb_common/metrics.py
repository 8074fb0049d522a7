"""Prometheus metrics of a process: a registry of its own, served over HTTP when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from overdb_common.addresses import split_address
from overdb_common.errors import StartupError
from overdb_common.version import version


def new_registry(process: str) -> CollectorRegistry:
    """Return a registry with CPU, memory, open files and garbage collection of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    build = Gauge("overdb_build_info", "1, labelled", ["process", "version"], registry=registry)
    build.labels(process=process, version=version()).set(1)
    return registry


def start_server(registry: CollectorRegistry, listen: str) -> Callable[[], None]:
    """Serve the registry on ``host:port`` in a thread and return what stops it; nothing for "".

    Raises StartupError when the address cannot be listened on.
    """
    if not listen:
        return lambda: None
    host, port = split_address(listen)
    try:
        server, thread = start_http_server(port, host.strip("[]"), registry)
    except OSError as error:
        raise StartupError(
            f"cannot serve metrics on {listen} ({error.strerror or error})",
            "stop what uses that address or set OVERDB_METRICS_LISTEN to another one",
        ) from None

    def stop() -> None:
        _shut_down(server, thread)

    return stop


def _shut_down(server: object, thread: threading.Thread) -> None:
    server.shutdown()  # type: ignore[attr-defined]
    server.server_close()  # type: ignore[attr-defined]
    thread.join(timeout=5)
