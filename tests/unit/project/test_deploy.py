"""What is in deploy/ fits together: manifests, times, ports, paths, names of metrics."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from streamproxy import __version__
from streamproxy.config import Config, parse_config
from streamproxy.config.units import duration
from streamproxy.observe.metrics import FAMILIES
from streamproxy.process.drain import FLUSH, MOMENT
from tests.doubles.parts import require
from tests.unit.project.dockerfile import ROOT, read_dockerfile

DEPLOY = ROOT / "deploy"
MANIFESTS = ("sidecar", "gateway")
# The first version with native sidecars in every cluster, and the newest that the schemas are there for.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
CONFIG_PATH = Path(read_dockerfile().one("CMD").exec_form()[-1])
DASHBOARD = json.loads((DEPLOY / "grafana/streamproxy.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
RESUME = yaml.safe_load((DEPLOY / "compose/resume.yaml").read_text())


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / f"kubernetes/{name}.yaml").read_text()))


def one(name: str, kind: str) -> Any:
    (document,) = [document for document in documents(name) if document["kind"] == kind]
    return document


def pod(name: str) -> Any:
    return one(name, "Deployment")["spec"]["template"]["spec"]


def proxy_container(name: str) -> Any:
    containers = pod(name).get("initContainers", []) + pod(name)["containers"]
    (container,) = [container for container in containers if container["name"] == "streamproxy"]
    return container


def configuration(name: str) -> Config:
    return parse_config(one(name, "ConfigMap")["data"][CONFIG_PATH.name], name=name)


def time_to_end(config: Config) -> float:
    """Seconds from SIGTERM to the exit, at most."""
    assert config.server.drain_timeout is not None
    return config.server.drain_delay + config.server.drain_timeout + MOMENT + FLUSH


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_the_schemas_of_kubernetes(name: str, version: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_an_unknown_field() -> None:
    budget = one("sidecar", "PodDisruptionBudget")
    budget["spec"]["maxUnavailabel"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(budget, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_config_map_is_mounted_as_a_folder_so_that_it_can_change(name: str) -> None:
    container = proxy_container(name)
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == str(CONFIG_PATH.parent)
    assert "subPath" not in mount
    (volume,) = [volume for volume in pod(name)["volumes"] if volume["name"] == mount["name"]]
    assert volume["configMap"]["name"] == one(name, "ConfigMap")["metadata"]["name"]
    assert "command" not in container
    assert "args" not in container


@pytest.mark.parametrize("name", MANIFESTS)
def test_ports_are_those_that_the_proxy_listens_on(name: str) -> None:
    config = configuration(name)
    ports = {port["name"]: port["containerPort"] for port in proxy_container(name)["ports"]}
    assert [(address.host, address.port) for address in config.server.listen] == [("0.0.0.0", ports["http"])]
    assert [(address.host, address.port) for address in config.admin.listen] == [("0.0.0.0", ports["admin"])]


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_probe_that_kills_or_delays_depends_on_the_upstream(name: str) -> None:
    probes = {kind: proxy_container(name)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_pod_has_time_for_the_whole_end(name: str) -> None:
    seconds = time_to_end(configuration(name))
    if name == "sidecar":
        (server,) = pod(name)["containers"]
        script = server["lifecycle"]["preStop"]["exec"]["command"][-1]
        waits = [float(number) for number in re.findall(r"(?:time\.sleep\(|monotonic\(\) \+ )(\d+)", script)]
        seconds += sum(waits) + 30  # 30 for the server's own end
    else:
        assert configuration(name).server.drain_delay >= 5
        assert "lifecycle" not in proxy_container(name)
    assert seconds < pod(name)["terminationGracePeriodSeconds"]


def test_the_sidecar_starts_before_the_server_and_ends_after_it() -> None:
    (sidecar,) = pod("sidecar")["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("streamproxy", "Always")
    assert "startupProbe" in sidecar


@pytest.mark.parametrize("name", MANIFESTS)
def test_everything_selects_the_pods_that_there_are(name: str) -> None:
    labels = one(name, "Deployment")["spec"]["template"]["metadata"]["labels"]
    port_names = {port["name"] for port in proxy_container(name)["ports"]}
    assert one(name, "Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one(name, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one(name, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    services = [document["spec"] for document in documents(name) if document["kind"] == "Service"]
    front = [service for service in services if service["selector"] == labels]
    assert [port["targetPort"] in port_names for service in front for port in service["ports"]] == [True]

    (monitor,) = documents("podmonitor")
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    assert labels[expression["key"]] in expression["values"]
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in port_names


@pytest.mark.parametrize("name", MANIFESTS)
def test_only_prometheus_reaches_the_admin_listener(name: str) -> None:
    rules = one(name, "NetworkPolicy")["spec"]["ingress"]
    open_ports = [port["port"] for rule in rules if "from" not in rule for port in rule["ports"]]
    assert open_ports == ["http"]
    services = [document["spec"] for document in documents(name) if document["kind"] == "Service"]
    assert all(port.get("targetPort") != "admin" for service in services for port in service["ports"])


def images() -> Iterator[str]:
    for name in MANIFESTS:
        yield proxy_container(name)["image"]
    for service in (*COMPOSE["services"].values(), *RESUME["services"].values()):
        yield service["image"]


def test_images_are_pinned_and_our_own_is_of_this_version() -> None:
    for image in images():
        name, _, tag = image.rpartition(":")
        assert tag == __version__ if name == "streamproxy" else re.fullmatch(r"v?\d+\.\d+\.\d+", tag), image


@pytest.mark.parametrize(("compose", "proxy"), [(COMPOSE, "proxy"), (RESUME, "one"), (RESUME, "two")])
def test_compose_mounts_what_is_there(compose: dict[str, Any], proxy: str) -> None:
    named = set(compose.get("volumes", ()))
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in named or (DEPLOY / "compose" / source).exists(), volume
        assert set(service.get("depends_on", [])) <= set(compose["services"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert (DEPLOY / "compose" / compose["services"][proxy]["build"]).resolve() == ROOT


def test_compose_waits_for_the_drain_and_its_names_are_services() -> None:
    config = parse_config((DEPLOY / "compose/proxy/streamproxy.yaml").read_text(), name="compose")
    proxy = COMPOSE["services"]["proxy"]
    assert duration(proxy["stop_grace_period"]) > time_to_end(config)
    assert f"./proxy:{CONFIG_PATH.parent}:ro" in proxy["volumes"]
    assert [e.url for u in config.upstreams.values() for e in u.endpoints] == ["http://backend:8000"]
    assert COMPOSE["services"]["backend"]["command"][:3] == ["demo", "--listen", "0.0.0.0:8000"]
    scrape = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"proxy:{config.admin.listen[0].port}"]


@pytest.mark.parametrize("name", ["one", "two"])
def test_both_sidecars_wait_for_the_drain_and_have_one_store(name: str) -> None:
    sidecar = RESUME["services"][name]
    text = (DEPLOY / "compose/resume/streamproxy.yaml").read_text()
    config = parse_config(text, name="resume", environ=sidecar["environment"])
    assert duration(sidecar["stop_grace_period"]) > time_to_end(config)
    assert sidecar["volumes"] == [f"./resume:{CONFIG_PATH.parent}:ro"]
    assert [route.resume.store for route in config.routes if route.resume is not None] == ["redis://redis:6379/0"]
    assert [e.url for u in config.upstreams.values() for e in u.endpoints] == ["http://backend:8000"]
    assert set(sidecar["depends_on"]) == {"backend", "redis"} <= set(RESUME["services"])


def test_grafana_finds_its_datasource_and_the_dashboard() -> None:
    (source,) = yaml.safe_load((DEPLOY / "compose/grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "compose/grafana/dashboards/streamproxy.yaml").read_text())["providers"]
    grafana = COMPOSE["services"]["grafana"]
    mounts = dict(volume.removesuffix(":ro").split(":") for volume in grafana["volumes"])
    assert mounts["../grafana"] == provider["options"]["path"]
    assert (
        grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].rpartition("/")[0] == mounts["../grafana"]
    )


def test_the_unit_gives_the_drain_its_time() -> None:
    unit = (DEPLOY / "systemd/streamproxy.service").read_text()
    config = parse_config((DEPLOY / "systemd/streamproxy.yaml").read_text(), name="systemd")
    (timeout,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(timeout) > time_to_end(config)
    assert "\nKillSignal=SIGTERM\nKillMode=mixed\n" in unit
    assert "\nRestartPreventExitStatus=2\n" in unit
    assert "\nLimitCORE=0\n" in unit  # what is in memory, which are secrets too, stays there
    assert "\nProcSubset=" not in unit  # hides what the process_* metrics read


UNITS = ("streamproxy.service", "streamproxy@.service", "streamproxy.socket", "streamproxy-admin.socket")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they are installed: the service under its own name, and as a template."""
    for name in UNITS:
        text = (DEPLOY / "systemd" / name.replace("@", "")).read_text()
        # The interpreter stands for the installed command: verify looks whether it is there.
        (tmp_path / name).write_text(text.replace("/opt/streamproxy/bin/streamproxy", str(Path(sys.executable))))
    return tmp_path


