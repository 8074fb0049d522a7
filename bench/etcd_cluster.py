"""Three etcd nodes as processes on loopback, with etcd's own defaults: every write is fsynced."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc

from bench.etcd import rpc_pb2, rpc_pb2_grpc
from tests.integration.cluster import wait_until
from tests.ports import free_ports

INSTALL = "etcd: not installed; on Debian and Ubuntu: apt-get install etcd-server"
_QUOTA_BYTES = 8 << 30


def program() -> str | None:
    """Where etcd is, None if it is not installed."""
    return shutil.which("etcd")


class EtcdCluster:
    """``with`` starts it and waits for a leader; leaving stops it."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(6)
        self.endpoints = [f"127.0.0.1:{port}" for port in ports[:3]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        self._directory = directory
        self.popens: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> EtcdCluster:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._start_all()
        return self

    def _start_all(self) -> None:
        cluster = ",".join(f"node{n}={peer}" for n, peer in enumerate(self._peers))
        self.popens = []
        try:
            for number, (endpoint, peer) in enumerate(
                zip(self.endpoints, self._peers, strict=True)
            ):
                self.popens.append(self._start(number, f"http://{endpoint}", peer, cluster))
            wait_until(self.leader, "etcd has a leader")
        except BaseException:
            self.__exit__()
            raise

    def restart(self) -> None:
        """End all nodes and start them on what they have stored.

        Reads of etcd 3.4 copy a buffer of what was written lately, which large transactions leave grown for
        as long as the process lives.
        """
        self.__exit__()
        self._start_all()

    def _start(self, number: int, client: str, peer: str, cluster: str) -> subprocess.Popen[bytes]:
        flags = {
            "name": f"node{number}",
            "data-dir": str(self._directory / f"node{number}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": cluster,
            "quota-backend-bytes": str(_QUOTA_BYTES),
        }
        with (self._directory / f"node{number}.log").open("ab") as log:
            return subprocess.Popen(
                [program() or "etcd", *(f"--{name}={value}" for name, value in flags.items())],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def __exit__(self, *_: object) -> None:
        for popen in self.popens:
            popen.terminate()
        for popen in self.popens:
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()

    def leader(self) -> str | None:
        """The endpoint of the leader, None if there is none."""
        for endpoint in self.endpoints:
            with grpc.insecure_channel(endpoint) as channel:
                stub = rpc_pb2_grpc.MaintenanceStub(channel)
                try:
                    status = stub.Status(rpc_pb2.StatusRequest(), timeout=1)
                except grpc.RpcError:
                    continue
            if status.leader and status.leader == status.header.member_id:
                return endpoint
        return None
