"""What every process is configured by: environment variables with the prefix OVERDB_, nothing else."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from overdb_common.addresses import check_address, check_optional_address
from overdb_common.errors import StartupError

PREFIX = "OVERDB_"
_COLUMNS = 80
_TYPES_IN_WORDS = {
    "int": "whole number",
    "float": "number",
    "str": "text",
    "bool": "true or false",
    "Path": "path",
}
_MIB = 1 << 20
_REQUEST_OVERHEAD_BYTES = 256  # id, tags, lengths

# One environment often serves processes of all kinds, so a variable of another kind is no typing error.
_KINDS = (("overdb_node.settings", "NodeSettings"), ("overdb_router.settings", "RouterSettings"))
_OF_OTHER_PROGRAMS = frozenset(
    PREFIX + name
    for name in (
        "ENDPOINTS",
        "PARENT_PID",
        "TIMEOUT",
        "PORT",
        "IMAGE",
        "BASE_IMAGE",
        "REQUIRE_DOCKER",
        "REQUIRE_MOUNTS",
    )
)
_PREFIXES_OF_OTHER_PROGRAMS = ("OVERDB_CLI_", "OVERDB_TEST_")


class Limits(BaseModel):
    """What a single request may ask for. Routers and nodes of one cluster need the same values."""

    key_bytes_max: int = Field(default=4096, ge=1, le=65_536, description="longest key, bytes")
    value_bytes_max: int = Field(
        default=_MIB, ge=1, le=8 * _MIB, description="longest value, bytes"
    )
    request_bytes_max: int = Field(
        default=4 * _MIB, ge=1024, le=8 * _MIB, description="largest request or transaction, bytes"
    )
    operations_max: int = Field(
        default=1024, ge=1, le=65_536, description="compares and operations of one transaction"
    )
    scan_page_bytes_max: int = Field(
        default=_MIB, ge=1024, le=8 * _MIB, description="page of a scan, bytes"
    )
    ahead_seconds_max: int = Field(
        default=60, ge=1, le=3600, description="how far ahead versions and start times may be, s"
    )

    @model_validator(mode="after")
    def _largest_value_fits(self) -> Self:
        largest = self.key_bytes_max + self.value_bytes_max + _REQUEST_OVERHEAD_BYTES
        if largest > self.request_bytes_max:
            raise ValueError(
                f"OVERDB_REQUEST_BYTES_MAX={self.request_bytes_max}: too small for a key and a value of "
                f"the longest kind, {largest} bytes with what goes around them"
            )
        return self


class ProcessSettings(BaseSettings):
    """What node and router have in common."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=False)

    cluster: str = Field(
        default="overdb",
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the cluster; processes of another one are refused",
    )
    listen: str = Field(default="0.0.0.0:0", description="address to serve on, host:port")
    metrics_listen: str = Field(
        default="", description="address to serve Prometheus metrics on, host:port; empty: off"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="form of the log on stderr; auto: console on a terminal, else json",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        return check_address(value)

    @field_validator("metrics_listen")
    @classmethod
    def _check_metrics_listen(cls, value: str) -> str:
        return check_optional_address(value)


S = TypeVar("S", bound=ProcessSettings)


def load(cls: type[S], program: str) -> S:
    """Return the settings that the environment describes.

    Raises StartupError that names each wrong or unknown variable, its value and what is allowed.
    """
    _refuse_unknown(cls, program, os.environ)
    nothing_by_argument: dict[str, Any] = {}
    try:
        return cls(**nothing_by_argument)
    except ValidationError as refused:
        what = "; ".join(_describe(cls, error) for error in refused.errors(include_url=False))
        raise StartupError(what, f"correct it; `{program} --help` lists all settings") from None


def variable_of(field: str) -> str:
    """Return the environment variable that sets a field."""
    return PREFIX + field.upper()


def help_text(cls: type[ProcessSettings], program: str) -> str:
    """Return what ``--help`` prints: usage, then each variable with default, meaning and type."""
    lines = [
        f"Usage: {program} [--help | --version | --check]",
        "",
        "  --help     print this",
        "  --version  print the version",
        "  --check    exit 0 if the process configured by this environment serves, else 1",
        "",
        "Configured by environment variables only:",
    ]
    in_order = sorted(cls.model_fields.items(), key=lambda item: item[0] in Limits.model_fields)
    for name, field in in_order:
        default = "required" if field.is_required() else _default_text(field)
        lines += ["", f"  {variable_of(name)}  ({default})"]
        text = f"{field.description or ''} [{_type_text(field)}]"
        lines += textwrap.wrap(
            text,
            _COLUMNS,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
            break_long_words=False,
        )
    return "\n".join(lines)


def print_help(cls: type[ProcessSettings], program: str) -> None:
    """Print ``help_text`` on stdout."""
    sys.stdout.write(help_text(cls, program) + "\n")


# --- what is wrong, in words ------------------------------------------------------------------------


def _refuse_unknown(
    cls: type[ProcessSettings], program: str, environment: Mapping[str, str]
) -> None:
    known = {variable_of(name) for name in cls.model_fields}
    unknown = sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX)
        and name.upper() not in known | _OF_OTHER_PROGRAMS
        and not name.upper().startswith(_PREFIXES_OF_OTHER_PROGRAMS)
    )
    if not unknown:
        return
    of_kinds = _variables_of_all_kinds()
    unknown = [name for name in unknown if name.upper() not in of_kinds]
    if not unknown:
        return
    name = unknown[0]
    fields = [field.upper() for field in cls.model_fields]
    close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), fields, n=3, cutoff=0.6)
    meant = " or ".join(PREFIX + field for field in close)
    remedy = f"did you mean {meant}" if close else "unset it"
    raise StartupError(
        f"{name}: there is no such setting", f"{remedy}; `{program} --help` lists all settings"
    )


def _variables_of_all_kinds() -> set[str]:
    """Looked up by name, and only now: no process kind depends on another one's package."""
    names: set[str] = set()
    for module, kind in _KINDS:
        try:
            settings = getattr(importlib.import_module(module), kind)
        except ImportError:
            continue
        names.update(variable_of(name) for name in settings.model_fields)
    return names


def _describe(cls: type[ProcessSettings], error: Mapping[str, object]) -> str:
    location = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if not isinstance(location, tuple) or not location:
        return message
    field = str(location[0]).lower().removeprefix(PREFIX.lower())
    name = variable_of(field)
    if error["type"] == "missing":
        description = cls.model_fields[field].description if field in cls.model_fields else ""
        return f"{name} is not set ({description})"
    value = str(error["input"])
    return f"{name}={value[:80]}: {message[:1].lower()}{message[1:]}"


# --- types and defaults, in words ---------------------------------------------------------------------


def _default_text(field: FieldInfo) -> str:
    default = str(field.default)
    return f"default {default}" if default else "default empty"


def _type_text(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    name = getattr(annotation, "__name__", "str")
    text = _TYPES_IN_WORDS.get(name, name.lower())
    least = _bound(field, "ge", "gt")
    most = _bound(field, "le", "lt")
    if least is not None or most is not None:
        text += f", {'' if least is None else least}..{'' if most is None else most}"
    return text


def _bound(field: FieldInfo, inclusive: str, exclusive: str) -> str | None:
    for constraint in field.metadata:
        for attribute, suffix in ((inclusive, ""), (exclusive, " (exclusive)")):
            value = getattr(constraint, attribute, None)
            if value is not None:
                return f"{value}{suffix}"
    return None