def test_systemd_takes_the_units_and_finds_the_service_hardened(units: Path) -> None:
    analyze = require("systemd-analyze")
    paths = [str(units / name.replace("@", "@1")) for name in UNITS]
    verified = subprocess.run([analyze, "verify", *paths], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", paths[0]]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", UNITS)
def test_systemd_refuses_a_unit_with_a_mistake(units: Path, name: str) -> None:
    file = units / name
    file.write_text(file.read_text().replace("ExecStart=", "ExecStrat=").replace("ListenStream=", "ListenSteam="))
    command = [require("systemd-analyze"), "verify", str(units / name.replace("@", "@1"))]
    assert "Unknown key" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_the_socket_units_listen_where_the_configuration_does() -> None:
    config = parse_config((DEPLOY / "systemd/streamproxy.yaml").read_text(), name="systemd")
    for name, addresses in (("streamproxy", config.server.listen), ("streamproxy-admin", config.admin.listen)):
        unit = (DEPLOY / f"systemd/{name}.socket").read_text()
        assert re.findall(r"^ListenStream=(.*)$", unit, re.MULTILINE) == [str(address) for address in addresses]
        assert re.findall(r"^FileDescriptorName=(.*)$", unit, re.MULTILINE) == ["admin" if "admin" in name else "main"]


