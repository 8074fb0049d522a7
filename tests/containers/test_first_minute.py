"""What a newcomer does first with ``make up``: health, the command line in a container, grpcurl."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from overdb.sync import Client
from tests.containers.stack import GROUPS, REPLICAS, Stack

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

GRPCURL = ".venv/bin/grpcurl"


def grpcurl(stack: Stack, *words: str, data: str | None = None) -> str:
    """grpcurl without any proto file: all it knows is what the router's reflection tells."""
    options = () if data is None else ("-d", data)
    return stack.must(GRPCURL, "-plaintext", *options, stack.endpoints[0], *words)


def call(stack: Stack, method: str, request: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(grpcurl(stack, method, data=json.dumps(request)))
    return answer


def b64(text: str) -> str:
    """How JSON writes protobuf's bytes."""
    return base64.b64encode(text.encode()).decode()


def test_up_waits_until_every_container_is_healthy(stack: Stack) -> None:
    health = {str(c.name): c.attrs["State"]["Health"]["Status"] for c in stack.containers()}
    assert len(health) == GROUPS * REPLICAS + 1
    assert set(health.values()) == {"healthy"}, health


def test_up_again_changes_nothing_and_says_what_to_do_next(stack: Stack) -> None:
    before = [container.id for container in stack.containers()]
    said = stack.up()
    assert [container.id for container in stack.containers()] == before
    assert f".venv/bin/overdb -e {stack.endpoints[0]} put greeting hello" in said


def test_the_command_line_runs_in_a_container_of_its_own(stack: Stack) -> None:
    stack.compose("run", "--rm", "client", "put", "a", "1")
    assert stack.compose("run", "--rm", "client", "get", "a").strip() == "1"
    with Client(stack.endpoints) as client:
        found = client.get(b"a")
    assert found is not None
    assert found.value == b"1"
    missing = stack.run("scripts/compose.sh", "run", "--rm", "client", "get", "no-such-key")
    assert missing.returncode == 1, "the exit code of the command, not that of a wrapper"
    assert "Traceback" not in missing.stderr


def test_grpcurl_lists_and_describes_by_reflection(stack: Stack) -> None:
    services = grpcurl(stack, "list").split()
    assert {"overdb.v1.KV", "overdb.v1.Cluster", "grpc.health.v1.Health"} <= set(services)
    described = grpcurl(stack, "describe", "overdb.v1.KV")
    for method in ("Put", "Get", "Delete", "Scan", "Transact"):
        assert f"rpc {method} (" in described
    assert "bytes key = " in grpcurl(stack, "describe", "overdb.v1.PutRequest")
    assert call(stack, "grpc.health.v1.Health/Check", {}) == {"status": "SERVING"}


def test_grpcurl_puts_gets_and_transacts_by_reflection(stack: Stack) -> None:
    put = call(stack, "overdb.v1.KV/Put", {"key": b64("curl"), "value": b64("one")})
    got = call(stack, "overdb.v1.KV/Get", {"key": b64("curl")})
    assert got == {"found": True, "value": b64("one"), "version": put["version"]}
    answer = call(
        stack,
        "overdb.v1.KV/Transact",
        {
            "compares": [{"key": b64("curl"), "operator": "OPERATOR_EQUAL", "value": b64("one")}],
            "then": [
                {"put": {"key": b64("curl"), "value": b64("two")}},
                {"get": {"key": b64("curl")}},
            ],
            "otherwise": [{"get": {"key": b64("curl")}}],
        },
    )
    assert answer["succeeded"] is True
    assert answer["results"][1]["value"] == b64("two")
    assert int(answer["version"]) > int(put["version"])


def test_grpcurl_sees_why_a_request_is_refused(stack: Stack) -> None:
    refused = stack.run(GRPCURL, "-plaintext", "-d", "{}", stack.endpoints[0], "overdb.v1.KV/Put")
    assert refused.returncode != 0
    assert "InvalidArgument" in refused.stderr
