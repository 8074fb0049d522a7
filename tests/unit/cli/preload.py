"""Imported by the process that ``programs.py`` forks from, and by no other: what the program imports."""

# ruff: noqa: F401

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as ``main`` does, before gRPC is imported

import rich.console
import rich.table
import typer.rich_utils

import overdb.cli.app
import overdb.cli.cluster_commands
import overdb.cli.commands
import overdb.cli.shell
import overdb.cli.txn_commands
import overdb.client
import overdb.status
import overdb.sync
