"""The demo's compose file and its images say what the code and each other understand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tuner_server.base.address import Address
from tuner_server.process.settings import ServerSettings, load, variable

DOCKER = Path(__file__).parents[3] / "docker"
OURS = {"postgres", "migrate", "tokens", "tuner", "digits", "text", "export", "prometheus"}
ONE_SHOT = {"migrate", "tokens", "digits", "text", "export"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """As both versions of compose read it: merged, and no variable set."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / "compose.yaml").read_text()).replace("$$", "$")
    read: dict[str, Any] = yaml.safe_load(text)
    return read


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """The Dockerfile's stages: what each consists of, by name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_it_follows_the_specification(compose: dict[str, Any]) -> None:
    PyCompose.from_json(json.dumps(compose)).validate()


def test_the_older_compose_reads_it_too(compose: dict[str, Any]) -> None:
    # docker-compose 1.29 takes the specification's file only without `version`, and knows no `name`.
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}


def test_images_are_built_from_stages_that_exist(services: dict[str, dict[str, Any]], stages: dict[str, str]) -> None:
    built = {services[name]["image"]: services[name]["build"]["target"] for name in OURS if "build" in services[name]}
    assert set(built.values()) <= stages.keys()
    assert {services[name]["image"] for name in OURS} == built.keys()  # none has to be pulled
    assert {"client", "server"} <= stages.keys()


def test_our_containers_have_few_rights(services: dict[str, dict[str, Any]], stages: dict[str, str]) -> None:
    assert services.keys() == OURS | {"grafana"}
    for name in OURS:
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
    for name in ("client", "server", "examples", "postgres", "prometheus"):
        assert re.findall(r"^USER (\S+)$", stages[name], flags=re.MULTILINE)[-1] != "root"


def test_what_serves_says_how_it_is(stages: dict[str, str]) -> None:
    for name in ("server", "postgres", "prometheus"):
        assert "\nHEALTHCHECK" in stages[name]


def test_ports_are_published_on_loopback_alone(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_one_waits_for_the_other(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            ends = other in ONE_SHOT
            assert condition == {"condition": "service_completed_successfully" if ends else "service_healthy"}


def test_the_settings_are_taken(services: dict[str, dict[str, Any]], stages: dict[str, str]) -> None:
    (line,) = re.findall(r"^ENV (LRPILOT_.*)$", stages["server"], flags=re.MULTILINE)
    environment = dict(part.split("=") for part in line.split()) | services["tuner"]["environment"]
    assert environment.keys() <= {variable(name) for name in ServerSettings.model_fields}
    settings = load({}, environment).settings
    assert settings.auth == "tokens"
    assert settings.metrics is not None
    assert f":{Address.parse(settings.metrics).port}/readyz" in stages["server"]
    (scraped,) = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"tuner:{Address.parse(settings.metrics).port}"]}]
    assert services["digits"]["environment"]["LRPILOT_SERVER"] == f"tuner:{Address.parse(settings.listen).port}"


def test_grafana_finds_its_dashboard(services: dict[str, dict[str, Any]]) -> None:
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    provisioning = DOCKER / "grafana" / "provisioning"
    assert mounted["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "lrpilot.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounted["./grafana/dashboards"]
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(mounted["./grafana/dashboards"])
    assert json.loads((DOCKER / "grafana" / "dashboards" / home.name).read_text())["title"] == "LRPilot"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
