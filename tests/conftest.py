"""What all tests share: what they may need of the machine, the broker, golden files, how hard properties are searched.

Nothing here replaces a part of the monitor: the broker is Kafka, Prometheus and Alertmanager are themselves.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from hypothesis import HealthCheck, settings

from monitor.core import fast_path, shortening
from tests.alerting import Alerting, missing_programs
from tests.broker import BrokerUnavailableError, RealBroker, SecureBroker, jars, java
from tests.browser import Browser, missing_browser
from tests.twilio_contract import MISSING, Contract
from tests.twilio_server import TwilioServer

GOLDEN = Path(__file__).parent / "golden"

# An example takes as long as it takes: a deadline, or a complaint that drawing was slow, says how busy the machine was.
settings.register_profile(
    "quick", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# For `make torture`: the weakest of the faults that were ever found needed 15,000 examples to show.
settings.register_profile("long", settings.get_profile("quick"), max_examples=20_000)
settings.load_profile("quick")


# What is started in the background of a shell without job control ignores interrupts, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Need(NamedTuple):
    """What tests with a marker need of the machine, and how to find out whether it is there."""

    marker: str
    fixtures: frozenset[str]  # A test that asks for one of these needs no marker of its own.
    what: str
    missing: Callable[[], str | None]
    required: bool = True  # Where CI runs: what no package of the system has may be out of reach there too.


@functools.cache
def _missing_broker() -> str | None:
    try:
        java()
        jars()
    except BrokerUnavailableError as unavailable:
        return str(unavailable)
    return None


@functools.cache
def _missing_promtool() -> str | None:
    return None if shutil.which("promtool") else "no promtool found (it comes with Prometheus)"


@functools.cache
def _missing_amtool() -> str | None:
    return None if shutil.which("amtool") else "no amtool found (it comes with Alertmanager)"


@functools.cache
def _missing_openssl() -> str | None:
    return None if shutil.which("openssl") else "no openssl found (it makes the certificates)"


@functools.cache
def _missing_kustomize() -> str | None:
    return None if _kustomize() else "no kustomize found, on PATH or where .ci/run puts it"


def _kustomize() -> str | None:
    built = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recording-monitor" / "bin"
    return shutil.which("kustomize") or shutil.which("kustomize", path=str(built))


def _missing_compiled() -> str | None:
    compiled = fast_path.COMPILED and shortening.COMPILED
    return None if compiled else "nothing is compiled (a C compiler and Python's headers are wanted for `make setup`)"


@functools.cache
def _missing_image_tools() -> str | None:
    if os.geteuid() != 0:
        return "images are built as root"
    missing = [program for program in ("buildah", "debootstrap", "unshare") if shutil.which(program) is None]
    return f"no {missing[0]} found" if missing else None


NEEDS = (
    Need(
        "broker",
        frozenset({"broker", "new_broker", "secure_broker"}),
        "against a real Kafka broker",
        _missing_broker,
    ),
    Need("openssl", frozenset({"secure_broker"}), "against a broker with TLS", _missing_openssl),
    Need("promtool", frozenset({"promtool"}), "of what Prometheus says to our files", _missing_promtool),
    Need("amtool", frozenset({"amtool"}), "of what Alertmanager says to our files", _missing_amtool),
    Need("browser", frozenset({"browser"}), "in a real Chromium", missing_browser),
    Need("alerting", frozenset({"alerting"}), "against a real Prometheus and Alertmanager", missing_programs),
    Need("compiled", frozenset(), "of the compiled fast path", _missing_compiled),
    Need("image", frozenset(), "of the image", _missing_image_tools, required=False),
    Need("kustomize", frozenset({"kustomize"}), "of the manifests as built", _missing_kustomize, required=False),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite the golden files instead of comparing with them")


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: most of the time a test waits for programs that it has started."""
    cores = len(os.sched_getaffinity(0))
    return cores + cores // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for need in NEEDS:
            if need.fixtures.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(need.marker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in NEEDS:
        if item.get_closest_marker(need.marker) is None or (reason := need.missing()) is None:
            continue
        # Where CI runs, a test that can't run is a promise nobody has checked.
        if need.required and os.environ.get("CI", "").lower() in {"true", "1"}:
            pytest.fail(f"CI=true, and this test can't run: {reason}", pytrace=False)
        pytest.skip(f"{_skipped_for(need)}{reason}")


def _skipped_for(need: Need) -> str:
    return f"needs {need.marker}: "


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()) if report.longrepr]
    for need in NEEDS:
        reasons = [text.partition(_skipped_for(need))[2] for text in told if _skipped_for(need) in text]
        if reasons:
            terminalreporter.write_line(
                f"NOT TESTED: {len(reasons)} tests {need.what} were skipped: {reasons[0]}", red=True, bold=True
            )
    if any(MISSING in text for text in told):
        terminalreporter.write_line(f"NOT TESTED: {MISSING}", red=True, bold=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for broker in _brokers_of(item):
            report.sections.append((f"broker log, {broker.log}", broker.log_tail()))
        rig = getattr(item, "funcargs", {}).get("alerting")
        for server in rig.servers if isinstance(rig, Alerting) else ():
            report.sections.append((f"{server.name} log, {server.log}", server.log_tail()))
    return report


def _brokers_of(item: pytest.Item) -> list[RealBroker]:
    asked: dict[str, object] = getattr(item, "funcargs", {})
    made = asked.get("new_broker")
    shared = [value for value in asked.values() if isinstance(value, RealBroker)]
    return shared + (list(made.brokers) if isinstance(made, BrokerMaker) else [])


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """A running broker for all tests of this process: take topics of your own, and leave it running.

    A test that stops, kills, pauses or sets up a broker takes ``new_broker``.
    """
    # It is never started again: the controller may wait for it however busy the machine is.
    shared = RealBroker(tmp_path_factory.mktemp("broker"), {"broker.session.timeout.ms": "60000"})
    shared.start()
    yield shared
    shared.kill()  # Nobody will read its data: there is nothing to shut down in good order.
    shared.remove_data()


class BrokerMaker:
    """Starts brokers of a test's own: ``new_broker({"message.max.bytes": "20000000"})``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.brokers: list[RealBroker] = []

    def __call__(self, properties: Mapping[str, str] | None = None, *, start: bool = True) -> RealBroker:
        made = RealBroker(self._directory / f"broker-{len(self.brokers)}", properties)
        self.brokers.append(made)
        if start:
            made.start()
        return made


@pytest.fixture
def new_broker(tmp_path: Path) -> Iterator[BrokerMaker]:
    """Make brokers of this test's own, which it may mistreat; they end with it."""
    maker = BrokerMaker(tmp_path)
    yield maker
    for made in maker.brokers:
        made.kill()
        made.remove_data()


@pytest.fixture
def alerting(tmp_path: Path) -> Iterator[Alerting]:
    """Make real Prometheus and Alertmanager servers and receivers of notifications; they end with the test."""
    with Alerting(tmp_path / "alerting") as rig:
        yield rig


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium for all tests of this process; a test that leaves complaints in its log fails."""
    with Browser() as opened:
        yield opened


@pytest.fixture
def twilio() -> Iterator[TwilioServer]:
    """Twilio's REST API as a server of this test's own; it fails the test where Twilio's documents were not kept to."""
    with TwilioServer() as server:
        yield server


@pytest.fixture(scope="session")
def contract() -> Contract:
    """Twilio's own OpenAPI documents. They are no part of the repository: without them the test is skipped, aloud."""
    found = Contract.find()
    if found is None:
        pytest.skip(MISSING)
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of Prometheus' own checker."""
    return _found("promtool")


@pytest.fixture(scope="session")
def amtool() -> str:
    """The path of Alertmanager's own checker."""
    return _found("amtool")


@pytest.fixture(scope="session")
def kustomize() -> str:
    """The path of what builds the manifests."""
    path = _kustomize()
    assert path is not None  # pytest_runtest_setup has seen to it.
    return path


def _found(program: str) -> str:
    path = shutil.which(program)
    assert path is not None  # pytest_runtest_setup has seen to it.
    return path


@pytest.fixture(scope="module")
def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A running broker with TLS, passwords and client certificates, for the tests of one module."""
    made = SecureBroker(tmp_path_factory.mktemp("secure"), {"broker.session.timeout.ms": "60000"})
    made.start()
    yield made
    made.kill()
    made.remove_data()


class Golden(Protocol):
    """Compares what others will read with the file that was reviewed."""

    def __call__(self, name: str, text: str) -> None: ...


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare ``text`` with ``tests/golden/<name>``; under ``make golden``, write it there instead."""
    rewrite = bool(request.config.getoption("--golden"))

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if rewrite:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: `make golden` writes it"
        assert text == path.read_text(encoding="utf-8"), f"{path} differs: if that is meant, run `make golden`"

    return compare
