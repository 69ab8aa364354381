"""The image of deploy/Dockerfile, built and run without Docker: by buildah with chroot isolation, on Debian's base.

It makes a base system and installs every package, which takes minutes: `make image-test` runs it, and `make test` does
not. It wants root, buildah and debootstrap; without them it is skipped, and the last lines of the run say so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import __version__
from tests.broker import free_ports
from tests.monitors import until

pytestmark = [pytest.mark.image, pytest.mark.broker]

ROOT = Path(__file__).parent.parent
BASE = "localhost/recording-monitor-test-base"
IMAGE = "localhost/recording-monitor-test"
REVISION = "0123456789abcdef0123456789abcdef01234567"
# Debian's own Python stands for the image of Python's: no registry of images is asked for anything.
PACKAGES = "python3,python3-venv,python3-dev,gcc,libc6-dev,ca-certificates"
STATE = "var/lib/recording-monitor"
PATH = "/opt/venv/bin:/usr/bin:/bin"


def ran(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """buildah, with a storage of its own: nothing of anybody else's is touched."""
    place = tmp_path_factory.mktemp("images")
    yield ["buildah", "--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", "vfs"]
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def image(storage: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built from the Dockerfile as it stands."""
    system = tmp_path_factory.mktemp("system") / "system"
    ran("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(system))
    container = ran(*storage, "from", "scratch").strip()
    ran(*storage, "add", "--quiet", container, str(system), "/")
    ran(*storage, "commit", "--quiet", container, BASE)
    ran(*storage, "rm", container)
    shutil.rmtree(system)
    # What pip of this machine has been told about where packages are; it is mounted, and stays out of the image.
    mounts = [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
    proxies = [f"--env={name}" for name in os.environ if name.lower().endswith("_proxy")]
    arguments = [f"PYTHON_IMAGE={BASE}", f"BUILD_IMAGE={BASE}", f"REVISION={REVISION}", f"VERSION={__version__}"]
    ran(
        *(*storage, "build", "--isolation", "chroot", "--format", "docker", "--pull-never", *mounts, *proxies),
        *(f"--build-arg={argument}" for argument in arguments),
        *("--ignorefile", ".dockerignore", "--file", "deploy/Dockerfile", "--tag", IMAGE, "."),
    )
    return IMAGE


@pytest.fixture
def root(storage: list[str], image: str) -> Iterator[Path]:
    """The file system of a container of the image."""
    container = ran(*storage, "from", "--pull-never", image).strip()
    yield Path(ran(*storage, "mount", container).strip())
    ran(*storage, "umount", container)
    ran(*storage, "rm", container)


def inside(root: Path, *command: str) -> list[str]:
    """A command in the image as its user, on this machine's network; of its root only the one place can be written."""
    mounts = (
        f"mount --bind {root} {root}",
        f"mount --bind {root}/{STATE} {root}/{STATE}",
        f"mount --rbind /proc {root}/proc",
        f"mount -o remount,bind,ro {root}",
    )
    # Each program becomes the next, so that a signal to the first reaches the last.
    enter = f'exec chroot --userspec=65532:65532 --groups= {root} /usr/bin/env -i PATH={PATH} "$@"'
    return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, enter]), "sh", *command]


def inspected(storage: list[str], image: str) -> dict[str, Any]:
    """What the image says of itself."""
    told: dict[str, Any] = json.loads(ran(*storage, "inspect", "--type", "image", image))
    config: dict[str, Any] = told["Docker"]["config"]
    return config


def test_the_image_says_what_it_is(storage, image):
    told = inspected(storage, image)
    assert told["User"] == "65532:65532"
    assert told["Entrypoint"] == ["recording-monitor"]
    assert told["Cmd"] == ["run"]
    assert told["StopSignal"] == "SIGTERM"
    assert "/-/healthy" in healthcheck(storage, image)[-1]
    assert told["Labels"]["org.opencontainers.image.revision"] == REVISION
    assert told["Labels"]["org.opencontainers.image.version"] == __version__


def test_nothing_of_the_workshop_is_in_it(root):
    packages = {path.name for path in root.glob("opt/venv/lib/python3*/site-packages/*")}
    assert {"monitor", "confluent_kafka", "aiohttp"} <= packages
    assert not {"pip", "hatchling", "Cython", "pytest", "mypy"} & packages
    assert not (root / "src").exists()
    for compiled in ("compact", "native", "shortener"):
        assert len(list(root.glob(f"opt/venv/lib/python3*/site-packages/monitor/core/{compiled}.*.so"))) == 1
    size = sum(path.lstat().st_size for path in root.joinpath("opt").rglob("*") if path.is_file())
    assert size < 250_000_000


def test_it_runs_as_nobody_on_a_root_that_cannot_be_written_and_stops_in_good_order(
    root, storage, image, new_broker, tmp_path
):
    [port] = free_ports(1)
    settings = {
        "kafka": {"bootstrap_servers": new_broker().bootstrap},
        "web": {"listen": f"127.0.0.1:{port}"},
        "cases": {"database": f"/{STATE}/cases.sqlite3"},
    }
    (root / "etc/recording-monitor/monitor.yaml").write_text(yaml.safe_dump(settings))
    assert ran(*inside(root, "recording-monitor", "--version")).strip() == f"recording-monitor {__version__}"
    assert ran(*inside(root, "id", "-u")).strip() == "65532"
    refused = subprocess.run(inside(root, "touch", "/opt/x"), capture_output=True, text=True, check=False)
    assert "Read-only file system" in refused.stderr

    log = tmp_path / "monitor.log"
    command = inside(root, "recording-monitor", "run", "--config", "/etc/recording-monitor/monitor.yaml")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: ready(port) or process.poll() is not None, why=log.read_text)
        assert process.poll() is None, log.read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            metrics = answer.read().decode()
        assert f'revision="{REVISION}"' in metrics
        assert "recording_monitor_case_database_on_disk 1.0" in metrics
        ran(*inside(root, *(word.replace("9464", str(port)) for word in healthcheck(storage, image))))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    stopped = [json.loads(line) for line in log.read_text().splitlines() if '"monitor_stopped"' in line]
    assert [line["in_time"] for line in stopped] == [True]


def healthcheck(storage: list[str], image: str) -> list[str]:
    how, *command = inspected(storage, image)["Healthcheck"]["Test"]
    assert how == "CMD"
    return [str(word) for word in command]


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
