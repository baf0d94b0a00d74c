"""What figures were measured on, which is written beside them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any


def environment(*packages: str, **more: Any) -> dict[str, Any]:
    """The interpreter, the machine and how busy it is, `more` as it is given, and the versions of `packages`."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        **more,
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
