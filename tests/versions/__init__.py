"""What versions of the monitor left on topics and disk, kept so that later ones are tried on it.

A directory is what one version, killed at its work, left behind: five topics as lines of JSON, the group's commits with
their metadata, its snapshots and its case database; what of the traffic was still to come; the truth of all of it; the
alerts it had sent; and in ``about.json`` what that version reads, as JSON Schemas. `python -m tests.upgrade keep` makes
one from any commit. Nothing in them belongs to anybody: the traffic is the simulator's.
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from struct import Struct
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from monitor.inputs.checkpoint import fingerprint_of
from monitor.inputs.kafka import render_tick
from monitor.inputs.topics import Names, TopicAdmin
from monitor.outputs.cases import TOLD, read_case_action
from monitor.simulator.truth import Line, read_truth, write_line
from tests.broker import RealBroker
from tests.monitors import ROOT, WAIT_S, Monitor, environment, serving, until
from tests.torture.stage import WINDOW_S, Act, Entry, Feed, Stage, now_ms
from tests.verify import Message, read_topic

HERE: Final = Path(__file__).parent
TOPICS: Final = ("events", "account_settings", "quarantine", "case_actions", "verdicts")
PARTITIONS: Final = 2
SEED: Final = 20
# A monitor's tick is of the hour of the test, what is kept of another day; a stamp more than an hour ahead is not
# believed. So the traffic is stamped two hours back, and a test made a minute after what it reads is as any other.
AGO_MS: Final = 2 * 3_600_000
_FRAME: Final = Struct(">II")  # Of each chunk of a snapshot its length and its CRC-32.

# What a version reads, said by itself.
_DESCRIBE: Final = """
import msgspec, sys, monitor
from monitor.core.snapshot import LAYOUT
from monitor.core.verdict import Verdict
from monitor.inputs import checkpoint
from monitor.outputs.cases import VERSION, CaseAction
reads = {"verdict": Verdict, "case_action": CaseAction, "checkpoint": checkpoint._Metadata}
said = {
    "version": monitor.__version__, "checkpoint": checkpoint.VERSION, "case_database": VERSION,
    "snapshot_layout": LAYOUT, "reads": {name: msgspec.json.schema(kind) for name, kind in reads.items()},
}
sys.stdout.buffer.write(msgspec.json.encode(said))
"""


class Formats(msgspec.Struct, frozen=True, kw_only=True):
    """What a version writes, as far as it has a number; and JSON Schemas of what it reads."""

    version: str
    checkpoint: int
    case_database: int
    snapshot_layout: str
    reads: dict[str, Any]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a version left. ``fingerprint`` is that of its topic of events, and ``later`` what was still to be sent."""

    name: str
    formats: Formats
    fingerprint: str
    topics: Mapping[str, Sequence[Message]]
    commits: Sequence[tuple[int, int, str]]
    later: Sequence[Message]
    truth: Sequence[Line]
    alerts: Sequence[Mapping[str, Any]]

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return HERE / self.name

    def last_verdicts(self) -> dict[str, Message]:
        """The last message about each recording that had one, by its SID."""
        return {str(message.key): message for message in self.topics["verdicts"]}


def identities(alerts: Iterable[Mapping[str, Any]]) -> dict[str, set[tuple[str, str]]]:
    """Of each recording its alerts: labels and beginning, by which Alertmanager knows an alert again."""
    found: dict[str, set[tuple[str, str]]] = {}
    for alert in alerts:
        if "recording_sid" in alert["labels"]:
            identity = (json.dumps(alert["labels"], sort_keys=True), alert["startsAt"])
            found.setdefault(alert["labels"]["recording_sid"], set()).add(identity)
    return found


def topic(stage: Stage, name: str) -> list[Message]:
    """All that stands in a topic of a stage, by the topic's name in the settings."""
    return read_topic(stage.direct, stage.site.settings["topics"][name])


def told_marks(actions: Iterable[Message]) -> Counter[tuple[str, str]]:
    """How often it is written that somebody was told of a recording disallowed since an instant."""
    marks: Counter[tuple[str, str]] = Counter()
    for message in actions:
        action = read_case_action(message.key or "", message.value or b"")
        if action is not None and action.kind == TOLD:
            marks[action.recording_sid, str(action.since)] += 1
    return marks


@contextlib.contextmanager
def taking_alerts() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An Alertmanager that takes everything and tells nobody: its address, and what it took."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, taken


