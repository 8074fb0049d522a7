"""What all calls of a router share."""

from __future__ import annotations

from dataclasses import dataclass

from overdb_router.channels import Channels
from overdb_router.clock import RouterClock
from overdb_router.dispatcher import Dispatcher
from overdb_router.ids import RouterIds
from overdb_router.metrics import RouterMetrics
from overdb_router.settings import RouterSettings
from overdb_router.snapshots import Snapshots
from overdb_router.topology import Topology
from overdb_router.validation import Validation


@dataclass(frozen=True, slots=True)
class RouterCore:
    """The rooms of one router, without its servers."""

    settings: RouterSettings
    validation: Validation
    ids: RouterIds
    clock: RouterClock
    channels: Channels
    topology: Topology
    dispatcher: Dispatcher
    snapshots: Snapshots
    metrics: RouterMetrics
