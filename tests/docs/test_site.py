"""The documentation as a site, as `make docs` builds it: what a reader looks up is there, and comes from here."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import lrpilot
import pytest
from google.protobuf.descriptor import FileDescriptor
from lrpilot.run.options import JobOptions
from lrpilot.v1 import tuner_pb2
from prometheus_client import CollectorRegistry
from typer.main import get_command

from tuner_server.access.tls import TlsFiles
from tuner_server.cli.app import app
from tuner_server.ops.certificates import CertificateEnds
from tuner_server.ops.metrics import FleetMetrics, ServerMetrics
from tuner_server.process.settings import ServerSettings
from tuner_server.rpc.status import CODES

pytestmark = pytest.mark.slow  # the site is built

ROOT = Path(__file__).parents[2]
CONTRACT: FileDescriptor = tuner_pb2.DESCRIPTOR
USERS_IMPORT = {
    "federated.Client",
    "integrations.accelerate.tuner",
    "integrations.jax.Tuner",
    "integrations.jax.ReplaySchedule",
    "integrations.keras.TunerCallback",
    "integrations.keras.ReplaySchedule",
    "integrations.lightning.TunerCallback",
    "integrations.transformers.TunerTrainer",
    "integrations.transformers.TunerOptions",
    "loggers.metrics.MetricLogger",
    "loggers.mlflow.MlflowLogger",
    "loggers.tensorboard.TensorBoardLogger",
    "loggers.wandb.WandbLogger",
}
INTERNAL = {
    "integrations.lightning_plan",
    "integrations.lightning_ranks",
    "integrations.lightning_search",
    "integrations.rank_files",
    "integrations.state_bytes",
}
"""Modules that those are made of."""
LOADED = {("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src"), ("image", "href"), ("use", "href")}
"""What a browser fetches by itself; links of a page's head too, of the kinds below."""
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
_CSS_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Page(HTMLParser):
    """What a page has, refers to and says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and LOADED_LINKS & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        self.loads += [given[name] for loading, name in LOADED if tag == loading and name in given]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @cached_property
    def text(self) -> str:
        """Its words, with single spaces."""
        return " ".join(" ".join(self.words).split())


@dataclasses.dataclass(frozen=True)
class Site:
    """By path: the site's pages."""

    root: Path
    pages: Mapping[str, Page]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("site")
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(root)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(mkdocs, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr  # not --quiet, with which no warning is counted
    return Site(root, {path.relative_to(root).as_posix(): Page(path) for path in root.rglob("*.html")})


def own_members(kind: type) -> set[str]:
    """The public attributes of a class and its bases of ours."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("lrpilot")]
    return {name for base in ours for name in vars(base) if not name.startswith("_")}


def test_the_client_page_has_every_public_name(site: Site) -> None:
    anchors = site.pages["reference/client.html"].anchors
    for name in lrpilot.__all__:
        home = getattr(getattr(lrpilot, name), "__module__", "lrpilot")
        assert {f"lrpilot.{name}", f"{home}.{name}"} & anchors, name


@pytest.mark.parametrize("kind", [lrpilot.Tuner, lrpilot.Schedule, lrpilot.Credentials], ids=lambda kind: kind.__name__)
def test_the_client_page_has_every_member(kind: type, site: Site) -> None:
    page = site.pages["reference/client.html"]
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    members = own_members(kind) - fields
    assert {f"lrpilot.{kind.__name__}.{name}" for name in members} <= page.anchors
    assert all(name in page.text for name in fields)


def test_the_client_page_has_every_argument_of_a_tuner(site: Site) -> None:
    own = inspect.signature(lrpilot.Tuner.__init__).parameters.keys() - {"self", "job"}
    arguments = own | typing.get_type_hints(JobOptions).keys()
    assert {f"lrpilot.Tuner({name})" for name in arguments} <= site.pages["reference/client.html"].anchors


def test_the_page_of_integrations_has_what_users_import(site: Site) -> None:
    anchors = site.pages["reference/integrations.html"].anchors
    assert {f"lrpilot.{name}" for name in USERS_IMPORT} <= anchors
    files = (path for room in ("integrations", "loggers") for path in (ROOT / "client/lrpilot" / room).glob("[!_]*.py"))
    modules = {f"{path.parent.name}.{path.stem}" for path in files}
    assert {*modules, "federated"} - INTERNAL == {name.rpartition(".")[0] for name in USERS_IMPORT}


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command and those below it, by their full names."""
    yield name, command
    for below, found in getattr(command, "commands", {}).items():
        yield from commands(found, f"{name} {below}")


def test_the_command_line_page_has_every_command_and_option(site: Site) -> None:
    page = site.pages["reference/cli.html"]
    found = dict(commands(get_command(app), "lrpilot"))
    assert len(found) > 10
    for name, command in found.items():
        if name != "lrpilot":
            assert name.replace(" ", "-") in page.anchors
            options = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
            assert {option for option in options if option not in page.text} == set()


def test_the_protocol_page_has_every_call_and_message(site: Site) -> None:
    page = site.pages["reference/protocol.html"]
    methods = [method.name for service in CONTRACT.services_by_name.values() for method in service.methods]
    kinds = [*CONTRACT.message_types_by_name, *CONTRACT.enum_types_by_name]
    assert {name.lower() for name in (*methods, *kinds)} <= page.anchors
    fields = {field.name for message in CONTRACT.message_types_by_name.values() for field in message.fields}
    values = {value.name for enum in CONTRACT.enum_types_by_name.values() for value in enum.values}
    assert fields | values <= set(page.words)
    assert all(code.name in page.text for code in CODES.values())


def test_the_protocol_page_has_the_comments_of_the_contract(site: Site) -> None:
    text = without_spaces("".join(site.pages["reference/protocol.html"].words)).replace("`", "")
    contract = (ROOT / "protos/lrpilot/v1/tuner.proto").read_text()
    comments = re.findall(r"^\s*// (.*)$", contract, re.MULTILINE)
    assert len(comments) > 50
    assert [comment for comment in comments if without_spaces(comment.replace("`", "")) not in text] == []


def without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_the_settings_page_has_every_setting(site: Site) -> None:
    text = site.pages["reference/settings.html"].text
    for name, field in ServerSettings.model_fields.items():
        assert re.search(rf"\b{name} .*{re.escape(str(field.description))}", text)


def test_the_metrics_page_has_every_metric_and_no_other(site: Site) -> None:
    registry = CollectorRegistry()
    FleetMetrics(registry, workers=lambda: 1, restarts=lambda: 0)
    ServerMetrics(registry)
    registry.register(CertificateEnds(TlsFiles(Path("cert.pem"), Path("key.pem"))))
    exposed = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert set(re.findall(r"\blrpilot_\w+", site.pages["reference/metrics.html"].text)) == exposed


@pytest.mark.parametrize(
    ("page", "example"), [("write-a-policy", "lrpilot_grid.py"), ("write-a-forecaster", "log_linear.py")]
)
def test_the_pages_on_extending_have_their_example_whole(page: str, example: str, site: Site) -> None:
    text = without_spaces("".join(site.pages[f"extending/{page}.html"].words))
    assert without_spaces((ROOT / "docs/extending" / example).read_text()) in text
    assert not (site.root / "extending" / example).exists()


def test_formulae_are_written_out(site: Site) -> None:
    page = (site.root / "method.html").read_text()
    assert page.count("<math ") > 20
    assert "arithmatex" not in page


def test_nothing_is_loaded_from_another_host(site: Site) -> None:
    for name, page in site.pages.items():
        assert [url for url in page.loads if urlsplit(url).netloc] == [], name
    for path in site.root.rglob("*.css"):
        urls = [url or imported for url, imported in _CSS_URL.findall(path.read_text())]
        assert [url for url in urls if urlsplit(url).netloc] == [], path


def test_every_link_within_the_site_leads_somewhere(site: Site) -> None:
    for name, page in site.pages.items():
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            folder = site.root if parts.path.startswith("/") else (site.root / name).parent
            target = (folder / unquote(parts.path).lstrip("/")).resolve() if parts.path else site.root / name
            assert target.is_file(), (name, link)
            there = site.pages.get(target.relative_to(site.root).as_posix())
            if parts.fragment and there is not None and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in there.anchors, (name, link)


def test_every_picture_is_shown(site: Site) -> None:
    shown = {
        (site.root / name).parent.joinpath(url).resolve() for name, page in site.pages.items() for url in page.loads
    }
    pictures = {path for path in (site.root / "images").rglob("*") if path.is_file()}
    assert {path.name for path in pictures - shown} == set()