def checked_out(ref: str, directory: Path) -> Path:
    """The monitor's code as of a commit, put there. Raises CalledProcessError where git does not have it."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", ref, "monitor", "tests"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(directory, filter="data")
    return directory


def formats_of(tree: Path) -> Formats:
    """What the code in ``tree`` says of its formats."""
    said = subprocess.run(
        [sys.executable, "-c", _DESCRIBE],
        cwd=tree,
        env=environment(PYTHONPATH=str(tree)),
        check=True,
        capture_output=True,
    )
    return msgspec.json.decode(said.stdout, type=Formats)


# --------------------------------------------------------------------------- kept


def kept() -> list[str]:
    """The names of all that is kept."""
    return sorted(path.parent.name for path in HERE.glob("*/about.json"))


def read(name: str) -> Kept:
    """What is kept under a name."""
    directory = HERE / name
    about = json.loads((directory / "about.json").read_bytes())
    return Kept(
        name=name,
        formats=msgspec.convert(about["formats"], Formats),
        fingerprint=about["fingerprint"],
        topics={each: _read_lines(directory / f"{each}.jsonl") for each in TOPICS},
        commits=[(one["partition"], one["offset"], one["metadata"]) for one in about["commits"]],
        later=_read_lines(directory / "later.jsonl"),
        truth=list(read_truth((directory / "truth.jsonl").read_bytes().splitlines())),
        alerts=[json.loads(line) for line in (directory / "alerts.jsonl").read_text().splitlines()],
    )


def start(stage: Stage, tree: Path = ROOT) -> Monitor:
    """A monitor on a stage that writes one tick, when it begins: a second one would be believed (``AGO_MS``)."""
    monitor = stage.site.start_quick(window=timedelta(seconds=WINDOW_S), tick_every=timedelta(days=1), tree=tree)
    stage.members.append(monitor)
    return monitor


def keep(ref: str, name: str) -> None:
    """Run the monitor of a commit on some traffic, kill it, and keep what it left under a name."""
    with contextlib.ExitStack() as leaving:
        scratch = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="recording-monitor-keep-")))
        tree = checked_out(ref, scratch / "tree")
        broker = RealBroker(scratch / "broker")
        leaving.callback(broker.kill)
        broker.start()
        url, alerts = leaving.enter_context(taking_alerts())
        snapshots = {"directory": str(scratch / "snapshots"), "every": "1s"}
        stage = leaving.enter_context(
            Stage(
                broker,
                scratch / "stage",
                SEED,
                partitions=PARTITIONS,
                snapshots=snapshots,
                alertmanagers=[url],
                cases={"database": str(scratch / "cases.sqlite3")},
            )
        )
        stage.ahead_ms = -AGO_MS
        for partition in range(PARTITIONS):
            tick = render_tick(partition, by="keep", sent_at=datetime.now(UTC))
            stage.site.send([tick], partition, timestamp=now_ms() - AGO_MS)
        member = start(stage, tree).ready(PARTITIONS)
        stage.play(_act(SEED), 2.0).wait()
        stage.close_windows()
        stage.rest()
        under_way = _act(SEED + 1)
        stage.truth += under_way.truth
        entries = under_way.entries
        feed = Feed(stage, entries[: len(entries) * 4 // 5], 8.0)
        until(lambda: feed.sent > len(entries) * 2 // 3 and _snapshots_hold_something(scratch / "snapshots"))
        member.kill()  # What is sent from here on is not judged yet, and what was just judged not committed.
        feed.wait()
        _write(HERE / name, ref, tree, stage, entries[feed.sent :], alerts, scratch)


def _act(seed: int) -> Act:
    """A little of everything, and not much of it: it is kept for good."""
    causes = (
        "api_call_recording",
        "conference_twiml",
        "dial_verb",
        "flex_conference",
        "outbound_call_api",
        "record_verb",
    )
    return Act(seed, 130, accounts=3, ago_ms=AGO_MS, recorded=1.0, malformed=0.03, causes=dict.fromkeys(causes, 1.0))


def _snapshots_hold_something(directory: Path) -> bool:
    sizes = [path.stat().st_size for path in directory.glob("*.snapshot")]
    return len(sizes) == PARTITIONS and max(sizes) > 1000


def _write(
    into: Path, ref: str, tree: Path, stage: Stage, later: Sequence[Entry], alerts: Iterable[object], scratch: Path
) -> None:
    into.mkdir()
    for name in TOPICS:
        _write_lines(into / f"{name}.jsonl", topic(stage, name))
    stamp_ms = now_ms() + stage.ahead_ms
    _write_lines(
        into / "later.jsonl",
        [Message(-1, -1, stamp_ms + 20 * number, one.account, one.value, {}) for number, one in enumerate(later)],
    )
    with (into / "truth.jsonl").open("wb") as file:
        for line in stage.truth:
            write_line(file, line)
    (into / "alerts.jsonl").write_text("".join(f"{json.dumps(alert, sort_keys=True)}\n" for alert in alerts))
    fingerprint = ""
    for path in sorted((scratch / "snapshots").glob("*.snapshot")):
        fingerprint, _, partition = path.stem.rpartition("-")
        (into / f"{partition}.snapshot").write_bytes(path.read_bytes())
    with contextlib.closing(sqlite3.connect(scratch / "cases.sqlite3")) as cases:
        (version,) = cases.execute("PRAGMA user_version").fetchone()
        dumped = [*cases.iterdump(), f"PRAGMA user_version = {version};"]
    (into / "cases.sql").write_text("\n".join(dumped) + "\n")
    about = {
        "commit": ref,
        "formats": msgspec.to_builtins(formats_of(tree)),
        "fingerprint": fingerprint,
        "commits": [
            {"partition": one.partition, "offset": one.offset, "metadata": one.metadata}
            for one in {one.partition: one for one in stage.commits()}.values()
        ],
    }
    (into / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _write_lines(path: Path, messages: Iterable[Message]) -> None:
    with path.open("w") as file:
        for message in messages:
            line = message._asdict()
            line["value"] = None if message.value is None else message.value.decode(errors="surrogateescape")
            line["headers"] = {name: value.decode() for name, value in message.headers.items()}
            file.write(json.dumps(line) + "\n")


def _read_lines(path: Path) -> list[Message]:
    found = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        value = None if line["value"] is None else line["value"].encode(errors="surrogateescape")
        headers = {name: said.encode() for name, said in line["headers"].items()}
        found.append(Message(**{**line, "value": value, "headers": headers}))
    return found


# --------------------------------------------------------------------------- put back


def put_back(left: Kept, stage: Stage) -> None:
    """Put what a version left where it stood: topics, snapshots, case database, and last of all the group's commits.

    Only what names the very topic is another, since Kafka gives each topic an id of its own.
    """
    topics = stage.site.settings["topics"]
    made = NewTopic(topics["case_actions"], 1, config={"cleanup.policy": "compact"})
    admin = AdminClient({"bootstrap.servers": stage.direct})
    admin.create_topics([made])[made.topic].result(WAIT_S)
    for name in TOPICS:
        _fill(stage.direct, topics[name], left.topics[name])
    fingerprint = _fingerprint(stage)
    directory = Path(stage.site.settings["snapshots"]["directory"])
    directory.mkdir()
    for path in left.directory.glob("*.snapshot"):
        data = _renamed(path.read_bytes(), left.fingerprint.encode(), fingerprint.encode())
        (directory / f"{fingerprint}-{path.stem}.snapshot").write_bytes(data)
    with contextlib.closing(sqlite3.connect(stage.site.settings["cases"]["database"])) as cases:
        cases.executescript((left.directory / "cases.sql").read_text())
    consumer = Consumer({"bootstrap.servers": stage.direct, "group.id": stage.site.name})
    for partition, offset, metadata in left.commits:
        told = metadata.replace(left.fingerprint, fingerprint)
        consumer.commit(offsets=[TopicPartition(stage.site.events, partition, offset, told)], asynchronous=False)
    consumer.close()
    stage.truth += left.truth


def send_later(left: Kept, stage: Stage) -> None:
    """Send what was still to come, as it was stamped; then what ends every window."""
    _fill(stage.direct, stage.site.events, left.later)
    stage.ahead_ms = left.later[-1].timestamp_ms - now_ms()
    stage.close_windows()


def _fill(bootstrap: str, topic: str, messages: Iterable[Message]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True})
    wrong: list[str] = []
    for message in messages:

        def placed(error: object, sent: Any, offset: int = message.offset) -> None:
            if error is not None or offset not in (-1, sent.offset()):
                wrong.append(f"{topic}: {error or sent.offset()} instead of {offset}")

        producer.produce(
            topic,
            message.value,
            message.key,
            partition=message.partition,
            timestamp=message.timestamp_ms,
            headers=list(message.headers.items()),
            on_delivery=placed,
        )
    assert producer.flush(WAIT_S) == 0
    assert not wrong, wrong[0]


def _fingerprint(stage: Stage) -> str:
    """How the monitor names the topic of events of a stage."""
    client: dict[str, str | int | float | bool] = {"bootstrap.servers": stage.direct}
    cluster = AdminClient(client).list_topics(timeout=WAIT_S).cluster_id
    admin = TopicAdmin(client, Names(**stage.site.settings["topics"]), window_ms=0, age_max_ms=0)
    return fingerprint_of(cluster, admin.topic_id(stage.site.settings["topics"]["events"]), stage.site.partitions)


def _renamed(snapshot: bytes, before: bytes, after: bytes) -> bytes:
    """A snapshot of a topic as one of another: its first chunk names the topic."""
    length, _ = _FRAME.unpack_from(snapshot)
    first = snapshot[_FRAME.size : _FRAME.size + length].replace(before, after)
    assert after in first
    assert len(first) == length
    return _FRAME.pack(length, zlib.crc32(first)) + first + snapshot[_FRAME.size + length :]
