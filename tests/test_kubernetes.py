"""deploy/kubernetes as it is applied: the overlays, built by kustomize and held against the schemas of Kubernetes."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from monitor import __version__
from monitor.commands.run import STOP_S
from monitor.inputs.policy_file import load_policy
from monitor.settings import load_settings
from tests.test_prometheus_rules import PROMETHEUS, RULES

KUBERNETES = Path(__file__).parent.parent / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
SETTINGS = KUBERNETES / "base" / "settings"
OPERATOR = KUBERNETES / "components" / "prometheus-operator"
WORKLOADS = {"StatefulSet", "Deployment"}
# The oldest that is still widely run, and the newest whose schemas there are.
VERSIONS = ("1.31", "1.37")
# No schema of these comes with Kubernetes: https://prometheus-operator.dev/docs/api-reference/api/.
CUSTOM_KEYS = {
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
}
ENDPOINT_KEYS = {"port", "path", "interval", "relabelings"}
RELABELING_KEYS = {"sourceLabels", "regex", "targetLabel", "replacement"}


@functools.cache
def built(kustomize: str, overlay: str) -> str:
    command = [kustomize, "build", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=OVERLAYS)
def overlay(request, kustomize):
    return [thing for thing in yaml.safe_load_all(built(kustomize, request.param)) if thing]


def validated(path: Path, version: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("kubernetes-validate")
    command = [str(program), "--strict", "--kubernetes-version", version, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def of(things, *kinds):
    return [thing for thing in things if thing["kind"] in kinds]


def pods(things):
    """The labels and the specification of every kind of pod."""
    return [
        (thing["spec"]["template"]["metadata"]["labels"], thing["spec"]["template"]["spec"])
        for thing in of(things, *WORKLOADS)
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_knows_every_field(kustomize, tmp_path, name, version):
    path = tmp_path / "built.yaml"
    path.write_text(built(kustomize, name))
    done = validated(path, version)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    things = [thing for thing in yaml.safe_load_all(path.read_text()) if thing]
    assert said.count("passed for resource") == len(things) - len(of(things, *CUSTOM_KEYS))


def test_a_misspelt_field_is_noticed(kustomize, tmp_path):
    path = tmp_path / "built.yaml"
    path.write_text(built(kustomize, OVERLAYS[0]).replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))
    assert validated(path, VERSIONS[-1]).returncode != 0


def test_everything_that_selects_pods_finds_some(overlay):
    labels = [given for given, _ in pods(overlay)]
    for thing in of(overlay, "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", *WORKLOADS):
        spec = thing["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= given.items() for given in labels), thing["metadata"]["name"]
    for thing in of(overlay, *WORKLOADS):
        wanted = thing["spec"]["selector"]["matchLabels"]
        assert sum(wanted.items() <= given.items() for given in labels) == 1, "two workloads would fight over pods"


def test_a_pod_may_do_nothing_it_need_not(overlay):
    for _, spec in pods(overlay):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert set(container["resources"]["limits"]) == {"memory"}
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable <= {"/tmp", "/var/lib/recording-monitor"}
    [account] = of(overlay, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


def test_whatever_is_mounted_is_there(overlay):
    for thing in of(overlay, *WORKLOADS):
        spec = thing["spec"]["template"]["spec"]
        there = {volume["name"] for volume in spec["volumes"]}
        there |= {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", ())}
        [container] = spec["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == there
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        # Nothing can be mounted inside what cannot be written.
        assert not any(a != b and a.startswith(f"{b}/") for a in paths for b in paths)


def test_a_pod_is_asked_the_right_questions_and_has_time_to_stop(overlay):
    for _, spec in pods(overlay):
        [container] = spec["containers"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/-/ready", "port": "http"}
        assert container["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "http"}
        assert {"name": "http", "containerPort": 9464} in container["ports"]
        assert spec["terminationGracePeriodSeconds"] >= 2 * STOP_S + 5


def test_a_roll_out_takes_one_process_at_a_time(overlay):
    [monitor] = of(overlay, "StatefulSet")
    assert monitor["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    assert monitor["spec"]["replicas"] >= 2
    for budget in of(overlay, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
    assert len(of(overlay, "PodDisruptionBudget")) == len(of(overlay, "NetworkPolicy")) == len(pods(overlay))


def test_only_who_has_a_volume_of_its_own_has_a_name_in_the_group(kustomize):
    [monitor] = of(yaml.safe_load_all(built(kustomize, "group")), "StatefulSet")
    [container] = monitor["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable.get("value", "recording-monitor-0") for variable in container["env"]}
    settings = load_settings(None, {**given, "RECORDING_MONITOR_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092"})
    assert settings.kafka.client == {"group.instance.id": "recording-monitor-0", "session.timeout.ms": "45000"}
    [name] = [variable["valueFrom"] for variable in container["env"] if "valueFrom" in variable]
    assert name == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert "GROUP_INSTANCE_ID" not in built(kustomize, "standby")


def test_the_image_is_of_this_version(overlay):
    for _, spec in pods(overlay):
        assert spec["containers"][0]["image"] == f"registry.example.com/recording-monitor:{__version__}"


def test_custom_resources_have_no_key_that_their_operator_does_not_know(kustomize):
    things = list(yaml.safe_load_all(built(kustomize, "group")))
    assert {thing["kind"] for thing in of(things, *CUSTOM_KEYS)} == set(CUSTOM_KEYS)
    for thing in of(things, *CUSTOM_KEYS):
        assert thing["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(thing["spec"]) == CUSTOM_KEYS[thing["kind"]]
    [monitor] = of(things, "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == ENDPOINT_KEYS
    for relabeling in endpoint["relabelings"]:
        assert set(relabeling) <= RELABELING_KEYS
    for _, spec in pods(things):
        assert endpoint["port"] in {port["name"] for port in spec["containers"][0]["ports"]}


def test_the_operator_is_given_the_same_rules():
    wrapped = (OPERATOR / "rules.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(wrapped)["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8")), "run `make rules`"


def test_the_operator_names_the_jobs_as_prometheus_does():
    relabelings = yaml.safe_load((OPERATOR / "pod-monitor.yaml").read_text(encoding="utf-8"))["spec"][
        "podMetricsEndpoints"
    ][0]["relabelings"]
    named = {relabeling["replacement"] for relabeling in relabelings if relabeling.get("targetLabel") == "job"}
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    assert named == {entry["job_name"] for entry in config["scrape_configs"]}


def test_the_settings_and_the_policy_hold(tmp_path):
    text = (SETTINGS / "monitor.yaml").read_text(encoding="utf-8")
    secrets = re.findall(r"/run/secrets/recording-monitor/([\w-]+)", text)
    for name in secrets:
        (tmp_path / name).write_text("made-up")
    (tmp_path / "monitor.yaml").write_text(text.replace("/run/secrets/recording-monitor", str(tmp_path)))
    settings = load_settings(tmp_path / "monitor.yaml", {})
    assert settings.warnings == ()
    assert secrets == ["twilio-auth-token"]
    assert str(settings.web.listen) == ":9464"
    assert str(settings.cases.database).startswith("/var/lib/recording-monitor/")
    loaded = load_policy(SETTINGS / "policy.yaml")
    assert (loaded.warnings, loaded.policy.mode) == ((), "observe")
