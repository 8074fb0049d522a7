"""Settings: what is wrong is named, with its value and what to do."""

from __future__ import annotations

import pytest
from pydantic import Field

from overdb_common import addresses, grpc_options
from overdb_common.errors import StartupError
from overdb_common.settings import Limits, ProcessSettings, help_text, load


class Example(ProcessSettings, Limits):
    """As a process kind would define its own."""

    listen: str = Field("0.0.0.0:7400", description="address to serve on, host:port")
    count: int = Field(ge=1, le=9, description="how many there are")
    seconds: float = Field(1.5, gt=0, description="how long, s")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OVERDB_")]:
        monkeypatch.delenv(name)


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as refused:
        load(Example, "overdb-example")
    text = str(refused.value)
    assert "\n" not in text
    assert "overdb-example --help" in text
    return text


def test_defaults_and_given_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERDB_COUNT", "3")
    monkeypatch.setenv("OVERDB_KEY_BYTES_MAX", "100")
    settings = load(Example, "overdb-example")
    assert (settings.count, settings.listen, settings.key_bytes_max) == (3, "0.0.0.0:7400", 100)
    assert settings.value_bytes_max == 1 << 20
    assert settings.request_bytes_max == 4 << 20


def test_a_missing_setting_is_named_with_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OVERDB_COUNT is not set (how many there are)" in refusal(monkeypatch)


def test_a_wrong_value_is_named_with_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(monkeypatch, OVERDB_COUNT="12", OVERDB_LISTEN="nowhere")
    assert "OVERDB_COUNT=12" in text
    assert "9" in text
    assert "OVERDB_LISTEN=nowhere: 'nowhere' is not of the form host:port" in text


def test_a_typing_error_is_answered_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(monkeypatch, OVERDB_COUNT="1", OVERDB_LISTN="a:1")
    assert "OVERDB_LISTN: there is no such setting" in text
    assert "did you mean OVERDB_LISTEN" in text


def test_variables_of_other_kinds_and_programs_are_no_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OVERDB_COUNT", "1")
    monkeypatch.setenv("OVERDB_SEEDS", "a:1")  # of the router
    monkeypatch.setenv("OVERDB_REQUIRE_DOCKER", "1")
    monkeypatch.setenv("OVERDB_ENDPOINTS", "a:1")
    assert load(Example, "overdb-example").count == 1


def test_help_lists_every_variable_in_80_columns() -> None:
    text = help_text(Example, "overdb-example")
    for name in Example.model_fields:
        assert f"  OVERDB_{name.upper()}  (" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "OVERDB_COUNT  (required)" in text
    assert "[whole number, 1..9]" in text
    assert "OVERDB_SECONDS  (default 1.5)" in text


def test_a_request_limit_below_the_largest_value_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = refusal(monkeypatch, OVERDB_COUNT="1", OVERDB_REQUEST_BYTES_MAX="2048")
    assert "OVERDB_REQUEST_BYTES_MAX=2048: too small" in text


def test_clients_ping_no_more_often_than_servers_allow() -> None:
    """gRPC cuts off a client that does."""
    client = dict(grpc_options.channel_options())
    server = dict(grpc_options.server_options())
    allowed = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert int(client["grpc.keepalive_time_ms"]) >= int(allowed)
    assert client["grpc.max_send_message_length"] == server["grpc.max_receive_message_length"]
    assert server["grpc.so_reuseport"] == 0


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:x", "host:70000", "a b:1", "::1:7400", "http://h:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        addresses.check_address(text)


def test_addresses() -> None:
    assert addresses.split_address("[::1]:7400") == ("[::1]", 7400)
    assert addresses.split_addresses("a:1, b:2,a:1,") == ("a:1", "b:2")
    assert addresses.local_address("0.0.0.0:5") == "127.0.0.1:5"
    assert addresses.local_address("[::]:5") == "[::1]:5"
    assert addresses.local_address("db:5") == "db:5"
