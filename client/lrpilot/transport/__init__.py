"""How a tuner reaches its server."""

from __future__ import annotations

import os

# Loaders fork their workers while a connection is open. Unless it is told to, gRPC's library for Python leaves a child
# what it was in the middle of, and parent or child can end of a segmentation fault (grpc/grpc#32992). It reads this as
# it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
