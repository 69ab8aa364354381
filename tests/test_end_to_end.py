"""Whole monitors on a real broker: events go in, and what stands on the topics afterwards is held against the truth.

Each monitor is a process, started as an operator starts it; each verdict is read from its topic. `tests/verify.py` says
what may stand there, `tests/monitors.py` starts and ends the processes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from confluent_kafka import Producer

from monitor.core.attribution import CAUSES
from monitor.simulator.traffic import Knobs
from tests.broker import RealBroker, unique_name
from tests.member import account_sid, recording_event, recording_sid
from tests.monitors import WAIT_S, Load, Metrics, Monitor, Site, program, until
from tests.verify import (
    OF_THE_PUBLISHER,
    Findings,
    Message,
    Verdict,
    against_truth,
    read_quarantine,
    read_topic,
    true_counts,
    true_starters,
    verdict_of,
    verify_quarantine,
)

pytestmark = pytest.mark.broker

HOUR = 3_600_000
SAMPLES = Path(__file__).parent / "samples" / "scenarios"
# Of stream 19, where Voice Insights tells of a recording that no event was ever about.
SUSPECTED = "CF00000000000000000013000000000001"
SAMPLE_ACCOUNTS = {"AC0000000000000000000000000000aa01", "AC0000000000000000000000000000bb02"}
TICK = "dev.recording-monitor.tick"


def sample_lines() -> list[bytes]:
    """The sample streams one after the other, each in its order of delivery."""
    return [line for path in sorted(SAMPLES.glob("*.jsonl")) for line in path.read_bytes().splitlines() if line]


def sample_truths() -> dict[str, Verdict]:
    """What is true of each recording of the sample streams, by its SID."""
    paths = sorted(SAMPLES.glob("*.expected.json"))
    assert len(paths) == 19
    return {one["recording_sid"]: one for path in paths for one in json.loads(path.read_bytes())["recordings"]}


def sample_faults(verdicts: dict[str, Verdict]) -> list[str]:
    """In what the verdicts on the sample streams differ from their truth; of stream 19, that there is a suspicion."""
    faults = []
    for key, true in sample_truths().items():
        verdict = verdicts.get(key)
        if verdict is None:
            faults.append(f"{key}: no verdict")
            continue
        said = {
            "recording_sid": verdict["recording_sid"],
            "source": verdict["start_source"],
            "conference_sid": verdict["conference_sid"],
            "call_sid": verdict["call_sid"],
            "cause": verdict["cause"],
            "allowed_by_article_policy": verdict["outcome"] == "allowed",
        }
        faults += [f"{key}: {name} is {said[name]}, truly {true[name]}" for name in true if said[name] != true[name]]
    suspicions = [verdict for verdict in verdicts.values() if verdict["kind"] == "suspicion"]
    if [one["conference_sid"] for one in suspicions] != [SUSPECTED]:
        faults.append(f"suspicions: {[one['conference_sid'] for one in suspicions]}")
    return faults


def is_of_the_samples(verdict: Verdict) -> bool:
    return verdict["account_sid"] in SAMPLE_ACCOUNTS


def repeats_of(lines: list[bytes]) -> int:
    """How many lines come again under an id that stood there before."""
    ids = [json.loads(line)["id"] for line in lines]
    return len(ids) - len(set(ids))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def moved(line: bytes, by_ms: int) -> bytes:
    """An event as it would have been so much later: every instant in it, in each of Twilio's ways to write one."""
    by = timedelta(milliseconds=by_ms)

    def iso(found: re.Match[bytes]) -> bytes:
        instant = datetime.fromisoformat(found[0].decode()) + by
        return instant.isoformat(timespec="milliseconds" if b"." in found[0] else "seconds")[:-6].encode() + b"Z"

    def rfc2822(found: re.Match[bytes]) -> bytes:
        return format_datetime(parsedate_to_datetime(found[0].decode()) + by).encode()

    def epoch(found: re.Match[bytes]) -> bytes:
        return str(int(found[0]) + (by_ms if len(found[0]) == 13 else by_ms // 1000)).encode()

    line = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", iso, line)
    line = re.sub(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000", rfc2822, line)
    return re.sub(rb'(?<=")179\d{7}(\d{3})?(?=")', epoch, line)


def instant_ms(line: bytes) -> int:
    return round(datetime.fromisoformat(json.loads(line)["time"]).timestamp() * 1000)


def send_stamped(site: Site, lines: Iterable[bytes]) -> None:
    """Send events as a bridge does that keeps Twilio's time: keyed by account, stamped with the event's own time."""
    producer = Producer({"bootstrap.servers": site.bootstrap, "partitioner": "murmur2_random"})
    for line in lines:
        account = re.search(rb"AC[0-9a-f]{32}", line)
        assert account is not None
        producer.produce(site.events, line, account[0], timestamp=instant_ms(line))
    assert producer.flush(WAIT_S) == 0


def test_the_sample_streams_and_50_000_simulated_events_become_the_verdicts_that_are_true(
    broker: RealBroker, tmp_path: Path
) -> None:
    site = Site(broker, tmp_path, stamped_by_producers=True)
    # Stamped in the past, all of them: the first ticks take time past every window, and each verdict becomes final.
    lines = sample_lines()
    by_ms = now_ms() - 8 * HOUR - max(instant_ms(line) for line in lines)
    by_ms -= by_ms % 1000  # Some of their instants are whole seconds.
    send_stamped(site, [moved(line, by_ms) for line in lines])
    truth = tmp_path / "truth"
    options = "--events 50000 --fast --start now-7h --seed 31 --retried 0.02 --malformed 0.01"
    target = ("--bootstrap-servers", site.bootstrap, "--topic", site.events, "--truth", str(truth))
    written = program("simulate", *options.split(), *target, cwd=tmp_path)
    assert written.returncode == 0, written.stderr.decode()
    assert true_starters(truth) == site.settings["starters"]

    with site.start() as monitor:
        monitor.ready(site.partitions)
        until(lambda: monitor.caught_up() and all(verdict["final"] for verdict in site.verdicts().values()))
        seen = scraped(monitor, lambda told: whole(told) and told("entries_total") == told("messages_total"))
        assert monitor.stop() == 0

    found = site.verified()
    assert found == Findings([], [], [])
    verdicts = site.verdicts()
    assert all(verdict["final"] and verdict["mode"] == "enforce" for verdict in verdicts.values())
    samples = {key: verdict for key, verdict in verdicts.items() if is_of_the_samples(verdict)}
    assert sample_faults(samples) == []
    simulated = against_truth({key: verdict for key, verdict in verdicts.items() if key not in samples}, truth)
    assert simulated.wrong == simulated.invented == []
    assert set(CAUSES) - {"conference_recording_api", "unknown_source"} <= simulated.scores.keys()

    # Every entry is counted once, by what became of it.
    true, repeated = true_counts(truth), repeats_of(lines)
    assert seen.by("notices_total", "kind") == {
        "ignored": true.ignored,
        "malformed": true.malformed,
        "duplicate": true.duplicates + repeated,
    }
    types = seen.by("events_total", "type")
    ticks = types.pop(TICK)
    assert sum(types.values()) == true.events + len(lines) - repeated
    assert seen("entries_total") == true.entries + len(lines) + ticks == seen("messages_total")
    asides = read_quarantine(site.quarantined())
    assert verify_quarantine(asides) == []
    assert len(asides) == true.malformed == sum(seen.by("quarantined_total", "reason").values())
    firsts = first_verdicts(site.written())
    assert seen.by("recordings_total", "outcome") == Counter(verdict["outcome"] for verdict in firsts.values())
    assert seen("disallowed_recordings_total") == sum(
        verdict["disallowed_since"] is not None for verdict in verdicts.values() if verdict["kind"] == "recording"
    )
    # What the owner found in the events topic about the accounts stands where every process reads it.
    told = read_topic(site.bootstrap, site.settings_topic)
    assert sum("/place/" not in (message.key or "") for message in told) == true.settings + 2


def scraped(monitor: Monitor, fits: Callable[[Metrics], bool]) -> Metrics:
    """What the metrics say once they fit together: a scrape reads one after another, while the monitor counts on."""
    found: list[Metrics] = []

    def fit() -> bool:
        found[:] = [monitor.metrics()]
        return fits(found[0])

    until(fit, why=monitor.tail)
    return found[0]


def whole(told: Metrics) -> bool:
    """Whether every entry is counted once, by what became of it."""
    return told("entries_total") == told("events_total") + told("notices_total")


def first_verdicts(messages: Iterable[Message]) -> dict[str, Verdict]:
    """Of each recording the first verdict that was ever written."""
    firsts: dict[str, Verdict] = {}
    for message in messages:
        verdict = verdict_of(message)
        if verdict is not None and verdict["kind"] == "recording":
            firsts.setdefault(verdict["recording_sid"], verdict)
    return firsts


# ---------------------------------------------------------------------------------------- members that come and go


QUICKLY: dict[str, Any] = {"window": timedelta(seconds=20), "tick_every": timedelta(seconds=1)}
"""Windows that end within a test. What a call tells, ``CROWD`` sends within five seconds."""

TICKING: dict[str, Any] = {"window": timedelta(hours=4), "tick_every": timedelta(seconds=0.5)}
"""As in life, but for ticks that end a short grace at once."""

CROWD = Knobs(events=30_000, tempo=30.0, accounts=8, recorded=0.5)


def test_three_members_killed_under_load_lose_no_verdict_and_leave_no_other_final_one(
    broker: RealBroker, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)
    print(f"seed {seed}")
    site = Site(broker, tmp_path, grace="1s")
    members = [site.start_quick(**QUICKLY) for _ in range(2)]
    for member in members:
        member.ready(2)
    with Load(site, msgspec.structs.replace(CROWD, seed=seed), per_second=1200) as load:
        for moment in sorted(chance.uniform(2_000, 28_000) for _ in range(3)):
            until(lambda: load.sent >= moment or load.over)  # noqa: B023 - asked only here.
            victim = members.pop(chance.randrange(2))
            victim.kill()
            members.append(site.start_quick(**QUICKLY))
            # As a rule the next one dies while this one still rebuilds; but one of two always lives.
            until(lambda: members[0].get("/-/ready")[0] == 200, why=members[0].tail)
        load.wait()
    for member in members:
        member.ready(2)
    until(lambda: all(member.caught_up() for member in members))
    until(lambda: all(verdict["final"] for verdict in site.verdicts().values()))
    seen = [scraped(member, whole) for member in members]
    for member in members:
        assert member.stop() == 0

    found = site.verified()
    assert found == Findings([], [], [])
    comparison = against_truth(site.verdicts(), load.truth)
    assert comparison.wrong == comparison.invented == []
    assert sum(score.true for score in comparison.scores.values()) > 300
    for metrics in seen:
        assert metrics("entries_total") > 0
        assert metrics("ready") == 1
        assert metrics("blind_intervals_total") == metrics("foreign_checkpoints_total") == 0
    # Nobody counts what it only read again: together they cannot have judged more than there is.
    assert sum(metrics("entries_total") for metrics in seen) <= sum(site.ends().values())
    asides = read_quarantine(site.quarantined())
    assert verify_quarantine(asides, twice=True) == []


@pytest.mark.alone
def test_a_partition_that_stays_put_keeps_its_latency_while_others_move(broker: RealBroker, tmp_path: Path) -> None:
    site, elsewhere = Site(broker, tmp_path / "here"), Site(broker, tmp_path / "elsewhere")
    with (
        site.start() as staying,
        elsewhere.start() as undisturbed,
        Recordings(site, per_second=120) as recordings,
        Recordings(elsewhere, per_second=120) as others,
    ):
        staying.ready(4)
        undisturbed.ready(4)
        # What else goes on in the machine adds to each latency, that of the one beside too, of which no partition
        # moves, and sometimes it does not; what a rebalance adds is there each time.
        for attempt in range(8):
            begun_ms, gone = now_ms(), len(staying.said("partitions_gone"))
            with site.start() as other:
                other.ready(2)
                staying.ready(2)
                assert other.stop() == 0
            staying.ready(4)
            time.sleep(1)
            moved_away = {number for line in staying.said("partitions_gone")[gone:] for number in line["partitions"]}
            stayed = set(range(4)) - moved_away
            assert len(stayed) == 2
            while_moving, beside = (
                percentile_99(latencies_ms(one, stayed, begun_ms, now_ms())) for one in (site, elsewhere)
            )
            print(f"p99 of partitions that stay put while others move: {while_moving} ms; beside: {beside} ms")
            if while_moving < max(250, 2 * beside):
                break
            assert attempt < 7, "a rebalance holds up what stays"
        recordings.stop()
        others.stop()
        until(staying.caught_up)
        assert staying.stop() == 0
    assert site.verified() == Findings([], [], [])
    assert site.verdicts().keys() == recordings.sids


class Recordings:
    """A recording a message, each decided at once, round all partitions; from a thread, until stopped."""

    def __init__(self, site: Site, *, per_second: float) -> None:
        self._site = site
        self._pause_s = 0.05
        self._batch = max(1, round(per_second * self._pause_s))
        self._asked = threading.Event()
        self._number = 0
        self._thread = threading.Thread(target=self._send, daemon=True)

    @property
    def sids(self) -> set[str]:
        return {recording_sid(number) for number in range(self._number)}

    def _send(self) -> None:
        producer = Producer({"bootstrap.servers": self._site.bootstrap, "linger.ms": 0, "acks": "all"})
        while not self._asked.wait(self._pause_s):
            for number in range(self._number, self._number + self._batch):
                partition = number % self._site.partitions
                event = recording_event(number, account=partition + 1)
                producer.produce(self._site.events, event, partition=partition)
            self._number += self._batch
            producer.poll(0)
        assert producer.flush(WAIT_S) == 0

    def stop(self) -> None:
        self._asked.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.set()


def latencies_ms(site: Site, partitions: set[int], since_ms: int, until_ms: int) -> list[int]:
    """From the event's append to that of its verdict, both by the broker's clock, for verdicts of a stretch of time."""
    found = []
    for message in site.written():
        verdict = verdict_of(message)
        if verdict is not None and message.partition in partitions and since_ms <= message.timestamp_ms <= until_ms:
            decided = datetime.fromisoformat(verdict["decided_at"])
            found.append(message.timestamp_ms - round(decided.timestamp() * 1000))
    assert len(found) > 100
    return found


def percentile_99(values: list[int]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def test_sigterm_under_load_ends_in_time_with_all_committed_and_the_next_run_repeats_nothing(
    broker: RealBroker, tmp_path: Path
) -> None:
    site = Site(broker, tmp_path, grace="1s")
    crowd = msgspec.structs.replace(CROWD, events=15_000, seed=5)
    with site.start() as first:
        first.ready(4)
        with Load(site, crowd, per_second=2500, hold_at=10_000) as load:
            until(lambda: load.sent > 5_000)
            until(lambda: len(site.written()) > 50)
            assert first.stop() == 0
            written, committed = site.written(), site.committed()
            load.finish()
            load.wait()
        [stopped] = first.said("monitor_stopped")
    assert stopped["in_time"] is True
    for message in written:
        verdict = verdict_of(message)
        assert verdict is None or verdict["at"][1] < committed[message.partition]
    left = sum(site.ends().values()) - sum(committed.values())
    assert left > 0
    with site.start_quick(**TICKING) as second:
        second.ready(4)
        until(lambda: second.caught_up() and against_truth(site.verdicts(), load.truth).agrees)
        # It judged what the first had left, its own ticks among it, and nothing else.
        least, begun = sum(site.ends().values()), sum(committed.values())
        until(lambda: begun + second.metrics()("messages_total") >= least, why=second.tail)
        seen, most = second.metrics(), sum(site.ends().values())
        assert second.stop() == 0
    assert begun + seen("messages_total") <= most
    assert seen("replayed_messages_total") > 0
    assert site.verified() == Findings([], [], [])
    assert [m for m in site.written() if m.offset < written_in(written, m.partition)] == written


def written_in(written: list[Message], partition: int) -> int:
    return sum(message.partition == partition for message in written)


GROUPS: dict[str, dict[str, str | None]] = {
    "the consumer protocol": {"group.protocol": "consumer", "session.timeout.ms": None, "heartbeat.interval.ms": None},
    "eager": {"partition.assignment.strategy": "range"},
    "static members": {"group.instance.id": "the-{}"},
    "static members of the consumer protocol": {
        "group.protocol": "consumer",
        "group.instance.id": "the-{}",
        "session.timeout.ms": None,
        "heartbeat.interval.ms": None,
    },
}


@pytest.mark.parametrize("group", GROUPS)
def test_whatever_the_group_is_members_come_and_go_and_each_recording_is_judged_once(
    broker: RealBroker, tmp_path: Path, group: str
) -> None:
    def client(number: str) -> dict[str, str | None]:
        return {key: value and value.replace("{}", number) for key, value in GROUPS[group].items()}

    site = Site(broker, tmp_path)
    with site.start(client=client("one")) as one, site.start(client=client("two")) as two:
        send_recordings(site, range(40))
        one.ready(2)
        two.ready(2)
        send_recordings(site, range(40, 80))
        until(lambda: len(site.verdicts()) == 80)
        assert one.stop() == 0
        with site.start(client=client("one")) as again:
            again.ready(2)
            two.ready(2)
            send_recordings(site, range(80, 120))
            until(lambda: len(site.verdicts()) == 120)
            assert again.stop() == two.stop() == 0
    assert site.verified() == Findings([], [], [])
    assert len(site.written()) == 120


def send_recordings(site: Site, numbers: Iterable[int]) -> None:
    """Recordings by ``<Dial>``, each decided at once, one account a partition."""
    events: dict[int, list[bytes | None]] = {}
    for number in numbers:
        events.setdefault(number % 4, []).append(recording_event(number, account=number % 4 + 1))
    for partition, values in events.items():
        site.send(values, partition)


# ------------------------------------------------------------------------------------------------- poison, silence


def billion_laughs() -> bytes:
    """An event whose TwiML would unfold to gigabytes, if anybody let it."""
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    body = f'<?xml version="1.0"?><!DOCTYPE Response [<!ENTITY a0 "ha">{entities}]><Response>&a11;</Response>'
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": "com.twilio.voice.twiml.call.requested",
            "source": "/x",
            "id": "VW" + "a" * 32,
            "time": "2026-11-21T12:00:00Z",
            "data": {
                "request": {
                    "url": "https://voice.example.com/t",
                    "parameters": {"AccountSid": account_sid(1), "CallSid": "CA" + "0" * 31 + "1"},
                },
                "response": {"responseCode": 200, "responseBody": base64.b64encode(body.encode()).decode()},
            },
        }
    )


POISON: dict[str, bytes] = {
    "random bytes": random.Random(1).randbytes(5_000),
    "invalid UTF-8": recording_event(7_000).replace(b"voice.example.com", b"voice.\xff\xfe.com"),
    "ten megabytes": b'{"type": "' + b"x" * 10_000_000 + b'"}',
    "a depth bomb of arrays": b"[" * 100_000,
    "a depth bomb of objects": b'{"data":' * 100_000 + b"1" + b"}" * 100_000,
    "billion laughs": billion_laughs(),
    "no account": recording_event(7_001).replace(b"AC00", b"XX00"),
    "null": b"null",
}


def test_poison_is_set_aside_with_what_is_needed_to_look_into_it_and_what_follows_is_judged(
    broker: RealBroker, tmp_path: Path
) -> None:
    site = Site(broker, tmp_path, partitions=1, events_config={"max_message_bytes": "20000000"})
    with site.start() as monitor:
        monitor.ready(1)
        places = {name: site.send([value])[0] for name, value in POISON.items()}
        # In the middle of a good array one element is set aside, and no more of it.
        good, bad = recording_event(1), b'{"type": 7}'
        array = site.send([b"[" + good + b"," + bad + b"," + recording_event(2) + b"]", recording_event(3)])[0]
        until(lambda: len(site.verdicts()) == 3)
        due = len(POISON) + 1
        seen = scraped(monitor, lambda told: sum(told.by("quarantined_total", "reason").values()) == due)
        assert monitor.stop() == 0
    assert site.verdicts().keys() == {recording_sid(number) for number in (1, 2, 3)}
    asides = read_quarantine(site.quarantined())
    assert verify_quarantine(asides) == []
    by_place = {aside.position: aside for aside in asides}
    assert by_place.keys() == {f"0:{offset}" for offset in (*places.values(), array)}
    for name, value in POISON.items():
        aside = by_place[f"0:{places[name]}"]
        assert (aside.length, aside.sha256) == (len(value), hashlib.sha256(value).hexdigest()), name
        assert aside.data == value[: 256 * 1024], name
    reasons = {name: by_place[f"0:{offset}"].reason for name, offset in places.items()}
    assert reasons == {
        "random bytes": "not-json",
        "invalid UTF-8": "not-json",
        "ten megabytes": "too-large",
        "a depth bomb of arrays": "too-deep",
        "a depth bomb of objects": "too-deep",
        "billion laughs": "twiml-refused",
        "no account": "no-account",
        "null": "not-an-object",
    }
    assert (by_place[f"0:{array}"].data, by_place[f"0:{array}"].entry) == (bad, 1)
    assert seen.by("notices_total", "kind") == {"malformed": len(asides)}
    assert sum(seen.by("quarantined_total", "reason").values()) == len(asides)
    # Whatever was in it: what may be private stays out of the log.
    assert "voice." not in monitor.log.read_text()


def test_in_silence_ticks_end_the_grace_and_the_window(broker: RealBroker, tmp_path: Path) -> None:
    site = Site(broker, tmp_path, partitions=2, grace="1s")
    # So far apart that a tick comes between, however busy the machine is.
    spans: dict[str, Any] = {"window": timedelta(seconds=9), "tick_every": timedelta(seconds=0.5)}
    with site.start_quick(**spans) as monitor:
        monitor.ready(2)
        site.send([recording_event(1, source="Conference")])
        until(lambda: len(site.written()) == 2)
        assert monitor.stop() == 0
    grace, closing = [verdict_of(message) for message in site.written()]
    assert grace is not None
    assert closing is not None
    assert [(one["cause"], one["final"], one["revision"]) for one in (grace, closing)] == [
        ("unattributed", False, 1),
        ("unattributed", True, 2),
    ]
    assert site.verified() == Findings([], [], [])


# ---------------------------------------------------------------------------------------- policy, account settings

POLICY = """\
policy: under-test
mode: {mode}
default: disallowed
rules:
  - name: dialled
    outcome: {outcome}
    when: {{cause: {cause}}}
    reason: It was agreed.
"""


def test_a_policy_that_is_broken_changes_nothing_and_a_good_one_judges_anew(broker: RealBroker, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    good = POLICY.format(mode="enforce", outcome="disallowed", cause="dial_verb")
    policy.write_text(good)
    site = Site(broker, tmp_path, policy=str(policy))
    with site.start() as monitor:
        monitor.ready(4)
        with Recordings(site, per_second=100) as recordings:
            until(lambda: len(site.verdicts()) > 50)
            put(policy, good.replace("outcome", "outcom"))
            monitor.send(signal.SIGHUP)
            until(lambda: monitor.said("policy_reload_failed"), why=monitor.tail)
            assert monitor.metrics()("policy_last_reload_successful") == 0
            before = len(site.verdicts())
            until(lambda: len(site.verdicts()) > before + 50)
            assert {verdict["policy"] for verdict in site.verdicts().values()} == {hash_of(good)}
            better = POLICY.format(mode="enforce", outcome="allowed", cause="dial_verb")
            put(policy, better)
            monitor.send(signal.SIGHUP)
            until(lambda: monitor.said("policy_changed"), why=monitor.tail)
            recordings.stop()
        until(lambda: {verdict["policy"] for verdict in site.verdicts().values()} == {hash_of(better)})
        until(monitor.caught_up)
        judged_anew = sum(verdict["revision"] == 2 for verdict in site.verdicts().values())
        change = {"from": "disallowed", "to": "allowed"}
        seen = scraped(monitor, lambda told: told("verdict_revisions_total", **change) == judged_anew)
        assert monitor.stop() == 0
    verdicts = site.verdicts()
    assert verdicts.keys() == recordings.sids
    assert {verdict["outcome"] for verdict in verdicts.values()} == {"allowed"}
    revised = [verdict for verdict in verdicts.values() if verdict["revision"] == 2]
    assert len(revised) > 100
    assert {verdict["history"][0]["outcome"] for verdict in revised} == {"disallowed"}
    assert seen("policy_last_reload_successful") == 1
    assert len(revised) == judged_anew
    assert site.verified() == Findings([], [], [])
    # What is wrong with a policy is said with its line, and nothing of what the file holds.
    failures = monitor.said("policy_reload_failed")  # By the signal, and by the look at the file every ten seconds.
    assert failures
    assert all(any(":6: " in problem for problem in failed["problems"]) for failed in failures)


def put(policy: Path, text: str) -> None:
    """As a whole: the monitor may look at any moment."""
    fresh = policy.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(policy)


def hash_of(policy: str) -> str:
    return f"sha256:{hashlib.sha256(policy.encode()).hexdigest()}"


def test_an_account_setting_that_comes_later_judges_anew(broker: RealBroker, tmp_path: Path) -> None:
    lines = (SAMPLES / "08_flex_stale_agent_session.jsonl").read_bytes().splitlines()
    [setting] = [line for line in lines if b"flex-configuration.observed" in line]
    events = [line for line in lines if line != setting]
    by_ms = now_ms() - max(instant_ms(line) for line in events)
    by_ms -= by_ms % 1000
    site = Site(broker, tmp_path, grace="1s")
    with site.start_quick(**TICKING) as monitor:
        monitor.ready(4)
        site.send([moved(line, by_ms) for line in events], 1)
        until(lambda: [verdict["cause"] for verdict in site.verdicts().values()] == ["flex_conference"])
        site.send([moved(setting, by_ms)], topic=site.settings_topic, key="AC/flex/1")
        # Told with the next message, which is a tick.
        until(lambda: [verdict["cause"] for verdict in site.verdicts().values()] == ["flex_stale_session"])
        assert monitor.stop() == 0
    [verdict] = site.verdicts().values()
    assert verdict["history"][-1]["cause"] == "flex_conference"
    assert site.verified() == Findings([], [], [])


# --------------------------------------------------------------------------------------------------- other commands


def test_what_is_exported_is_judged_by_replay_as_it_was_live(broker: RealBroker, tmp_path: Path) -> None:
    site = Site(broker, tmp_path, grace="1s")
    with Load(site, msgspec.structs.replace(CROWD, events=3_000, seed=6), per_second=3000) as load:
        load.wait()
    with site.start_quick(**TICKING) as monitor:
        monitor.ready(4)
        until(lambda: monitor.caught_up() and against_truth(site.verdicts(), load.truth).agrees)
        assert monitor.stop() == 0
    live = site.verdicts()
    exported = site.run("export", "--since", "1h", "--out", str(tmp_path / "all.jsonl"))
    assert exported.returncode == 0, exported.stderr.decode()
    replayed = site.run("replay", "--format", "jsonl", "--no-end", str(tmp_path / "all.jsonl"))
    assert replayed.returncode == 0, replayed.stderr.decode()
    again = {key_of(verdict): verdict for verdict in map(json.loads, replayed.stdout.splitlines())}
    assert again.keys() == live.keys()
    # Whatever is the publisher's alone (a generation, what was published when the rebuild ended) a file does not know.
    ours = OF_THE_PUBLISHER | {"alert"}
    for key, verdict in live.items():
        assert {k: v for k, v in again[key].items() if k not in ours} == {
            k: v for k, v in verdict.items() if k not in ours
        }, key
    # One recording, with all that is connected to it, comes to the same verdict.
    recordings = [key for key, verdict in live.items() if verdict["cause"] == "conference_twiml"]
    for key in recordings[:2]:
        one = site.run("export", "--sid", key, "--out", str(tmp_path / "one.jsonl"))
        assert one.returncode == 0, one.stderr.decode()
        said = site.run("replay", "--format", "jsonl", str(tmp_path / "one.jsonl"))
        by_key = {key_of(verdict): verdict for verdict in map(json.loads, said.stdout.splitlines())}
        fields = ("cause", "outcome", "conference_sid", "call_sid", "start_source")
        assert [by_key[key][field] for field in fields] == [live[key][field] for field in fields]


def key_of(verdict: Verdict) -> str:
    return str(verdict["recording_sid"] or verdict["conference_sid"])


def test_what_was_set_aside_can_be_listed_and_taken_out_by_its_reason(broker: RealBroker, tmp_path: Path) -> None:
    site = Site(broker, tmp_path, partitions=1)
    poison = [b"\x1b[31mred", b"null"]
    offsets = site.send(poison)
    with site.start() as monitor:
        monitor.ready(1)
        until(lambda: len(site.quarantined()) == 2)
        assert monitor.stop() == 0
    listed = site.run("quarantine", "list")
    assert listed.returncode == 0
    lines = [line.split() for line in listed.stdout.decode().splitlines()[1:]]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("0:0", "not-json", f"0:{offsets[0]}"),
        ("0:1", "not-an-object", f"0:{offsets[1]}"),
    ]
    shown = site.run("quarantine", "show", "0:0")
    assert hashlib.sha256(poison[0]).hexdigest().encode() in shown.stdout
    assert site.run("quarantine", "show", "seven").returncode == 2
    written = site.run("quarantine", "export", str(tmp_path / "aside"), "--reason", "not-an-object")
    assert written.returncode == 0
    assert [path.read_bytes() for path in (tmp_path / "aside").iterdir()] == [b"null"]


def test_topics_are_created_as_asked_and_then_there_is_nothing_to_say_of_them(
    broker: RealBroker, tmp_path: Path
) -> None:
    name = unique_name("topics")
    topics = {one: f"{name}.{one}" for one in ("events", "verdicts", "case_actions", "account_settings", "quarantine")}
    config = tmp_path / "monitor.yaml"
    config.write_text(json.dumps({"kafka": {"bootstrap_servers": broker.bootstrap}, "topics": topics}))

    def said(*arguments: str) -> tuple[int, str]:
        done = program("topics", *arguments, "--config", str(config), cwd=tmp_path)
        return done.returncode, done.stdout.decode()

    code, missing = said("check")
    assert (code, missing.count("is not there.")) == (1, 5)
    code, created = said("apply", "--partitions", "3")
    assert (code, created.count("created with 3 partitions"), created.count("created  ")) == (0, 2, 5)
    code, checked = said("check")
    assert (code, len(re.findall("(?m)^ok ", checked))) == (0, 5)
    assert f"topic {name}.events: Read, Write (ticks), DescribeConfigs" in checked
