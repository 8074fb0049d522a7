"""Addresses as people write them: host:port."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

_NAME = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?"
)  # as DNS and Docker have them
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}  # noqa: S104


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` (``[v6]:port`` for IPv6).

    Raises ValueError that says what is wrong. Port 0 is allowed: the system chooses one.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f"'{text[:80]}' is not of the form host:port")
    if int(port) > 65_535:
        raise ValueError(f"'{text[:80]}' has port {port}; ports go up to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"'{text[:80]}': write an IPv6 host in brackets, [host]:port")
    if any(character.isspace() or character in "/@" for character in host):
        raise ValueError(f"'{text[:80]}' is not of the form host:port")
    return host, int(port)


def check_address(text: str) -> str:
    """Return ``text`` if it is ``host:port``, else raise ValueError."""
    split_address(text)
    return text


def check_reachable_address(text: str) -> str:
    """As ``check_address``, for an address that others are to connect to: a name or an IP that can be one."""
    host, port = split_address(text)
    numeric = _ip_address(host[1:-1] if host.startswith("[") else host)
    is_name = _NAME.fullmatch(host) is not None and not host.replace(".", "").isdigit()
    if numeric is None and not is_name:
        raise ValueError(f"'{text[:80]}' has no host name and no IP address")
    if numeric is not None and numeric.is_unspecified:
        raise ValueError(f"'{text[:80]}' is not where others can reach it")
    if port == 0:
        raise ValueError(f"'{text[:80]}' has port 0: others cannot reach that")
    return text


def _ip_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def check_optional_address(text: str) -> str:
    """As ``check_address``; the empty text is allowed."""
    return check_address(text) if text else text


def split_addresses(text: str) -> tuple[str, ...]:
    """Return the addresses of ``host:port,host:port``, each once, in their order."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(check_address(part) for part in parts if part))


def local_address(listen: str) -> str:
    """Return where a process that listens on ``listen`` is reached from its own machine."""
    host, port = split_address(listen)
    return f"{_WILDCARDS.get(host, host)}:{port}"
