"""Packages as an installer leaves them in a folder: modules, and the metadata beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuner_server.core.policies.plugins import GROUP


def install(folder: Path, package: str, modules: Mapping[str, str], policies: Mapping[str, str]) -> None:
    """Installs a package that offers policies; it is found once `folder` is on the path.

    Args:
        folder: where, as it is a `site-packages`.
        package: its name; the version is 1.0.
        modules: their sources, by name.
        policies: where the class of each is, as `module:Class`, by the name that a job gives.
    """
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    metadata = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{GROUP}]", *(f"{name} = {place}" for name, place in policies.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = [*(f"{name}.py,," for name in modules), f"{metadata.name}/METADATA,,", f"{metadata.name}/RECORD,,"]
    (metadata / "RECORD").write_text("\n".join(record) + "\n", encoding="utf-8")
