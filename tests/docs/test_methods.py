"""The pages on published methods: the index has them, and their examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import doc_pages, example_programs
from tests.support.servers.server_process import ServerProcess

PAGES = sorted(page.stem for page in doc_pages.METHODS.glob("*.md") if page.stem != "README")


def test_the_index_names_every_page() -> None:
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", (doc_pages.METHODS / "README.md").read_text())) == set(PAGES)


@pytest.mark.slow
def test_the_example_of_refinement_runs(
    shared_server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = example_programs.run("refine", shared_server.target, tmp_path, capsys)
    assert printed.count("validation loss") == 3
    assert {"schedule.json", "refined.json", "refined.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_example_of_a_federation_runs(tmp_path: Path) -> None:
    program = [sys.executable, str(doc_pages.ROOT / "examples" / "fedhyper.py")]
    environment = {**os.environ, "LRPILOT_DB": f"sqlite:///{tmp_path}/jobs.db"}
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    last = [line for line in done.stdout.splitlines() if "round 25" in line]
    factors = [float(re.findall(r"factor (\d\.\d+)", line)[0]) for line in last]
    assert len(last) == 3
    assert factors[0] == factors[2] == 1.0 < factors[1]
