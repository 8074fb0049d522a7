"""The listener for direct clients: data of one group, and nothing that only members and routers may ask.

The port of a node is for nodes and routers, which trust each other. Clients that pass the routers by use
this one (OVERDB_DIRECT_LISTEN, PROTOCOL 2.11): puts, deletes, reads of keys and transactions inside the
group, in ``Exchange``, and a ``Describe`` that names the leader and the slots. Every other call ends with
PERMISSION_DENIED.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from overdb.internal.v1 import shard_pb2
from overdb_common import grpc_options, serving
from overdb_common.addresses import split_address
from overdb_common.careful import careful
from overdb_node import admission
from overdb_node.transport.shard_service import Answers, Backend, ShardService

if TYPE_CHECKING:
    from overdb_node.replica import Replica

_SERVICE = "overdb.internal.v1.Shard"
_WILDCARDS = ("0.0.0.0", "::", "[::]", "*")  # noqa: S104  # compared with, not listened on
# What a client needs to find leaders. Numbers of directories, which members are known by, are not among it.
_TOLD = ("cluster", "group", "groups", "replica_id", "leader_id", "role", "epoch", "slots")


class DirectBackend:
    """What of a replica's backend clients may use."""

    def __init__(self, backend: Backend, replica: Replica) -> None:
        self._backend = backend
        self._replica = replica

    def exchange(self, request: shard_pb2.ShardRequest, answers: Answers) -> None:
        try:
            admission.of_client(request)
        except admission.Refused as refused:
            answers.compact = request.compact
            reason = shard_pb2.Failure.REASON_INVALID
            self._replica.refuse(request.sequence, answers, reason, str(refused))
        else:
            self._backend.exchange(request, answers)

    async def describe(self, request: shard_pb2.DescribeRequest) -> shard_pb2.DescribeResponse:
        """``linearizable`` costs the group a round: it is not for clients."""
        known = await self._backend.describe(shard_pb2.DescribeRequest(group=request.group))
        return shard_pb2.DescribeResponse(**{name: getattr(known, name) for name in _TOLD})


def add_service(backend: DirectBackend, server: grpc.aio.Server) -> ShardService:
    """Have ``server`` serve direct clients, and refuse everything else that is asked of it."""
    service = ShardService(backend)  # type: ignore[arg-type]  # of the two methods that are registered
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {  # of those, no other is served
        "Exchange": grpc.stream_stream_rpc_method_handler(
            service.Exchange,
            shard_pb2.ShardRequest.FromString,
            shard_pb2.ShardResponse.SerializeToString,
        ),
        "Describe": grpc.unary_unary_rpc_method_handler(
            service.Describe,
            shard_pb2.DescribeRequest.FromString,
            shard_pb2.DescribeResponse.SerializeToString,
        ),
    }
    handlers = {name: careful(handler) for name, handler in handlers.items()}
    served = grpc.method_handlers_generic_handler(_SERVICE, handlers)
    server.add_generic_rpc_handlers((served, _Refusing()))
    server.add_registered_method_handlers(_SERVICE, handlers)  # as generated code does both
    return service


class _Refusing(grpc.GenericRpcHandler):
    """Takes every call that nobody else takes."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = details.method

        async def refuse(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{method} is not served to clients: this address takes puts, deletes, reads and "
                "transactions of one group; ask a router, or the node's own address",
            )

        return grpc.stream_stream_rpc_method_handler(refuse)


async def serve(backend: Backend, replica: Replica) -> tuple[grpc.aio.Server, ShardService] | None:
    """Listen on OVERDB_DIRECT_LISTEN; None when there is none. Raises StartupError."""
    listen = replica.settings.direct_listen
    if not listen:
        return None
    server = grpc.aio.server(options=grpc_options.server_options())
    service = add_service(DirectBackend(backend, replica), server)
    port = serving.bind(server, listen, "OVERDB_DIRECT_LISTEN")
    await server.start()
    replica.direct_listen = f"{split_address(listen)[0]}:{port}"
    return server, service


def address_told(listen: str, own_address: str) -> str:
    """Return where clients reach a listener: its own host, or the member's where it listens on all of them.

    Empty while there is no listener, or the replica does not know yet where it is reached.
    """
    host, _, port = listen.rpartition(":")
    if host in _WILDCARDS:
        host = own_address.rpartition(":")[0]
    return f"{host}:{port}" if host and port else ""
