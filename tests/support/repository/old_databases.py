"""Database files of earlier schema versions; see tests/data/schemas/README.md."""

from __future__ import annotations

from pathlib import Path

FILES = {file.stem: file for file in sorted((Path(__file__).parents[2] / "data" / "schemas").glob("*.sqlite"))}
"""By version."""
