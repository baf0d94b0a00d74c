"""The files that are deployed say what the code understands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lrpilot.v1 import tuner_pb2
from prometheus_client import CollectorRegistry
from typer.main import get_command

from tuner_server.access.tls import TlsFiles
from tuner_server.base.address import Address
from tuner_server.cli.app import app
from tuner_server.ops.certificates import CertificateEnds
from tuner_server.ops.http import Readiness, operators_app
from tuner_server.ops.metrics import FleetMetrics, ServerMetrics
from tuner_server.process.settings import ServerSettings, load, variable
from tuner_server.process.supervisor import MARGIN_S

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
_METRIC = re.compile(r"\blrpilot_\w+")


def manifests() -> dict[str, dict[str, Any]]:
    """By kind: what kustomize would apply."""
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    found = [yaml.safe_load((KUBERNETES / name).read_text()) for name in names]
    assert set(names) | {"kustomization.yaml"} == {path.name for path in KUBERNETES.iterdir()}
    return {manifest["kind"]: manifest for manifest in found}


@pytest.fixture(scope="module")
def kinds() -> dict[str, dict[str, Any]]:
    return manifests()


@pytest.fixture(scope="module")
def pod(kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = kinds["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def settings(kinds: dict[str, dict[str, Any]]) -> ServerSettings:
    """What the pod's environment comes to."""
    environment = kinds["ConfigMap"]["data"] | kinds["Secret"]["stringData"]
    assert environment.keys() <= {variable(name) for name in ServerSettings.model_fields}
    return load({}, environment).settings


def exposed_metrics() -> set[str]:
    """The names of all samples that there can be."""
    registry = CollectorRegistry()
    FleetMetrics(registry, workers=lambda: 1, restarts=lambda: 0)
    ServerMetrics(registry)
    registry.register(CertificateEnds(TlsFiles(Path("cert.pem"), Path("key.pem"))))
    names = set()
    for family in registry.collect():
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + ending for ending in kinds.get(family.type, [""])}
    return names


@pytest.mark.parametrize("path", ["docker/grafana/dashboards/lrpilot.json", "docker/prometheus/alerts.yml"])
def test_every_metric_that_is_looked_at_exists(path: str) -> None:
    used = set(_METRIC.findall((ROOT / path).read_text()))
    assert used
    assert used <= exposed_metrics()


def test_the_dashboard_shows_every_metric() -> None:
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/lrpilot.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    shown = {name for expression in expressions for name in _METRIC.findall(expression)}
    assert families(shown) == families(exposed_metrics())


def families(samples: set[str]) -> set[str]:
    """Without the parts of histograms."""
    return {re.sub("_(bucket|sum|count)$", "", sample) for sample in samples}


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/lrpilot.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert "datasource" in {variable["name"] for variable in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["title"]
            assert panel["description"]


def test_prometheus_reads_the_alerts() -> None:
    configuration = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    assert all((ROOT / "docker/prometheus" / name).is_file() for name in configuration["rule_files"])
    (group,) = yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text())["groups"]
    text = (ROOT / "docs/operations.md").read_text()
    for rule in group["rules"]:
        assert rule["alert"] in text  # what to do about it


def test_ports_are_those_of_the_settings(
    kinds: dict[str, dict[str, Any]], pod: dict[str, Any], settings: ServerSettings
) -> None:
    assert settings.metrics is not None
    expected = {"grpc": Address.parse(settings.listen).port, "metrics": Address.parse(settings.metrics).port}
    (container,) = pod["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == expected
    assert {port["name"]: port["port"] for port in kinds["Service"]["spec"]["ports"]} == expected
    assert kinds["Service"]["spec"]["clusterIP"] == "None"
    annotations = kinds["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(expected["metrics"])
    routes = {route.path for route in operators_app(str, lambda: Readiness(True, {}), bytes).routes}  # type: ignore[attr-defined]  # all are of a kind that has a path
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]["httpGet"]
        assert (probe["path"] in routes, probe["port"]) == (True, "metrics")
    for rule in kinds["NetworkPolicy"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= expected.keys()


def test_others_can_not_call_without_token_and_tls(settings: ServerSettings, pod: dict[str, Any]) -> None:
    assert settings.auth == "tokens"
    assert not settings.insecure
    (container,) = pod["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    assert {str(settings.tls_cert.parent), str(settings.tls_key.parent)} <= mounts


def test_the_command_line_knows_the_commands(kinds: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    for spec in (pod, kinds["Job"]["spec"]["template"]["spec"]):
        (container,) = spec["containers"]
        program, *names = container["command"]
        assert program == "lrpilot"
        command: Any = get_command(app)
        for name in names:
            command = command.commands[name]


def test_a_pod_is_given_the_time_that_it_needs_to_drain(pod: dict[str, Any], settings: ServerSettings) -> None:
    (container,) = pod["containers"]
    _, waiting_s = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > float(waiting_s) + settings.grace_s + MARGIN_S


def test_pods_have_few_rights(kinds: dict[str, dict[str, Any]], pod: dict[str, Any]) -> None:
    for spec in (pod, kinds["Job"]["spec"]["template"]["spec"]):
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert not spec["automountServiceAccountToken"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_one_pod_can_go_at_a_time(kinds: dict[str, dict[str, Any]]) -> None:
    selector = kinds["Deployment"]["spec"]["selector"]
    assert kinds["Deployment"]["spec"]["replicas"] > kinds["PodDisruptionBudget"]["spec"]["minAvailable"] >= 1
    assert kinds["PodDisruptionBudget"]["spec"]["selector"] == selector
    assert kinds["Service"]["spec"]["selector"] == selector["matchLabels"]


def test_the_ingress_serves_what_the_server_has(kinds: dict[str, dict[str, Any]]) -> None:
    folder = KUBERNETES.parent / "kubernetes-ingress"
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    patches = {path for patch in overlay["patches"] for path in (patch["path"],)}
    assert patches | {"kustomization.yaml", "ingress.yaml"} == {path.name for path in folder.iterdir()}
    data = kinds["ConfigMap"]["data"] | yaml.safe_load((folder / "configmap.yaml").read_text())["data"]
    found = load({}, data | kinds["Secret"]["stringData"]).settings
    assert found.http is not None
    port = Address.parse(found.http).port
    container = yaml.safe_load((folder / "deployment.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    service = yaml.safe_load((folder / "service.yaml").read_text())
    assert service["spec"]["ports"][0]["port"] == port
    grpc, http = yaml.safe_load_all((folder / "ingress.yaml").read_text())
    paths = [path["path"] for each in (grpc, http) for path in each["spec"]["rules"][0]["http"]["paths"]]
    services = tuner_pb2.DESCRIPTOR.services_by_name.values()
    assert {f"/{each.full_name}" for each in services} < set(paths)
    assert found.base_path in paths
    protocol = "nginx.ingress.kubernetes.io/backend-protocol"
    assert [each["metadata"]["annotations"][protocol] for each in (grpc, http)] == ["GRPCS", "HTTPS"]
    assert found.tls_cert is not None
