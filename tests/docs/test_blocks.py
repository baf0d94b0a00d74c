"""Every Python block of the documentation is run, in order, as it stands; what can't be run says why over the block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repository import doc_pages, page_program, readers_program
from tests.support.servers import ports
from tests.support.servers.server_process import ServerProcess

READERS = ("README.md", "docs/index.md", "docs/policies.md", "docs/families.md")
"""Pages that show a few lines of use: model, optimizer, data and loss are the reader's own."""
PROGRAMS = {
    "docs/tutorial.md": {},
    "docs/certificate.md": {},
    "docs/training-loops/optuna.md": {},
    "docs/training-loops/keras.md": {"KERAS_BACKEND": "torch"},
    "docs/training-loops/jax.md": {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
}
"""By page, with variables: what is run in an interpreter of its own, commands included, and has its output compared."""
LONG = [f"docs/training-loops/{name}.md" for name in ("updates", "data", "distributed", "open-ended")]
"""Many runs of what tests of loops, loaders, ranks and runs without an end do in short."""
ELSEWHERE = {
    "docs/training-loops/lightning.md": "tests/integrations/test_lightning.py",
    "docs/training-loops/transformers.md": "tests/integrations/test_transformers.py",
    "docs/training-loops/accelerate.md": "tests/integrations/test_accelerate.py",
    "docs/compare.md": "tests/docs/test_compare.py",
    "docs/extending/bring-a-framework.md": "tests/docs/test_bring_a_framework.py",
}
"""Pages that are run beside other tests, since these look at what came out."""
NOT_RUN = {
    ("docs/extending/write-a-forecaster.md", "a line within the registry's table"),
    ("docs/extending/write-a-policy.md", "the policy of this page has to be installed where the server runs"),
}
"""The blocks that are not run, and why."""
SHOWN = {doc_pages.name_of(page): page for page in doc_pages.pages() if doc_pages.python_of(page)}
"""By name: all pages with Python that is run."""
HERE = [name for name in SHOWN if name not in (*PROGRAMS, *ELSEWHERE)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in HERE]
)
def test_a_page_runs(name: str, shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    doc_pages.run_page(SHOWN[name], readers_program.names() if name in READERS else None)


@pytest.mark.timeout(600)
@pytest.mark.slow  # whole programs, whose frameworks take seconds to come
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_is_a_program_that_prints_what_it_says(name: str, tmp_path: Path) -> None:
    variables = {
        "LRPILOT_PROGRESS": "1",
        "LRPILOT_DB": f"sqlite:///{tmp_path}/own.db",
        "COLUMNS": "100",
        **PROGRAMS[name],
    }
    printed = page_program.run(SHOWN[name], tmp_path, variables, {"50051": str(ports.free_port())})
    assert page_program.differences(SHOWN[name], printed) == []


def test_pages_that_are_run_elsewhere_are() -> None:
    for name, test in ELSEWHERE.items():
        stem = Path(name).stem.replace("bring-a-framework", "numpy_backend")
        text = (doc_pages.ROOT / test).read_text("utf-8")
        assert re.search(rf"doc_pages\.run.*\b{stem}\b|from examples\.{stem} import", text), name


def test_blocks_that_are_not_run_say_why() -> None:
    found = {
        (doc_pages.name_of(page), block.not_run)
        for page in doc_pages.pages()
        for block in doc_pages.fenced(page)
        if block.language == "python" and block.not_run
    }
    assert found == NOT_RUN


def test_no_python_hides_from_the_tests() -> None:
    """All code is fenced, at the beginning of a line, as `python`; what is shown from files is run as these."""
    for page in doc_pages.pages():
        text, name = page.read_text("utf-8"), doc_pages.name_of(page)
        assert not re.search(r"^ +```", text, re.MULTILINE), name
        for block in doc_pages.fenced(page):
            if block.language in ("", "py", "text"):
                assert not re.search(r"^(import|from) \w+|^with lrpilot\.", block.text, re.MULTILINE), name
        assert not re.search(
            r"^    (import |from \w+ import|\w+ = \w+\()", doc_pages.without_blocks(page), re.MULTILINE
        ), name


def test_the_list_of_pages_has_no_page_that_is_gone() -> None:
    assert {*READERS, *PROGRAMS, *LONG, *ELSEWHERE} <= SHOWN.keys()


def test_the_tutorial_begins_with_its_example() -> None:
    assert doc_pages.begins_with(SHOWN["docs/tutorial.md"], "tutorial")


def test_the_index_of_training_loops_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", (doc_pages.TRAINING_LOOPS / "README.md").read_text()))
    assert linked == {page.stem for page in doc_pages.TRAINING_LOOPS.glob("*.md")} - {"README"}
