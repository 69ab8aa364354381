"""docker-compose.yml and the image: their own validators understand them, they are safe, and made of the same files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from importlib import util
from pathlib import Path

import pytest
import yaml

from monitor.inputs.policy_file import load_policy
from monitor.settings import load_settings
from tests.monitors import serving
from tests.test_alertmanager_config import shipped
from tests.test_runbooks import parse

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = DEPLOY / "Dockerfile"
WHOLE = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
SERVICES = WHOLE["services"]
OURS = {"monitor", "bridge", "simulator", "receiver"}
DEMO = {"simulator", "receiver"}


def told(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def filled_in(text: str, environment: dict[str, str] | None = None) -> str:
    """What Compose makes of ``${NAME:-default}``."""
    given = environment or {}
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: given.get(match[1], match[2]), text)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_compose_specification_has_nothing_to_complain_about():
    told(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_services_are_those_of_the_whole_topology():
    always = {"kafka", "monitor", "bridge", "prometheus", "alertmanager", "grafana"}
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == always
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["demo"]} == DEMO


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_safe_bounded_and_watched(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["read_only"] is (name != "kafka")
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"} & set(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "cpus", "pids"}
    assert service["stop_grace_period"] == "30s"
    assert ("test" in service["healthcheck"]) is (name != "simulator")
    # What is published is published to this host alone.
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert all("docker.sock" not in volume for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", sorted(set(SERVICES) - OURS))
def test_an_image_is_pinned_by_its_version(name):
    assert re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_everybody_waits_until_whom_they_need_is_well():
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "test" in SERVICES[needed]["healthcheck"]
    assert set(SERVICES["monitor"]["depends_on"]) == {"kafka", "alertmanager"}
    assert set(SERVICES["bridge"]["depends_on"]) == {"monitor"}  # Which makes the topics, and waits for Kafka.


def test_no_secret_is_anything_but_a_file():
    asked = [secret for service in SERVICES.values() for secret in service.get("secrets", ())]
    named = {secret if isinstance(secret, str) else secret["source"] for secret in asked}
    assert named == set(WHOLE["secrets"])
    assert all(set(secret) == {"file"} for secret in WHOLE["secrets"].values())
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|TOKEN|KEY", name)
            assert not secret or str(value).startswith("/run/secrets/"), name


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_a_service_is_given_is_there(name):
    for volume in SERVICES[name].get("volumes", ()):
        source, target = filled_in(volume).split(":")[:2]
        if source.startswith("."):
            assert (ROOT / source).exists(), volume
        else:
            assert source in WHOLE["volumes"]
        assert target.startswith("/")


def test_the_example_of_the_environment_names_every_variable_with_its_default():
    asked = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text(encoding="utf-8")))
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert dict(line.split("=", 1) for line in lines if line and not line.startswith("#")) == asked


def test_the_secrets_that_are_made_are_those_that_are_named(tmp_path):
    made = tmp_path / "secrets"
    told("sh", DEPLOY / "compose" / "secrets.sh", made)
    assert {path.name for path in made.iterdir()} == set(WHOLE["secrets"])
    kept = {path.name: path.read_text() for path in made.iterdir()}
    assert all(kept.values())
    assert len(set(kept.values())) == len(kept)
    assert made.stat().st_mode & 0o777 == 0o700
    told("sh", DEPLOY / "compose" / "secrets.sh", made)
    assert {path.name: path.read_text() for path in made.iterdir()} == kept, "what is there is left alone"


# ---- what the services are given ------------------------------------------------------------------------------------


def test_the_settings_hold_and_name_the_services(tmp_path):
    token = tmp_path / "token"
    token.write_text("made-up")
    text = (DEPLOY / "compose" / "monitor.yaml").read_text(encoding="utf-8")
    (tmp_path / "monitor.yaml").write_text(text.replace("/run/secrets/twilio-auth-token", str(token)))
    environment = {name: filled_in(value) for name, value in SERVICES["bridge"]["environment"].items()}
    settings = load_settings(tmp_path / "monitor.yaml", environment)
    assert settings.warnings == ()
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert [one.url for one in settings.alertmanagers] == ["http://alertmanager:9093"]
    assert settings.ingest.public_url == "https://hooks.example.com"
    assert settings.web.listen.port == 9464
    state = Path("/var/lib/recording-monitor")
    assert (settings.cases.database.parent, settings.snapshots.directory) == (state, state / "snapshots")


def test_the_policy_has_nothing_wrong_with_it():
    loaded = load_policy(DEPLOY / "compose" / "policy.yaml")
    assert loaded.warnings == ()
    assert loaded.policy.mode == "enforce"


def test_the_demos_routes_are_those_that_are_shipped(amtool):
    path = DEPLOY / "compose" / "alertmanager.yml"
    demo = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in ("route", "inhibit_rules", "time_intervals", "templates"):
        assert demo[part] == shipped()[part]
    assert [one["name"] for one in demo["receivers"]] == [one["name"] for one in shipped()["receivers"]]
    for receiver in demo["receivers"][1:]:
        [webhook] = receiver["webhook_configs"]
        assert webhook["url"] == f"http://receiver:8090/{receiver['name']}"


def test_alertmanager_accepts_the_demos_configuration(amtool, tmp_path):
    shutil.copytree(DEPLOY / "alertmanager" / "templates", tmp_path / "templates")
    shutil.copy(DEPLOY / "compose" / "alertmanager.yml", tmp_path)
    assert "FAILED" not in told(amtool, "check-config", tmp_path / "alertmanager.yml")


def test_prometheus_is_given_the_rules_and_watches_what_runs():
    assert "./deploy/prometheus:/etc/prometheus:ro" in SERVICES["prometheus"]["volumes"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    names = {entry["dns_sd_configs"][0]["names"][0]: entry["job_name"] for entry in config["scrape_configs"]}
    assert names == {"monitor": "recording-monitor", "bridge": "recording-monitor-bridge"}
    assert set(names) <= set(SERVICES)
    [static] = config["alerting"]["alertmanagers"][0]["static_configs"]
    assert static["targets"] == ["alertmanager:9093"]


def test_grafana_finds_the_dashboards_where_it_is_told_to_look():
    provisioning = DEPLOY / "grafana" / "provisioning" / "dashboards" / "recording-monitor.yaml"
    [provider] = yaml.safe_load(provisioning.read_text(encoding="utf-8"))["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


def test_the_simulator_sends_what_the_command_understands():
    command = [word for word in SERVICES["simulator"]["command"] if not word.startswith("--truth")]  # No file of ours.
    parse(f"recording-monitor {' '.join(command)}", ROOT)


def test_the_receiver_shows_what_it_is_told_and_runs_nothing_of_it():
    spec = util.spec_from_file_location("receiver", DEPLOY / "compose" / "receiver.py")
    assert spec is not None
    assert spec.loader is not None
    receiver = util.module_from_spec(spec)
    spec.loader.exec_module(receiver)
    alert = {
        "status": "firing",
        "labels": {"alertname": "DisallowedRecording"},
        "annotations": {"summary": "Recording RE1 is not allowed.", "description": "<script>alert(1)</script>"},
    }
    body = json.dumps({"status": "firing", "alerts": [alert]}).encode()
    with serving(receiver.Handler) as url:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/pager", body), timeout=30) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(url, timeout=30) as answer:
            page = answer.read().decode()
    assert "firing DisallowedRecording: Recording RE1 is not allowed." in page
    assert "<script>" not in page


# ---- the image ------------------------------------------------------------------------------------------------------


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no hadolint found: there is none in the lock file for this machine")
    command = [program, "--config", str(DEPLOY / "hadolint.yaml"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing_to_complain_about(tmp_path):
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout + done.stderr
    careless = tmp_path / "Dockerfile"
    careless.write_text(DOCKERFILE.read_text(encoding="utf-8").replace('["recording-monitor"]', "recording-monitor"))
    assert "DL3025" in hadolint(careless).stdout


def test_the_image_is_nobody_stops_by_sigterm_and_says_how_it_is():
    final = DOCKERFILE.read_text(encoding="utf-8").split("\nFROM ")[-1]
    said = dict(re.findall(r"^([A-Z]+) (.*?)(?<!\\)$", final, re.MULTILINE | re.DOTALL))
    assert said["USER"] == "65532:65532"
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["ENTRYPOINT"]) == ["recording-monitor"]
    assert json.loads(said["CMD"]) == ["run"]
    assert "/-/healthy" in said["HEALTHCHECK"]
    assert said["VOLUME"] == "/var/lib/recording-monitor"
    assert {"title", "description", "licenses", "version", "revision"} == set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", said["LABEL"])
    )


def pins(path: Path) -> dict[str, set[str]]:
    """Every version of a lock file, and its hashes."""
    found: dict[str, set[str]] = {}
    pinned = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9-]+==[^ ]+)", line):
            pinned = match[1]
            found[pinned] = set()
        elif match := re.match(r" +--hash=(\S+)", line):
            found[pinned].add(match[1])
    return found


@pytest.mark.parametrize("name", ["requirements.lock", "build-requirements.lock"])
def test_the_image_holds_the_versions_that_are_tested(name):
    tested = pins(ROOT / "requirements.lock")
    for pinned, hashes in pins(DEPLOY / name).items():
        assert hashes
        assert hashes == tested[pinned], f"{pinned}: run `make lock`"


def test_the_image_holds_what_the_package_needs_and_nothing_of_the_workshop():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    held = {pinned.partition("==")[0] for pinned in pins(DEPLOY / "requirements.lock")}
    needed = {re.split(r"[>=;]", entry)[0].lower() for entry in project["dependencies"]}
    workshop = {re.split(r"[>=;]", entry)[0].lower() for entry in project["optional-dependencies"]["dev"]}
    assert needed <= held
    assert not workshop & held
    assert "hatchling" in {pinned.partition("==")[0] for pinned in pins(DEPLOY / "build-requirements.lock")}


def test_what_the_image_is_made_of_passes_the_ignore_file():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert "*" in lines
    assert copied == let_in
