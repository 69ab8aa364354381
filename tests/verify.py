"""The independent verifier: what may and what may not stand on the topics, whatever has happened to the monitors.

It reads the verdict topic, the quarantine topic and the simulator's truth, and nothing else: no module of the monitor's
core, no metric, no log. What it demands is section by section what the documentation promises of the topics, so it
serves a quiet run and one full of kills alike; what an interruption may leave behind is told apart (``Findings``).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from monitor.simulator.compare import Comparison, compare
from monitor.simulator.truth import Counts, Header, read_truth

READ_S = 180.0
ASIDE_BYTES_MAX = 256 * 1024

Verdict = dict[str, Any]

FIELDS = frozenset(
    {"kind", "recording_sid", "account_sid", "revision", "final", "at", "rests_from", "outcome", "rule", "severity"}
    | {"mode", "policy", "cause", "strength", "start_source", "call_sid", "conference_sid", "recording_status"}
    | {"started_at", "ended_at", "first_seen_at", "found_by", "backlog", "decided_at", "disallowed_since", "alert"}
    | {"reason", "evidence", "ruled_out", "missing", "history"}
)
# Two verdicts that differ in nothing but these say the same.
OF_THE_PUBLISHER = frozenset({"revision", "at", "decided_at", "backlog", "history"})
# Only of one that was judged again; what it says of the verdict before is true of that one.
REJUDGED = "rejudged"
# What a final verdict may still learn; its evidence and its reason may then name the event that brought it.
LATE = frozenset({"recording_status", "ended_at", "found_by", "severity", "reason", "evidence"})

_WORDS: Mapping[str, frozenset[object]] = {
    "kind": frozenset({"recording", "suspicion"}),
    "outcome": frozenset({"allowed", "disallowed", "undetermined"}),
    "severity": frozenset({None, "info", "warning", "critical"}),
    "mode": frozenset({"observe", "enforce"}),
    "strength": frozenset({None, "observed", "implied", "inferred"}),
    "found_by": frozenset({None, "stream", "verb", "listing"}),
    "final": frozenset({True, False}),
    "backlog": frozenset({True, False}),
}
_SID = {
    "recording_sid": re.compile("RE[0-9A-Za-z]{32}"),
    "account_sid": re.compile("AC[0-9A-Za-z]{32}"),
    "call_sid": re.compile("CA[0-9A-Za-z]{32}"),
    "conference_sid": re.compile("CF[0-9A-Za-z]{32}"),
}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")
_INSTANTS = ("started_at", "ended_at", "first_seen_at", "decided_at", "disallowed_since")
# A telephone number, a piece of TwiML, a query string: none may stand on the topic.
_PRIVATE = re.compile(r"\+\d{6,}|<\?xml|<Response|https?://[^ \"]*\?")


class Message(NamedTuple):
    """A message of any topic as it stands there."""

    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: bytes | None
    headers: Mapping[str, bytes]


def read_topic(bootstrap: str, topic: str) -> list[Message]:
    """All that stands in a topic now, partition by partition in order of offset."""
    reader = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "verify", "enable.partition.eof": True, "fetch.wait.max.ms": 10}
    )
    try:
        numbers = sorted(reader.list_topics(topic, timeout=READ_S).topics[topic].partitions)
        assert numbers, f"{topic} is not there"
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        found: dict[int, list[Message]] = {number: [] for number in numbers}
        left, ends = set(numbers), time.monotonic() + READ_S
        while left:
            assert time.monotonic() < ends, f"the end of {topic} was not reached"
            for message in reader.consume(5000, 0.1):
                error = message.error()
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(partition)
                    continue
                assert offset is not None
                key = message.key()
                headers: dict[str, bytes] = dict(message.headers() or [])  # type: ignore[arg-type]  # read as bytes
                text = key.decode() if isinstance(key, bytes) else None
                found[partition].append(
                    Message(partition, offset, message.timestamp()[1], text, message.value(), headers)
                )
    finally:
        reader.close()
    return [message for number in numbers for message in found[number]]


def verdict_of(message: Message) -> Verdict | None:
    """A verdict as anybody reads it; None for a tombstone."""
    return None if message.value is None else msgspec.json.decode(message.value)


def place(verdict: Verdict) -> tuple[tuple[int, int], bool]:
    """What readers order verdicts by: where it was decided, and of equals the final one."""
    generation, offset = verdict["at"]
    return (generation, offset), verdict["final"]


def content(verdict: Verdict) -> Verdict:
    """What a verdict says, without what depends on what was published before."""
    return {name: value for name, value in verdict.items() if name not in OF_THE_PUBLISHER}


def holding(messages: Iterable[Message]) -> dict[str, Verdict]:
    """What holds, as readers take it: of each key the greatest verdict, of equals the later."""
    holds: dict[str, Verdict] = {}
    for message in messages:
        assert message.key is not None
        verdict = verdict_of(message)
        if verdict is None:
            holds.pop(message.key, None)
        elif message.key not in holds or place(holds[message.key]) <= place(verdict):
            holds[message.key] = verdict
    return holds


class Findings(NamedTuple):
    """``faults``: what no history excuses. ``repeats`` (what stood there already is written again) and ``regresses``
    (a lesser verdict over a greater one, put right later) may only come of a process that died or lost its partitions.
    """

    faults: list[str]
    repeats: list[Message]
    regresses: list[Message]


def verify_verdicts(messages: Sequence[Message]) -> Findings:
    """Hold a verdict topic, read in full after all has come to rest, against what is promised of it."""
    findings = Findings([], [], [])
    standing: dict[str, Message] = {}
    greatest: dict[str, Verdict] = {}
    partition_of: dict[str, int] = {}
    for message in messages:
        where = f"{message.partition}:{message.offset} {message.key}"
        verdict = verdict_of(message)
        assert message.key is not None, f"{where}: no key"
        before = standing.get(message.key)
        last = None if before is None else verdict_of(before)
        standing[message.key] = message
        if verdict is None:
            if last is None:
                findings.repeats.append(message)
            greatest.pop(message.key, None)
            continue
        findings.faults.extend(f"{where}: {fault}" for fault in _faults_of(message, verdict))
        for sid in (message.key, verdict.get("account_sid", "?")):
            if partition_of.setdefault(sid, message.partition) != message.partition:
                findings.faults.append(f"{where}: {sid} is in partition {partition_of[sid]} as well")
        if last is not None and content(last) == content(verdict):
            findings.repeats.append(message)
        known = greatest.get(message.key)
        if known is not None and place(verdict) < place(known):
            findings.regresses.append(message)
            continue
        if known is not None:
            findings.faults.extend(f"{where}: {fault}" for fault in _faults_of_succession(known, verdict))
        greatest[message.key] = verdict
    for key, message in standing.items():
        verdict = verdict_of(message)
        if verdict is not None and place(verdict) < place(greatest[key]):
            findings.faults.append(f"{message.partition}:{message.offset} {key}: a lesser verdict stands last")
    return findings


def _faults_of(message: Message, verdict: Verdict) -> Iterable[str]:
    """What is wrong with one verdict by itself."""
    if verdict.keys() - {REJUDGED} != FIELDS:
        yield f"fields missing: {sorted(FIELDS - verdict.keys())}, superfluous: {sorted(verdict.keys() - FIELDS)}"
        return
    for name, words in _WORDS.items():
        if verdict[name] not in words:
            yield f"{name} is {verdict[name]!r}"
    for name, pattern in _SID.items():
        if verdict[name] is not None and not pattern.fullmatch(verdict[name]):
            yield f"{name} is no SID"
    for name in _INSTANTS:
        if verdict[name] is not None and not _INSTANT.fullmatch(verdict[name]):
            yield f"{name} is no instant"
    suspicion = verdict["kind"] == "suspicion"
    if message.key != verdict["conference_sid" if suspicion else "recording_sid"] or (
        suspicion and verdict["recording_sid"] is not None
    ):
        yield "the key is not that of what it is about"
    if verdict["account_sid"] is None or verdict["first_seen_at"] is None or verdict["decided_at"] is None:
        yield "account, first_seen_at or decided_at is missing"
    if (verdict["severity"] is None) != (verdict["outcome"] == "allowed"):
        yield f"severity {verdict['severity']} of something {verdict['outcome']}"
    if verdict["outcome"] == "disallowed" and verdict["disallowed_since"] is None:
        yield "disallowed since never"
    if verdict["alert"] is not None and verdict["mode"] == "observe":
        yield "an alert, though the policy only observes"
    if not re.fullmatch("sha256:[0-9a-f]{64}", verdict["policy"]):
        yield "policy is no hash"
    if not verdict["reason"] or _PRIVATE.search(verdict["reason"]) or _PRIVATE.search(str(verdict["evidence"])):
        yield "no reason, or one that tells what is private"
    yield from _faults_of_positions(message, verdict)
    yield from _faults_of_history(verdict)


def _faults_of_positions(message: Message, verdict: Verdict) -> Iterable[str]:
    generation, offset = verdict["at"]
    if generation > 1:
        # The log may have begun anew since: offsets of what was said before then can't be compared with this one's, and
        # -1 says that it rests on such.
        offset = max(offset, verdict["rests_from"], *(_number_of(shown) for shown in verdict["evidence"]))
        verdict = {**verdict, "rests_from": max(0, verdict["rests_from"])}
    if generation < 0 or not 0 <= verdict["rests_from"] <= offset:
        yield f"decided at {offset}, rests from {verdict['rests_from']}"
    if not verdict["evidence"]:
        yield "no evidence"
    for shown in verdict["evidence"]:
        partition, _, number = shown["position"].partition(":")
        # Evidence shown may come from account settings, which stand nowhere in the partition.
        if number and (int(partition) != message.partition or not verdict["rests_from"] <= int(number) <= offset):
            yield f"evidence at {shown['position']}, decided at {offset}, rests from {verdict['rests_from']}"


def _number_of(shown: Mapping[str, Any]) -> int:
    number = shown["position"].partition(":")[2]
    return int(number) if number else -1


def _faults_of_history(verdict: Verdict) -> Iterable[str]:
    revisions = [entry["revision"] for entry in verdict["history"]]
    if revisions != sorted(set(revisions)) or (revisions and revisions[-1] != verdict["revision"] - 1):
        yield f"revision {verdict['revision']} with a history of {revisions}"
    if verdict["revision"] > 1 and not revisions:
        yield f"revision {verdict['revision']} without a history"


def _faults_of_succession(before: Verdict, after: Verdict) -> Iterable[str]:
    """What is wrong with a verdict, given the one that held until then."""
    rejudged = after.get(REJUDGED)
    if rejudged != before.get(REJUDGED):
        was = (rejudged["was_outcome"], rejudged["was_rule"], rejudged["was_policy"]) if rejudged else None
        if was != (before["outcome"], before["rule"], before["policy"]) or place(before) != place(after):
            yield f"rejudged as {was}, which it was not"
    elif before["final"]:
        changed = {name for name in FIELDS if content(before).get(name) != content(after).get(name)} - LATE
        if changed:
            yield f"final, and changed in {sorted(changed)}"
    if after["rests_from"] > before["rests_from"]:
        yield f"rested from {before['rests_from']}, now from {after['rests_from']}"
    if after["first_seen_at"] > before["first_seen_at"]:
        yield "first seen later than before"
    since = before["disallowed_since"]
    if (
        since is not None
        and after["outcome"] == "disallowed" == before["outcome"]
        and after["disallowed_since"] != since
    ):
        yield "disallowed_since has moved"


class Aside(NamedTuple):
    """A message of the quarantine topic."""

    reason: str
    position: str
    entry: int | None
    length: int
    sha256: str
    data: bytes


def read_quarantine(messages: Iterable[Message]) -> list[Aside]:
    """What was set aside, each with all that must be said of it. Raises KeyError where something is not said."""
    return [
        Aside(
            reason=message.headers["reason"].decode(),
            position=message.headers["position"].decode(),
            entry=int(message.headers["index"]) if "index" in message.headers else None,
            length=int(message.headers["length"]),
            sha256=message.headers["sha256"].decode(),
            data=message.value or b"",
        )
        for message in messages
    ]


def verify_quarantine(asides: Sequence[Aside], *, twice: bool = False) -> list[str]:
    """What is wrong with a quarantine topic. ``twice``: whether a kill may have had an entry set aside again."""
    faults = []
    seen: set[tuple[str, int | None]] = set()
    for aside in asides:
        where = f"{aside.position} entry {aside.entry}"
        if not aside.reason or not re.fullmatch(r"\d+:\d+", aside.position):
            faults.append(f"{where}: no reason or no position")
        if len(aside.data) != min(aside.length, ASIDE_BYTES_MAX):
            faults.append(f"{where}: {len(aside.data)} bytes were kept of {aside.length}")
        whole = aside.length <= ASIDE_BYTES_MAX
        if whole and hashlib.sha256(aside.data).hexdigest() != aside.sha256:
            faults.append(f"{where}: the SHA-256 is not that of the bytes")
        if (aside.position, aside.entry) in seen and not twice:
            faults.append(f"{where}: set aside twice")
        seen.add((aside.position, aside.entry))
    return faults


def against_truth(verdicts: Mapping[str, Verdict], truth: Path) -> Comparison:
    """Hold what holds against what the simulator's scripts made happen."""
    with truth.open("rb") as lines:
        return compare(list(read_truth(lines)), verdicts)


def true_counts(truth: Path) -> Counts:
    """How many entries the simulator wrote, by kind."""
    with truth.open("rb") as lines:
        *_, last = read_truth(lines)
    assert isinstance(last, Counts)
    return last


def true_starters(truth: Path) -> list[dict[str, str]]:
    """The ``starters`` that the truth takes for granted, as the settings spell them."""
    with truth.open("rb") as lines:
        first = next(read_truth(lines))
    assert isinstance(first, Header)
    return [msgspec.to_builtins(starter) for starter in first.starters]
