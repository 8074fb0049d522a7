"""OverDB measured, side by side with other stores: `make bench`."""

import os

# As nodes and routers have it (overdb_common.process), in the client process of all stores: read when grpc is
# imported, which is behind this.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