def test_the_service_reloads_and_takes_over() -> None:
    unit = (DEPLOY / "systemd/streamproxy.service").read_text()
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in unit
    assert re.search(r"^ExecStart=\S+ run --takeover -c \S+$", unit, re.MULTILINE)
    assert "\nType=notify\n" in unit
    assert "\nUser=streamproxy\n" in unit  # or each instance would have a user of its own


def test_alerts_know_the_job_by_the_names_that_it_gets() -> None:
    text = (DEPLOY / "prometheus/rules.yaml").read_text()
    scrape = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["scrape_configs"][0]
    (monitor,) = documents("podmonitor")
    jobs = [scrape["job_name"], f"any-namespace/{monitor['metadata']['name']}"]  # the operator's way, without jobLabel
    patterns = set(re.findall(r'job=~"([^"]+)"', text))
    assert patterns
    assert all(re.fullmatch(pattern, job) for pattern in patterns for job in jobs)


def panels() -> list[Any]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    queries = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    used = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in re.findall(r"streamproxy_\w+", queries)}
    assert used - {"streamproxy_build_info"} == {f"streamproxy_{family.name}" for family in FAMILIES}


def test_the_panels_have_their_own_place_and_say_what_they_show() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert all(panel["description"].endswith(".") for panel in panels())


def test_every_alert_is_seen_to_fire_and_not_to() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((DEPLOY / "prometheus/rules_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


@pytest.mark.parametrize("arguments", [("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml")])
def test_promtool_takes_the_rules(arguments: tuple[str, ...]) -> None:
    command = [require("promtool"), *arguments]
    result = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SUCCESS" in result.stdout
