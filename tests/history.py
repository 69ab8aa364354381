"""Generated histories of one partition, and two runs over each: one that nothing interrupts, and one that is.

The real parts are run: ``Pipeline``, ``Ledger``, ``AccountSettings``, ``Policy``, and ``inputs/checkpoint`` for what a
commit says. Only the broker is a model: a log, a list of commits, and the verdict topic as a list of messages. A
``History`` is plain data: what is in the log, when processes die and what of theirs arrives then or later. The
properties are functions from a history to the text of what is wrong, or None; those of docs/checkpoint.md have their
names (P1 to P7, state). Each rule that was refuted there is a ``Rules`` with that one rule put in place of ours.

    python -m tests.history --examples 20000            every property, and how soon each refuted rule is found
    python -m tests.history --only P5 --examples 2000   one property
    python -m tests.history --find 'no log time at R'   one refuted rule, its counterexample shrunk

Example N of a property is the same history on every machine.
"""

# ruff: noqa: ARG002 - what stands in place of a rule has that rule's signature.

from __future__ import annotations

import argparse
import base64
import functools
import io
import multiprocessing
import random
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.attribution import Attribution, Background, attribute
from monitor.core.conversation import DIGEST_BYTES, Conversation, read_noted, read_noted_properties, shows_recording
from monitor.core.decode import decode
from monitor.core.events import Event, FlexSetting, FlowSetting, ParticipantFact
from monitor.core.evidence import Evidence, each_once
from monitor.core.guests import Guests, Nailed
from monitor.core.ledger import HOUR_MS, LATER, SETTLED_BYTES, Ledger
from monitor.core.ledger_snapshot import LedgerLoading, LedgerSaving
from monitor.core.nailed import Call, Known
from monitor.core.parted import PARTS, Parted
from monitor.core.pipeline import (
    Checkpoint,
    NotJudged,
    Pipeline,
    Publish,
    SetAside,
    SettingSeen,
    Stands,
    Told,
    Tuning,
)
from monitor.core.policy import Policy, PolicyDocument, RuleDocument, Subject, Values, compile_policy
from monitor.core.snapshot import Loading, Saving, Unusable, chunks
from monitor.core.verdict import Published, Verdict, decode_verdict, encode_verdict, remember, render_instant
from monitor.core.window import RECORDINGS_KEPT_FACTOR, Touched, Window, book_of
from monitor.inputs.checkpoint import Committed, encode_metadata, resume

# Units are milliseconds: a window of 10, a grace of 3. The base stands shortly before a border of the window's buckets.
LOG_BASE_MS = 1_790_000_000_000 - 15
FINGERPRINT = "the log"
WINDOW_MS = 10
GRACE_MS = 3
FAR_AHEAD_MS = 3_600_001

# --------------------------------------------------------------------------- entries: short forms and their bytes

ACCOUNTS = {"A": "AC" + "a" * 32, "B": "AC" + "b" * 32}
SIDS = {
    "a": "CA" + "a" * 32,
    "b": "CA" + "b" * 32,
    "c": "CF" + "c" * 32,
    "d": "CF" + "d" * 32,
    "e": "CF" + "e" * 32,
    "f": "CF" + "f" * 32,
    "v": "WT" + "7" * 32,
    "w": "WT" + "8" * 32,
    "r": "RE" + "1" * 32,
    "s": "RE" + "2" * 32,
    "t": "RE" + "3" * 32,
    "x": "FN" + "9" * 32,
}
SIDS_OF_B = SIDS | {key: sid[:2] + "b" + sid[3:] for key, sid in SIDS.items() if key not in "ab"}
FLOW = "FW" + "f" * 32
CONFERENCE_NAMES = {"ok": "ok", "pay": "pay", "flex": "WT" + "e" * 32}
OCCURRED_BASE_MS = 1_790_000_000_000
STARTED_S = 5  # When every recording says that it started.


@functools.cache
def entry(short: str) -> bytes:
    """The bytes Twilio (or we) would send for a short form: ``[account:]what(arguments)[@second][#n]``.

    The whole text is the event's id, so that a short form that comes again is a duplicate; ``#n`` makes it a new event
    with the old content. ``@second`` is when it occurred (5 if left out).
    """
    account, _, rest = short.rpartition(":")
    text, _, _ = rest.partition("#")
    # A recording or a conference is of one account only. Calls of two accounts share their SIDs here, to see that
    # nothing looks past the account.
    sids = SIDS if account != "B" else SIDS_OF_B
    call, _, second = text.partition("@")
    what, _, inside = call.partition("(")
    arguments = [argument for argument in inside.rstrip(")").split(",") if argument]
    occurred = render_instant(OCCURRED_BASE_MS + 1000 * int(second or STARTED_S))
    arguments = [sids.get(argument, argument) for argument in arguments]
    kind, data = _BUILDERS[what](ACCOUNTS[account or "A"], occurred, *arguments)
    envelope = {"specversion": "1.0", "type": kind, "id": short, "source": "/", "time": occurred, "data": data}
    return b"17" if what == "junk" else msgspec.json.encode(envelope)


@functools.cache
def message(entries: str) -> bytes:
    """The bytes of a message of one or more short forms, separated by blanks."""
    shorts = entries.split()
    return entry(shorts[0]) if len(shorts) == 1 else b"[" + b",".join(map(entry, shorts)) + b"]"


_VOICE = "com.twilio.voice."
_OWN = "dev.recording-monitor."
Built = tuple[str, dict[str, Any]]


def _webhook(kind: str, account: str, occurred: str, parameters: dict[str, str], **more: Any) -> Built:
    request = {"parameters": {"AccountSid": account, "Timestamp": occurred, **parameters}, "url": more.pop("url", None)}
    return _VOICE + kind, {"request": request, "timestamp": occurred, **more}


def _of(sid: str) -> dict[str, str]:
    return {"CallSid" if sid.startswith("CA") else "ConferenceSid": sid}


def _recording(account: str, occurred: str, recording: str, of: str, source: str = "") -> Built:
    parameters = {
        "RecordingSid": recording,
        "RecordingSource": source or ("StartCallRecordingAPI" if of.startswith("CA") else "Conference"),
        "RecordingStatus": "in-progress",
        "RecordingStartTime": render_instant(OCCURRED_BASE_MS + 1000 * STARTED_S),
        **_of(of),
    }
    return _webhook("status-callback.recording.processed", account, occurred, parameters)


def _done(account: str, occurred: str, recording: str, of: str) -> Built:
    kind, data = _recording(account, occurred, recording, of)
    data["request"]["parameters"] |= {"RecordingStatus": "completed", "RecordingDuration": "7"}
    return kind, data


def _listed(account: str, occurred: str, recording: str, of: str) -> Built:
    data = {
        "account_sid": account,
        "sid": recording,
        "call_sid" if of.startswith("CA") else "conference_sid": of,
        "source": "StartCallRecordingAPI" if of.startswith("CA") else "Conference",
        "status": "completed",
        "start_time": render_instant(OCCURRED_BASE_MS + 1000 * STARTED_S),
        "duration": 7,
        "date_created": occurred,
    }
    return _OWN + "recording.listed", data


def _participant(event: str) -> Callable[..., Built]:
    def build(account: str, occurred: str, call: str, conference: str, name: str = "") -> Built:
        parameters = {"CallSid": call, "ConferenceSid": conference, "StatusCallbackEvent": event}
        if name:
            parameters["FriendlyName"] = CONFERENCE_NAMES[name]
        return _webhook("status-callback.conference.participant.updated", account, occurred, parameters)

    return build


def _conference(event: str) -> Callable[..., Built]:
    def build(account: str, occurred: str, conference: str, name: str) -> Built:
        parameters = {
            "ConferenceSid": conference,
            "FriendlyName": CONFERENCE_NAMES[name],
            "StatusCallbackEvent": event,
        }
        return _webhook("status-callback.conference.updated", account, occurred, parameters)

    return build


def _twiml(account: str, occurred: str, call: str, name: str) -> Built:
    xml = f'<Response><Dial><Conference record="true">{CONFERENCE_NAMES[name]}</Conference></Dial></Response>'
    body = base64.b64encode(xml.encode()).decode()
    response = {"responseCode": 200, "responseBody": body}
    return _webhook("twiml.call.requested", account, occurred, {"CallSid": call}, response=response)


def _api(account: str, occurred: str, conference: str) -> Built:
    url = f"https://api.example.com/2010-04-01/Accounts/{account}/Conferences/{conference}/Participants.json"
    parameters = {"ConferenceRecord": "true"}
    kind = "api-request.conference-participant.created"
    response = {"responseCode": 201}
    return _webhook(kind, account, occurred, parameters, url=url, sid=conference, response=response)


def _api_by_name(account: str, occurred: str, call: str, name: str) -> Built:
    url = f"https://api.example.com/2010-04-01/Accounts/{account}/Conferences/{CONFERENCE_NAMES[name]}/Participants"
    parameters = {"ConferenceRecord": "true", "CallSid": call}
    kind = "api-request.conference-participant.created"
    return _webhook(kind, account, occurred, parameters, url=url, response={"responseCode": 201})


def _call(account: str, occurred: str, call: str, parent: str = "") -> Built:
    parameters = {"CallSid": call, "Direction": "inbound"}
    if parent:
        parameters["ParentCallSid"] = parent
    return _webhook("status-callback.call.initiated", account, occurred, parameters)


def _insight(account: str, occurred: str, conference: str) -> Built:
    data = {
        "account_sid": account,
        "conference_sid": conference,
        "recording_enabled": True,
        "timestamp": occurred,
        "start_time": occurred,
    }
    return _VOICE + "insights.conference-summary.complete", data


def _task(account: str, occurred: str, task: str, call: str, conference: str = "", worker: str = "") -> Built:
    attributes: dict[str, Any] = {"call_sid": call}
    if conference:
        attributes["conference"] = {"sid": conference}
    if worker:
        attributes["worker_call_sid"] = worker
    payload = {
        "account_sid": account,
        "task_sid": task,
        "task_attributes": msgspec.json.encode(attributes).decode(),
        "task_queue_name": "sales" if task == SIDS["v"] else "support",
        "worker_sid": "WK" + task[2:],
    }
    return "com.twilio.taskrouter.task.updated", {"payload": payload, "timestamp": occurred}


def _studio(account: str, occurred: str, call: str) -> Built:
    data = {
        "account_sid": account,
        "execution_sid": SIDS["x"],
        "flow_sid": FLOW,
        "flow_revision": 1,
        "started_by": call,
        "date_created": occurred,
    }
    return "com.twilio.studio.flow.execution.started", data


def _step(account: str, occurred: str, leaves: str, enters: str = "") -> Built:
    data = {
        "account_sid": account,
        "execution_sid": SIDS["x"],
        "transitioned_from": leaves,
        "transitioned_to": enters or None,
        "name": "success",
        "date_created": occurred,
    }
    return "com.twilio.studio.flow.step.ended", data


def _flow(account: str, occurred: str) -> Built:
    return _OWN + "studio-flow.observed", {
        "account_sid": account,
        "flow_sid": FLOW,
        "revision": 1,
        "widgets": [_WIDGET],
    }


_WIDGET = {"name": "record", "type": "record-call", "records": True}


def _flex(account: str, occurred: str, state: str) -> Built:
    data = {"account_sid": account, "call_recording_enabled": state == "on", "observed_at": occurred}
    return _OWN + "flex-configuration.observed", data


_BUILDERS: dict[str, Callable[..., Built]] = {
    "rec": _recording,
    "done": _done,
    "listed": _listed,
    "join": _participant("participant-join"),
    "leave": _participant("participant-leave"),
    "name": _conference("conference-start"),
    "end": _conference("conference-end"),
    "twiml": _twiml,
    "api": _api,
    "request": _api_by_name,
    "call": _call,
    "insight": _insight,
    "task": _task,
    "studio": _studio,
    "step": _step,
    "flow": _flow,
    "flex": _flex,
    "tick": lambda *_: (_OWN + "tick", {"by": "test"}),
    "amd": lambda account, *_: (_VOICE + "status-callback.amd.detected", {"account_sid": account}),
    "junk": lambda *_: ("", {}),
}


def _policy(name: str, when_open: str, default: str, *rules: RuleDocument) -> PolicyDocument:
    return PolicyDocument(name=name, mode="enforce", default=default, when_open=when_open, rules=rules)


_PAY = RuleDocument(name="pay", outcome="disallowed", when={"conference_name": ("pay",)})
_TWIML = RuleDocument(name="twiml", outcome="disallowed", when={"cause": ("conference_twiml",)})
_BY_API = RuleDocument(name="by-api", outcome="allowed", when={"cause": ("api_call_recording", "conference_api")})
_FLEX_OFF = RuleDocument(
    name="flex", outcome="disallowed", when={"cause": ("flex_stale_session", "flex_residual_setting")}
)
_INBOUND = RuleDocument(name="inbound", outcome="disallowed", when={"direction": ("inbound",)})
_SALES = RuleDocument(name="sales", outcome="disallowed", when={"queue": ("sales",)})
_DONE = RuleDocument(name="done", outcome="allowed", when={"status": ("completed",)})

POLICIES = (
    _policy("pay, else allowed", "allowed", "allowed", _PAY),
    _policy("api unless pay", "undetermined", "disallowed", _PAY, _BY_API),
    _policy("twiml, else allowed", "allowed", "allowed", _TWIML, _FLEX_OFF),
    _policy("api alone", "undetermined", "disallowed", _BY_API),
    _policy("inbound, else api", "disallowed", "disallowed", _INBOUND, _BY_API, _DONE),
    _policy("done unless pay or twiml", "allowed", "undetermined", _PAY, _TWIML, _DONE),
    _policy("sales, else twiml", "allowed", "allowed", _SALES, _TWIML),
)
_OF_QUEUES = 6  # The policy that asks for tasks: of which of them count, how often a call moves is part.

# --------------------------------------------------------------------------- histories


class Crash(NamedTuple):
    """A process dies once it has processed message ``after``, while replaying too.

    Its last ``unwritten`` verdicts have not arrived by then. The commit that holds is the last one that may, or one
    ``back`` positions before it; with ``stale`` its R is that many positions older, with its own w. With ``zombie`` the
    process goes on for so many messages more without knowing; what it has told then and has not been delivered arrives
    when its successor has fed ``arrives`` messages (0: before it reads the topic; -1: between replay and gate), else
    never. ``low``: retention takes all messages below before the successor begins. ``unread`` messages have come in by
    then that nobody has read.
    """

    after: int
    unwritten: int = 0
    back: int = 0
    stale: int = 0
    zombie: int | None = None
    arrives: int = 0
    low: int | None = None
    unread: int = 0


class Change(NamedTuple):
    """From message ``before`` on, another policy holds (``policy:n``), or a setting is known (a short form)."""

    before: int
    what: str


class History(NamedTuple):
    """What is in the log (stamp relative to the base, entries), and what happens to those who read it."""

    messages: tuple[tuple[int, str], ...]
    crashes: tuple[Crash, ...] = ()
    changes: tuple[Change, ...] = ()
    policy: int = 0
    age_max_ms: int = 1000
    entries_max: int = 50
    drop_finals: bool = True
    # A snapshot begins after every so many messages, and so many conversations are written after each; 0: none is.
    snapshots: tuple[int, int] = (0, 0)
    conferences_max: int = 3

    def tuning(self) -> Tuning:
        """The tuning of the fold, in units."""
        return Tuning(
            window_ms=WINDOW_MS,
            grace_ms=GRACE_MS,
            age_max_ms=self.age_max_ms,
            entries_max=self.entries_max,
            conferences_max=self.conferences_max,
            recordings_too_old_ms=None,
        )

    def log(self) -> list[tuple[int, bytes]]:
        """The messages and a closing stretch of ticks, after which nothing is open."""
        log = [(LOG_BASE_MS + stamp, message(entries)) for stamp, entries in self.messages]
        last = max((stamp for stamp, _ in log), default=LOG_BASE_MS)
        return log + [(last + after, message(f"tick#{after}")) for after in (0, 1, 3, 9, 10, 11, 22, 33)]


class Feature(NamedTuple):
    """What one kind of generated history may hold, and how likely; each example draws which of them it uses."""

    crashes: bool = True
    zombies: bool = True
    changes: bool = True
    losses: bool = False
    skew: bool = True
    cuts: bool = True
    small: bool = True
    nailed: bool = True
    snapshots: bool = False
    truthful: bool = False  # No two events contradict each other about a recording or a conference's name.


def generate(feature: Feature, chance: random.Random) -> History:
    """One history. Keys are few, so that things collide; which features it uses is drawn first."""
    some = chance.random
    accounts = ["A"] if some() < 0.8 else ["A", "B"]
    calls, conferences = "ab" if some() < 0.75 else "a", "cd" if some() < 0.7 else "c"
    recordings = chance.choice(("r", "rs", "rs", "rst"))
    names = chance.choice((("ok", "pay"), ("pay",), ("ok", "flex"), ("ok", "pay", "flex")))
    kinds = [kind for kind in _KINDS if some() < 0.6]
    kinds += ["rec", chance.choice(("rec", "join"))]
    if some() < 0.25:
        kinds = [*_NAMING, *kinds[-2:]]
    nailed = feature.nailed and some() < 0.5
    if nailed:
        conferences = chance.choice(("cd", "cde", "cdef"))
        kinds += chance.choice((_MOVING, _MOVING, _ALONE, _STEPPING))
    steps = chance.choice(((0, 1, 1, 2), (1, 2, 3), (0, 1, 3, 4, 9, 10, 11), (3, 4, 7), (1, 2, 3, 10, 14)))
    occurrences = chance.choice((("",), ("",), ("", "@3", "@9"), ("@1", "@2", "@4", "@6", "@30", "@200")))
    repeats = chance.choice((0.0, 0.0, 0.15, 0.4))
    skewed = feature.skew and some() < 0.4
    ahead = feature.skew and some() < 0.05
    messages: list[tuple[int, str]] = []
    stamp = 0
    for _ in range(chance.randint(3, 13)):
        stamp += chance.choice(steps)
        entries = " ".join(
            _draw_entry(chance, accounts, kinds, calls, conferences, recordings, names, occurrences)
            for _ in range(2 if some() < 0.06 else 1)
        )
        if messages and some() < repeats:
            entries = chance.choice(messages)[1]
        at = stamp
        if skewed and some() < 0.3:
            at = max(0, stamp - chance.randint(1, 14))
        elif ahead and some() < 0.15:
            at = stamp + FAR_AHEAD_MS
            if some() < 0.3:
                stamp = at
        messages.append((at, entries))
    if feature.truthful:
        messages = _agreeing(messages)
    length = len(messages)
    changes: list[Change] = []
    if feature.changes and some() < 0.35:
        for _ in range(chance.randint(1, 2)):
            what = chance.choice((f"policy:{chance.randrange(len(POLICIES))}", "flex(on)@2", "flex(off)@4", "flow()"))
            changes.append(Change(chance.randint(1, length), what))
    crashes: list[Crash] = []
    if feature.crashes:
        zombies = feature.zombies and some() < 0.4
        after = 0
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
            after = chance.randint(after, min(length + 6, after + 1 + length))
            crashes.append(_draw_crash(chance, after, zombies=zombies, losses=feature.losses))
    return History(
        tuple(messages),
        tuple(crashes),
        tuple(sorted(changes)),
        chance.randrange(len(POLICIES)),
        chance.choice((12, 20, 25)) if feature.cuts and some() < 0.3 else 1000,
        # Beyond the bound it is what was kept that says where a call was: a rebuild that has more room knows more.
        chance.choice((2, 3)) if feature.cuts and feature.small and not nailed and some() < 0.2 else 50,
        some() < 0.5,
        (chance.choice((1, 2, 2, 3, 5)), chance.choice((1, 1, 2, 9))) if feature.snapshots else (0, 0),
        chance.choice((1, 1, 2)) if nailed else 3,
    )


def _read_entry(short: str) -> tuple[str, str, list[str]]:
    """Of which account an entry is, what happens, and whom it names."""
    account, _, told = short.rpartition(":")
    what, _, inside = told.partition("@")[0].partition("#")[0].rstrip(")").partition("(")
    return account, what, inside.split(",")


def _agreeing(messages: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The messages without the entries that contradict earlier ones: each recording is of one thing, by one source.

    A conference has one name.
    """
    of: dict[str, str] = {}
    left = []
    for stamp, entries in messages:
        agreeing = []
        for short in entries.split():
            account, what, names = _read_entry(short)
            if what in ("rec", "done", "listed"):
                key, value = names[0], ",".join(names[1:])
            elif what == "step":
                key, value = short, short
            elif what in ("name", "end") or (what == "join" and len(names) == 3):
                key, value = names[-2], names[-1]
            else:
                key, value = short, short
            if of.setdefault(f"{account}:{key}", value) == value:
                agreeing.append(short)
        left.append((stamp, " ".join(agreeing) or "tick()"))
    return left


_KINDS = (
    *("rec", "rec", "done", "join", "join", "name", "name", "twiml", "api", "end", "leave", "listed", "call"),
    *("request", "insight", "studio", "tick", "tick", "joined", "flow", "flex", "amd", "junk", "verb"),
    *("task", "step"),
)
_ALONE = ("join", "leave", "call", "call", "twiml", "rec", "tick")
_STEPPING = ("join", "leave", "rec", "studio", "step", "step", "flow", "tick")
_MOVING = ("join", "joined", "join", "leave", "rec", "task", "tick")


_NAMING = ("name", "name", "joined", "join", "end", "twiml", "twiml", "request", "rec", "call", "tick")


def _draw_entry(
    chance: random.Random,
    accounts: Sequence[str],
    kinds: Sequence[str],
    calls: str,
    conferences: str,
    recordings: str,
    names: Sequence[str],
    occurrences: Sequence[str],
) -> str:
    kind = chance.choice(kinds)
    call, conference, name = chance.choice(calls), chance.choice(conferences), chance.choice(names)
    recording = chance.choice(recordings)
    of = call if chance.random() < 0.5 else conference
    of_task = f",{conference}"
    text = {
        "rec": f"rec({recording},{of})",
        "verb": f"rec({recording},{call},DialVerb)",
        "done": f"done({recording},{of})",
        "listed": f"listed({recording},{of})",
        "join": f"join({call},{conference})",
        "joined": f"join({call},{conference},{name})",
        "leave": f"leave({call},{conference})",
        "name": f"name({conference},{name})",
        "end": f"end({conference},{name})",
        "twiml": f"twiml({call},{name})",
        "api": f"api({conference})",
        "request": f"request({call},{name})",
        "call": "call(a,b)" if len(calls) == 2 and chance.random() < 0.3 else f"call({call})",
        "insight": f"insight({conference})",
        "task": f"task({chance.choice('vw')},{call}{chance.choice(('', of_task, of_task + ',' + calls[0]))})",
        "step": chance.choice(("step(begin,record)", "step(record,say)", "step(say,)", "step(begin,say)")),
        "studio": f"studio({call})",
        "flow": "flow()",
        "flex": chance.choice(("flex(on)@2", "flex(off)@4")),
        "tick": "tick()",
        "amd": "amd()",
        "junk": "junk()",
    }[kind]
    if kind in ("tick", "flow", "flex", "amd", "junk"):
        return text
    account = chance.choice(accounts)
    again = f"#{chance.randint(1, 2)}" if chance.random() < 0.25 else ""
    return ("" if account == "A" else f"{account}:") + text + chance.choice(occurrences) + again


def _draw_crash(chance: random.Random, after: int, *, zombies: bool, losses: bool) -> Crash:
    some = chance.random
    low = after + chance.randint(-5, 1) if losses and some() < 0.8 else None
    zombie = chance.choice((0, 0, 1, 2, 4)) if zombies and some() < 0.7 else None
    return Crash(
        after,
        unwritten=chance.choice((0, 0, 1, 1, 2, 3)),
        back=chance.choice((0, 0, 0, 1, 2, 3)),
        stale=chance.choice((0, 0, 0, 1, 2, 4)),
        zombie=zombie,
        arrives=0 if zombie is None else chance.choice((-1, 0, 1, 2, 3, 5, 8, 13)),
        low=None if low is None or low <= 0 else low,
        unread=chance.choice((0, 0, 1, 3)),
    )


# --------------------------------------------------------------------------- what is run: our rules, or refuted ones


class Rules:
    """The rules as they are built. A refuted variant overrides one method, with a value or a small subclass."""

    name = "as built"
    refuted_by = ""

    def pipeline(self, tuning: Tuning, policy: Policy, settings: AccountSettings, checkpoint: Checkpoint) -> Pipeline:
        """The fold of a process that takes over at ``checkpoint``."""
        return Pipeline(tuning, policy, settings, partition=0, checkpoint=checkpoint)

    def ledger(self, fetch: Callable[[str, int], bytes] | None) -> Ledger:
        """What it knows of the verdict topic."""
        return Ledger(fetch)

    def policy(self, document: PolicyDocument) -> Policy:
        """The policy it judges by."""
        return compile_policy(document, document.name.encode())

    def committed(self, safe: Checkpoint, now: Checkpoint) -> Checkpoint:
        """What is committed of the last checkpoint whose effects are delivered, and of the present one."""
        return safe

    def places(self, sent: list[int], delivered: list[int]) -> bool:
        """Whether a snapshot of the ledger is put in place: what had been sent by its end is to have arrived."""
        return all(map(_at_most, sent, delivered))

    def reads(self, known: Verdict | None, other: Verdict) -> bool:
        """Whether a reader of the verdict topic takes ``other``, which comes later in it, for ``known``."""
        return known is None or (other.at, other.final) >= (known.at, known.final)


AS_BUILT = Rules()
_policies: dict[tuple[str, int], Policy] = {}


def policy_of(rules: Rules, number: int) -> Policy:
    """One of the policies, compiled once."""
    found = _policies.get((rules.name, number))
    if found is None:
        found = _policies[rules.name, number] = rules.policy(POLICIES[number])
    return found


# What a verdict says, apart from when it was found out, how often it was told, and what was told before.
_BOOKKEEPING = frozenset({"revision", "at", "decided_at", "backlog", "history", "disallowed_since", "alert"})
_SAID = tuple(field for field in Verdict.__struct_fields__ if field not in _BOOKKEEPING)
Said = tuple[Any, ...]
Topic = list[tuple[str, bytes | None]]


def said(verdict: Verdict) -> Said:
    """The content of a verdict: what two runs must agree on."""
    return tuple(getattr(verdict, field) for field in _SAID)


def readers_map(topic: Topic, rules: Rules = AS_BUILT) -> dict[str, Verdict]:
    """What a process that follows the verdict topic holds for true."""
    known: dict[str, Verdict] = {}
    for key, value in topic:
        if value is None:
            known.pop(key, None)
        else:
            verdict = decode_verdict(value)
            if rules.reads(known.get(key), verdict):
                known[key] = verdict
    return known


def told_of(topic: Topic) -> dict[str, list[Said | None]]:
    """What was told of each key, one after the other; None is a tombstone."""
    told: dict[str, list[Said | None]] = {}
    for key, value in topic:
        told.setdefault(key, []).append(None if value is None else said(decode_verdict(value)))
    return told


def state_of(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    """All that is open, in a form that does not depend on the order in which conversations were joined."""
    return [*_whereabouts(pipeline), *_open_now(pipeline)]


def _whereabouts(pipeline: Pipeline) -> Iterator[tuple[Any, ...]]:
    """Where calls have been seen within the last window, as far as it can matter."""
    window, nailed = pipeline.window, pipeline.window.nailed
    after = (pipeline.log_time_ms or 0) // nailed.marks.bucket_ms - nailed.marks.window
    for sid, account in sorted(window.accounts.items()):
        noted: Any = account.guests.notes.calls if account.guests is not None else {}
        for call in sorted({*noted, *(member for member in account.index if member.startswith("CA"))}):
            seen = dict(noted[call].seen) if call in noted else {}
            for kept in () if call in noted else account.index[call].read_evidence():
                for fact in kept.facts:
                    if isinstance(fact, ParticipantFact) and fact.call == call:
                        for _, bucket in nailed.arrivals(account.index[call], kept):
                            seen[fact.conference] = max(bucket, seen.get(fact.conference, bucket))
            latest = sorted(((bucket, at) for at, bucket in seen.items() if bucket > after), reverse=True)
            if latest:
                yield sid, call, tuple(latest[: nailed.conferences_max + 1])


def _beside(conversation: Conversation) -> tuple[Any, ...]:
    """What a conversation sees through its guests and has not itself."""
    view = conversation.view()
    if view is None:
        return ((), (), (), ())
    own, properties = conversation.read_evidence(), conversation.read_properties()
    own_sights = {
        (fact.call, kept.occurred_ms if fact.at_ms is None else fact.at_ms, fact.phase, fact.conference)
        for kept in own
        for fact in kept.facts
        if isinstance(fact, ParticipantFact)
    }
    sights = {(call, each.at_ms, each.phase, each.conference) for call in view.guests for each in view.sights(call)}
    rooms = {each.conference: view.room(each.conference) for call in view.guests for each in view.sights(call)}
    return (
        tuple(sorted(map(msgspec.json.encode, each_once(own, read_noted(view))[len(own) :]))),
        tuple(sorted(map(msgspec.json.encode, set(read_noted_properties(view)).difference(properties)))),
        tuple(sorted(sights - own_sights)),
        tuple(
            sorted(
                (at, tuple(sorted(room[0])), room[1])
                for at, room in rooms.items()
                if room is not None and at not in conversation.members
            )
        ),
    )


def _open_now(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    return sorted(
        (
            conversation.account,
            tuple(sorted(conversation.members)),
            (conversation.birth.offset, conversation.birth.arrived_ms),
            conversation.last_ms,
            conversation.truncated,
            tuple(sorted(map(msgspec.json.encode, conversation.read_evidence()))),
            tuple(sorted(map(msgspec.json.encode, conversation.read_properties()))),
            tuple(sorted(map(bytes, zip(*[iter(conversation.all_ids())] * DIGEST_BYTES, strict=True)))),
            tuple(sorted((seen.sid, seen.offset, seen.arrived_ms) for seen in conversation.recordings)),
            tuple(sorted((seen.sid, seen.offset) for seen in conversation.suspects)),
            tuple(sorted(conversation.claims or ())),
            tuple(sorted((room.name, room.conference) for room in conversation.rooms)),
            _beside(conversation),
        )
        for conversation in pipeline.window.conversations()
    )


def derived_of(pipeline: Pipeline) -> dict[str, Any]:
    """What a window holds beside its conversations, and follows from them; and what the fold knows of the log."""
    window = pipeline.window
    log_time_ms = pipeline.log_time_ms or 0
    filed = [c for bucket in window._buckets.values() for c in bucket] + [c for *_, c in window._due]
    return {
        "log": (pipeline.next_offset, pipeline.log_time_ms, pipeline.stamped_before_ms, window.cut),
        "counts": (window.open_conversations, window.open_recordings),
        "from": window.rebuild_from(),
        "births": sorted(
            (b.offset, b.arrived_ms, b.beside_offset, b.beside_ms) for b in (*window.births, *window.young) if b.open
        ),
        "by name": sorted({(at.beside_offset, at.beside_ms, at.offset) for at in window._by_name if at.open}),
        "graces": [
            grace
            for grace in window._graces
            if grace[1] in window.accounts and grace[2] in window.accounts[grace[1]].index
        ],
        "not filed": len(window.conversations()) - len({id(c) for c in filed if c.open}),
        "due in time": all(c.last_ms + window.window_ms >= min(window.due_ms, log_time_ms + 1) for c in filed),
        "books": {
            (account, name): (
                book.callers,
                [(room.name, room.conference, room.first_ms, room.end_ms) for room in book.rooms],
                [*(book.claims or ())],
            )
            for account, known in window.accounts.items()
            for name in known.books
            for book in [book_of(known, name)]
        },
        "calls": calls_of(window),
    }


def calls_of(window: Window) -> object:
    """All that a window knows of calls that go from conference to conference."""
    nailed = window.nailed
    known = {sid: noted_of(guests) for sid, guests in nailed.accounts.items()}
    return _plain([nailed.times(), nailed.stamp, known])


def noted_of(guests: Guests) -> list[dict[str, Any]]:
    """What is noted of an account's calls, of conferences and of executions, as it is at the moment."""
    notes = guests.notes
    return [{sid: records[sid] for sid in records} for records in (notes.calls, notes.rooms, notes.executions)]


def _plain(value: object) -> object:
    """A value that can be compared, of structs that cannot."""
    if isinstance(value, msgspec.Struct):
        return [_plain(getattr(value, field)) for field in value.__struct_fields__]
    if isinstance(value, dict):
        return [(key, _plain(each)) for key, each in value.items()]
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


class Standing(NamedTuple):
    """A recording whose conversation is open, and what the state says of it at an instant."""

    conversation: Conversation
    attribution: Attribution
    subject: Subject
    outcome: str | None
    rule: str | None
    decided: bool  # By the policy's rules, not by ``when_open``.


def standings(pipeline: Pipeline, log_time_ms: int) -> Iterator[Standing]:
    """What the state says of every open recording: judged anew, whatever has been told."""
    background = Background(pipeline.settings, (), pipeline.tuning.session_max_ms)
    for conversation in pipeline.window.conversations():
        evidence = Evidence(conversation)
        for seen in conversation.recordings:
            recording = seen.sid
            if recording not in evidence.recordings:
                continue
            over = log_time_ms >= seen.arrived_ms + pipeline.tuning.grace_ms
            attribution = attribute(evidence, recording, background, grace_over=over)
            judgement = pipeline.judge.judgement(conversation, evidence, attribution, grace_over=over)
            subject = pipeline.judge.subject(conversation, evidence, attribution, grace_over=over)
            outcome, rule = (None, None) if judgement is None else (judgement.outcome, judgement.rule)
            yield Standing(conversation, attribution, subject, outcome, rule, rule not in (None, "when_open"))


def setting_in(short: str) -> tuple[str, FlexSetting | FlowSetting]:
    """The account setting a short form tells, and of which account."""
    event = decode(entry(short))[0]
    assert isinstance(event, Event)
    assert isinstance(event.setting, FlexSetting | FlowSetting)
    return event.account, event.setting


class Straight:
    """The run that nothing interrupts, over the whole log and its closing stretch."""

    def __init__(
        self,
        history: History,
        rules: Rules = AS_BUILT,
        *,
        snapshots: frozenset[int] = frozenset(),
        commits: bool = False,
    ) -> None:
        self.topic: Topic = []
        self.told: list[Sequence[Told]] = []
        self.states: dict[int, tuple[int | None, list[tuple[Any, ...]]]] = {}
        self.final_at: dict[str, int] = {}
        start = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
        settings = AccountSettings()
        pipeline = rules.pipeline(history.tuning(), policy_of(rules, history.policy), settings, start)
        pipeline.open(rules.ledger(None))
        self.pipeline = pipeline
        for offset, (stamp, value) in enumerate(history.log()):
            if offset in snapshots:
                self.states[offset] = (pipeline.log_time_ms, state_of(pipeline))
            for change in history.changes:
                if change.before == offset:
                    apply(change, pipeline, rules)
            if commits:
                pipeline.checkpoint()
                pipeline.take_counts()
            told = pipeline.feed(offset, stamp, value)
            self.told.append(told)
            for each in told:
                if isinstance(each, Publish):
                    self.topic.append((each.key, None if each.verdict is None else encode_verdict(each.verdict)))
                    if each.verdict is not None and each.verdict.final:
                        self.final_at.setdefault(each.key, offset)


def known_to(ledger: Ledger) -> tuple[dict[str, Any], set[tuple[int, str]], set[str]]:
    """All that a ledger knows, but where a verdict lies and what it was found by; when final ones end; and which of
    them are asked for their end when that is due.
    """
    known: dict[str, Any] = {}
    assert not ledger.unplaced()
    for number in range(PARTS):
        whole, settled = ledger.dump_part(number, 1 << 62)
        for key, entry in whole:
            known[key] = entry[8:20], entry[20] & ~LATER, ledger.account_if_open(key), ledger.last(key)
        for at in range(0, len(settled), SETTLED_BYTES):
            head = settled[at + 25 : at + SETTLED_BYTES]
            known[settled[at : at + 17].hex()] = head[:-1], head[-1] & ~LATER
    hours, due = ledger.dump_ends()
    endings = [(hour, *ending) for hour, packed in hours.items() for ending in struct.iter_unpack("<I2s16s", packed)]
    ends = {(hour * HOUR_MS + rest_ms, kind.decode() + digits.hex()) for hour, rest_ms, kind, digits in endings}
    finals = [(end_ms, key) for end_ms, key in ends.union(due) if ledger.is_final(key)]
    kept = {(end_ms, key): ledger.dump_placed(key, 1 << 62)[1] for end_ms, key in finals}
    return known, set(kept), {key for (_, key), entry in kept.items() if entry is not None and entry[20] & LATER}


def apply(change: Change, pipeline: Pipeline, rules: Rules) -> None:
    """Let a running process see a change."""
    what, _, number = change.what.partition(":")
    if what == "policy":
        pipeline.change_policy(policy_of(rules, int(number)))
    else:
        account, setting = setting_in(change.what)
        if pipeline.settings.observe(setting):
            pipeline.change_settings(account)


class _Write(NamedTuple):
    """A verdict on its way to its topic (``verdict`` None: a tombstone), or bytes written back."""

    key: str
    value: bytes | None
    at: tuple[int, int] | None


class Taken(NamedTuple):
    """A snapshot, and the state it was taken of."""

    offset: int
    chunks: list[bytes]
    state: tuple[list[tuple[Any, ...]], dict[str, Any]]


class _Owner:
    """A process that has the partition: its fold, its ledger, and what of it is still on its way."""

    pipeline: Pipeline

    def __init__(self, broker: Broker, ledger: Ledger, read_to: int) -> None:
        self.broker = broker
        self.ledger = ledger
        self.verdicts: list[_Write] = []
        self.others: list[tuple[int, SettingSeen | SetAside]] = []
        self.read_to = read_to
        self.backs: dict[str, bytes] = {}
        self.own: set[int] = set()
        self.sent = [0, 0]
        self.delivered = [0, 0]
        self.candidates: list[tuple[list[int], Checkpoint]] = []
        self.saving: Saving | None = None
        self._taken: Taken | None = None
        self.saved: list[Taken] = []
        self._ledger_saving: LedgerSaving | None = None
        self._ledger_chunks: list[bytes] = []
        self._ledgers_saved: list[tuple[list[int], list[bytes]]] = []

    def save(self, every: int, conversations: int) -> None:
        """After a message: go on with the snapshot that is being taken, or begin one if it is time."""
        if self.saving is not None:
            assert self._taken is not None
            done = self.saving.walk(conversations)
            self._taken.chunks.extend(self.saving.take())
            if done:
                self.saved += [] if self.saving.broken else [self._taken]
                self.saving = None
        if self.saving is None and self.pipeline.next_offset % every == 0:
            self.saving = self.pipeline.save(FINGERPRINT)
            state = (state_of(self.pipeline), derived_of(self.pipeline))
            self._taken = Taken(self.pipeline.next_offset, [], state)

    def save_ledger(self, every: int, conversations: int) -> None:
        """The same with a snapshot of the ledger."""
        if self._ledger_saving is not None:
            done = [self._ledger_saving.walk(conversations) for _ in range(PARTS * conversations // 3)][-1]
            self._ledger_chunks += self._ledger_saving.take()
            if done:
                self._ledger_saving = None
                self._ledgers_saved.append((list(self.sent), self._ledger_chunks))
        if self._ledger_saving is None and self.pipeline.next_offset % every == 0:
            self._ledger_saving, self._ledger_chunks = LedgerSaving(self.ledger, FINGERPRINT, self.read_to), []

    def ledger_saved(self, rules: Rules) -> list[bytes]:
        """The last snapshot of the ledger that was put in place."""
        placed = [chunks for fence, chunks in self._ledgers_saved if rules.places(fence, self.delivered)]
        return placed[-1] if placed else []

    def follow(self) -> None:
        """Read what others have written to the verdict topic since."""
        topic = self.broker.topic
        while self.read_to < len(topic):
            place = self.read_to
            self.read_to += 1
            if place not in self.own:
                self._take_in(*topic[place], place)
        if self.ledger.owned:
            self.write_back()

    def _take_in(self, key: str, value: bytes | None, place: int) -> None:
        back = self.ledger.take_in(key, None if value is None else decode_verdict(value), place)
        if back is None:
            self.backs.pop(key, None)
        else:
            self.backs[key] = back

    def write_back(self) -> None:
        """Put what holds over the lesser that was read: while rebuilding, only what is lesser to the end."""
        for key, back in self.backs.items():
            self.verdicts.append(_Write(key, back, None))
            self.sent[0] += 1
        self.backs.clear()

    def feed(self, offset: int) -> Sequence[Told]:
        """Feed one message, and queue what it tells."""
        stamp, value = self.broker.log[offset]
        told = self.pipeline.feed(offset, stamp, value)
        for each in told:
            if isinstance(each, Publish):
                verdict = each.verdict
                written = None if verdict is None else encode_verdict(verdict)
                self.verdicts.append(_Write(each.key, written, None if verdict is None else verdict.at))
                self.sent[0] += 1
            elif not isinstance(each, Stands):
                assert not isinstance(each, NotJudged), each
                self.others.append((offset, each))
                self.sent[1] += 1
        return told

    def deliver(self, keep: int) -> None:
        """Let all that is on its way arrive, but the last ``keep`` of each topic."""
        while len(self.verdicts) > keep:
            write = self.verdicts.pop(0)
            self.own.add(len(self.broker.topic))
            self.broker.topic.append((write.key, write.value))
            self.delivered[0] += 1
            if write.at is not None:
                place = len(self.broker.topic) - 1
                self.ledger.placed(write.key, write.at, place)
                if self.ledger.stands_in_front(write.key, write.at, place):
                    self._take_in(write.key, write.value, place)
                    self.write_back()
            elif write.value is not None:
                self._take_in(write.key, write.value, len(self.broker.topic) - 1)
                self.write_back()
        while len(self.others) > keep:
            offset, each = self.others.pop(0)
            if isinstance(each, SettingSeen):
                self.broker.settings.append(each.data)
            else:
                self.broker.quarantine.add((offset, each.index))
            self.delivered[1] += 1

    def commit(self, crash: Crash, rules: Rules) -> Checkpoint | None:
        """The checkpoint that holds when this process has died, None: it has committed nothing."""
        safe = [at for at, (fence, _) in enumerate(self.candidates) if all(map(_at_most, fence, self.delivered))]
        if len(safe) <= crash.back:
            return None
        place = safe[-1 - crash.back]
        checkpoint = rules.committed(self.candidates[place][1], self.candidates[-1][1])
        older = self.candidates[max(0, place - crash.stale)][1]
        lower = older.replay_from < checkpoint.replay_from and _opens(older) <= _opens(checkpoint)
        if crash.stale and lower and not self._cut_between(older, place):
            checkpoint = msgspec.structs.replace(
                checkpoint,
                replay_from=older.replay_from,
                log_time_ms=older.log_time_ms,
                open_from=older.open_from,
            )
        return checkpoint

    def _cut_between(self, older: Checkpoint, place: int) -> bool:
        """Whether a cut lies above an older R; the cut then is the newest, which R must not lie below."""
        return any(cp.cut is not None and cp.cut.offset >= older.replay_from for _, cp in self.candidates[: place + 1])


def _opens(checkpoint: Checkpoint) -> int:
    return checkpoint.replay_from if checkpoint.open_from is None else checkpoint.open_from


def _at_most(one: int, other: int) -> bool:
    return one <= other


class Broker:
    """The log, the commits and the verdict topic, and what there is to ask about the log (``checkpoint.Log``)."""

    def __init__(self, log: list[tuple[int, bytes]]) -> None:
        self.log = log
        self.low = 0
        self.high = 0  # The offset the next message will get; the rest of the log is still to come.
        self.topic: Topic = []
        self.settings: list[bytes] = []
        self.quarantine: set[tuple[int, int]] = set()
        start = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
        self.committed = Committed(0, encode_metadata(start, FINGERPRINT))

    def first_at(self, timestamp_ms: int) -> int | None:
        """The first retained offset stamped at or after an instant."""
        found = [at for at in range(self.low, self.high) if self.log[at][0] >= timestamp_ms]
        return found[0] if found else self.high

    def stamp(self, offset: int) -> int | None:
        """The stamp of the first retained message at or after ``offset``."""
        return self.log[max(offset, self.low)][0] if offset < self.high else None

    def fetch(self, key: str, place: int) -> bytes:
        """One verdict by its place; what a ledger dropped, it reads back so."""
        found, value = self.topic[place]
        assert found == key
        assert value is not None
        return value


class Takeover(NamedTuple):
    """What a takeover found: where it began, the state it rebuilt, which finals were published by then."""

    offset: int
    log_time_ms: int | None
    state: list[tuple[Any, ...]]
    finals: frozenset[str]
    known_changes: int


class Interrupted:
    """The run in which processes die, over the same log. ``faults`` is what was seen to be wrong on the way."""

    def __init__(self, history: History, rules: Rules = AS_BUILT) -> None:
        self.history = history
        self.rules = rules
        self.broker = Broker(history.log())
        self.takeovers: list[Takeover] = []
        self.faults: dict[str, str] = {}
        self.blind_until_ms: int | None = None
        self.ended_by_zombies: set[str] = set()  # By a policy or settings that no longer held.
        self._top = -1  # The last message that anybody has seen.
        self._disk: Taken | None = None
        self._ledger_disk: list[bytes] = []
        self.loaded = 0
        self.ledgers_loaded = 0
        # Where the conversation began that each recording was last in, and whether the loss before it was held over.
        self.births: dict[str, tuple[int, bool]] = {}
        self._late: list[tuple[int, list[_Write]]] = []  # What zombies have still on its way, and when it arrives.
        for crash in history.crashes:
            self._live(crash)
        self._live(None)
        self.topic = self.broker.topic

    def _live(self, crash: Crash | None) -> None:
        """One process, from takeover to its death or the end of the log."""
        owner = self._take_over()
        end = len(self.broker.log)
        last = end - 1 if crash is None else min(crash.after, end - 1)
        for fed, offset in enumerate(range(owner.pipeline.committed, last + 1)):
            self._arrive(fed, owner, everything=crash is None and offset >= len(self.history.messages))
            for change in self.history.changes:
                if change.before == offset and change.before > self._top:
                    apply(change, owner.pipeline, self.rules)
            self._top = max(self._top, offset)
            told = owner.feed(offset)
            owner.deliver(0 if crash is None else crash.unwritten)
            owner.candidates.append((list(owner.sent), owner.pipeline.checkpoint()))
            self._look(owner, offset, told)
            if any(self.history.snapshots):
                owner.save(*self.history.snapshots)
                if self.history.drop_finals:
                    owner.save_ledger(*self.history.snapshots)
        if crash is None:
            owner.deliver(0)
            return
        checkpoint = owner.commit(crash, self.rules)
        if checkpoint is not None:
            self.broker.committed = Committed(checkpoint.offset, encode_metadata(checkpoint, FINGERPRINT))
            for taken in owner.saved:
                if taken.offset <= checkpoint.offset:
                    self._disk = taken
        self._ledger_disk = owner.ledger_saved(self.rules) or self._ledger_disk
        if crash.zombie is not None:
            for offset in range(last + 1, min(last + 1 + crash.zombie, len(self.history.messages))):
                if offset >= owner.pipeline.next_offset:
                    self._top = max(self._top, offset)
                    told = owner.feed(offset)
                    if any(last < change.before <= offset for change in self.history.changes):
                        self.ended_by_zombies |= {each.key for each in told if isinstance(each, Publish)}
            self._late.append((crash.arrives, owner.verdicts))
        if crash.low is not None:
            self.broker.low = max(self.broker.low, min(crash.low, self._top + 1))
        self.broker.high = min(self._top + 1 + crash.unread, end)

    def _take_over(self) -> _Owner:
        history, broker, rules = self.history, self.broker, self.rules
        tuning = history.tuning()
        resumed = resume(
            broker.committed,
            broker,
            fingerprint=FINGERPRINT,
            start_at="earliest",
            window_ms=tuning.window_ms,
            age_max_ms=tuning.age_max_ms,
            now_ms=LOG_BASE_MS,
        )
        self._arrive(0, None)
        ledger = rules.ledger(broker.fetch if history.drop_finals else None)
        policy, settings, known = self._known(rules)
        owner = _Owner(broker, ledger, self._load_ledger(ledger))
        owner.follow()
        if ledger.restored:
            self._compare(ledger)
        checkpoint = resumed.in_generation(ledger.greatest_generation())
        if resumed.blind is not None and checkpoint.cut is not None:
            self.blind_until_ms = max(self.blind_until_ms or 0, checkpoint.cut.until_ms)
        owner.pipeline = pipeline = rules.pipeline(tuning, policy, settings, checkpoint)
        begin = checkpoint.replay_from
        if self._disk is not None and self._load(pipeline, checkpoint, self._disk):
            begin = pipeline.next_offset
        elif begin > broker.low:
            pipeline.prime(broker.log[begin - 1][0])
        for offset in range(begin, checkpoint.offset):
            if owner.feed(offset):
                self.faults.setdefault("gate", f"the replay of {offset} was not silent")
        self._arrive(-1, None)
        owner.follow()
        finals = frozenset(key for key, verdict in readers_map(broker.topic, rules).items() if verdict.final)
        # Where nothing is left to read it is that of R, which is further back if more is known of what was before.
        log_time_ms = pipeline.log_time_ms if broker.low < checkpoint.offset else None
        self.takeovers.append(Takeover(checkpoint.offset, log_time_ms, state_of(pipeline), finals, known))
        pipeline.open(ledger)
        owner.write_back()
        return owner

    def _load_ledger(self, ledger: Ledger) -> int:
        """Begin with the snapshot of the ledger on the disk, if there is one; from where on the topic is to be read."""
        if not self._ledger_disk:
            return 0
        header, *rest = chunks(io.BytesIO(b"".join(self._ledger_disk)).read)
        loading = LedgerLoading(ledger, header, FINGERPRINT)
        for chunk in rest:
            loading.feed(chunk)
        assert loading.done
        self.ledgers_loaded += 1
        return loading.offset

    def _compare(self, ledger: Ledger) -> None:
        """A ledger that began with a snapshot is to know what one knows that has read the whole topic."""
        other = _Owner(self.broker, self.rules.ledger(self.broker.fetch), 0)
        other.follow()
        (here, here_ends, later), (there, there_ends, later_there) = known_to(ledger), known_to(other.ledger)
        differently = {key for _, key in here_ends ^ there_ends} - later - later_there
        if here != there or differently:
            self.faults.setdefault("snapshot", f"of the ledger: {here} instead of {there}, ends of {differently}")

    def _load(self, pipeline: Pipeline, checkpoint: Checkpoint, taken: Taken) -> bool:
        """Begin with the snapshot on the disk, if it fits."""
        header, *rest = chunks(io.BytesIO(b"".join(taken.chunks)).read)
        try:
            loading = pipeline.load(header, FINGERPRINT, checkpoint)
        except Unusable:
            return False
        for chunk in rest:
            loading.feed(chunk)
        self.loaded += 1
        state, derived = state_of(pipeline), derived_of(pipeline)
        if state != taken.state[0]:
            self.faults.setdefault("snapshot", f"loaded at {taken.offset}: the open conversations differ")
        for what, was in taken.state[1].items():
            if derived[what] != was:
                self.faults.setdefault(
                    "snapshot", f"loaded at {taken.offset}: {what}: {derived[what]} instead of {was}"
                )
        return True

    def _known(self, rules: Rules) -> tuple[Policy, AccountSettings, int]:
        """What a process knows that begins now: the present policy, and all settings told so far."""
        policy = policy_of(rules, self.history.policy)
        settings = AccountSettings()
        for data in self.broker.settings:
            event = decode(data)[0]
            assert isinstance(event, Event)
            assert event.setting is not None
            settings.observe(event.setting)
        known = 0
        for change in self.history.changes:
            if change.before <= self._top:
                known += 1
                what, _, number = change.what.partition(":")
                if what == "policy":
                    policy = policy_of(rules, int(number))
                else:
                    settings.observe(setting_in(change.what)[1])
        return policy, settings, known

    def _arrive(self, fed: int, owner: _Owner | None, *, everything: bool = False) -> None:
        """Let what zombies had on its way arrive, when its time has come."""
        if owner is None:
            due = [writes for arrives, writes in self._late if arrives == fed]
            self._late = [late for late in self._late if late[0] != fed]
        else:
            due = [writes for arrives, writes in self._late if everything or arrives <= fed]
            self._late = [] if everything else [late for late in self._late if late[0] > fed]
        for writes in due:
            self.broker.topic += [(write.key, write.value) for write in writes]
        if owner is not None:
            owner.follow()

    def _look(self, owner: _Owner, offset: int, told: Sequence[Told]) -> None:
        """Look at what one message told, and whether what is published is what the state says."""
        fault = more_than_one(told)
        if fault:
            self.faults.setdefault("P7", f"message {offset}: {fault}")
        pipeline = owner.pipeline
        assert pipeline.gate is not None
        if offset < pipeline.gate:
            return
        for conversation in pipeline.window.conversations():
            birth = conversation.birth
            until_ms = self.blind_until_ms
            whole = until_ms is not None and birth.arrived_ms >= until_ms
            for recording in [seen.sid for seen in conversation.recordings]:
                if self.births.get(recording, (-1, False))[0] != birth.offset:
                    self.births[recording] = (birth.offset, whole)
        fault = unlike_state(pipeline, owner.ledger, offset)
        if fault and not pipeline.sweeping:
            self.faults.setdefault("P3", f"message {offset}: {fault}")


def more_than_one(told: Sequence[Told]) -> str | None:
    """What is wrong if one message told more of a recording than a final verdict and its late change."""
    final: dict[str, bool] = {}
    for each in told:
        if isinstance(each, Publish) and each.verdict is not None:
            if not final.get(each.key, True):
                return f"{each.key} was told twice"
            final[each.key] = each.verdict.final
    return None


def unlike_state(pipeline: Pipeline, ledger: Ledger, offset: int) -> str | None:
    """Where what is published differs from what the state says; None where nothing does."""
    assert pipeline.log_time_ms is not None
    at = (pipeline.generation, offset)
    for standing in standings(pipeline, pipeline.log_time_ms):
        key = standing.attribution.recording_sid
        if standing.outcome is None or ledger.ahead(key, at):
            continue
        published = ledger.published(key)
        if published is None:
            return f"{key} is {standing.outcome}, and nothing is published"
        if published.final:
            continue
        if published.outcome == "disallowed" and Evidence(standing.conversation).first_offset > published.rests_from:
            continue
        seen = (published.outcome, published.rule, published.cause, published.recording_status)
        meant = (standing.outcome, standing.rule, standing.attribution.cause, standing.attribution.status)
        if seen != meant:
            return f"{key} is {meant}, and published is {seen}"
    return None


# --------------------------------------------------------------------------- the properties

Check = Callable[[History, Rules], "str | None"]


def judged_otherwise(history: History, run: Interrupted, straight: Straight) -> set[str]:
    """The recordings that closed, untold, before a change, and were judged after it: the two runs may differ there."""
    changes = [change.before for change in history.changes]
    in_log = [at + 1 for at, (_, entries) in enumerate(history.messages) if "flex(" in entries or "flow(" in entries]
    return {
        key
        for takeover in run.takeovers
        for key, closed in straight.final_at.items()
        if key not in takeover.finals
        and (any(closed < at for at in changes[: takeover.known_changes]) or any(closed < at for at in in_log))
    } | run.ended_by_zombies


def same_final_map(history: History, rules: Rules) -> str | None:
    """P1: the final map of the interrupted run is that of the uninterrupted one."""
    run, straight = Interrupted(history, rules), Straight(history, rules)
    ours, theirs = readers_map(run.topic, rules), readers_map(straight.topic, rules)
    apart = judged_otherwise(history, run, straight)
    for key in sorted({*ours, *theirs} - apart):
        mine, other = ours.get(key), theirs.get(key)
        if mine is None or other is None:
            return f"{key}: only one of the runs has a verdict"
        if said(mine) != said(other):
            return f"{key}: {unlike(mine, other)}"
    return None


def unlike(mine: Verdict, other: Verdict) -> str:
    """Which fields of two verdicts differ, and how."""
    pairs = [(field, getattr(mine, field), getattr(other, field)) for field in _SAID]
    return ", ".join(f"{field} {one!r} instead of {two!r}" for field, one, two in pairs if one != two)


def told_in_order(history: History, rules: Rules) -> str | None:
    """P2: what the interrupted run tells of a recording is a subsequence of the other's, and nothing is told twice."""
    run, straight = Interrupted(history, rules), Straight(history, rules)
    whole, apart = told_of(straight.topic), judged_otherwise(history, run, straight)
    for key, told in told_of(run.topic).items():
        if None in told:
            continue  # A tombstone holds no position: a suspicion withdrawn may be told, and withdrawn, once more.
        for one, two in pairwise(told):
            if one == two:
                return f"{key}: told again, unchanged"
        rest = iter(whole.get(key, []))
        if key not in apart and not all(each in rest for each in told):
            return f"{key}: what was told is no subsequence"
    return None


def quiet_moment(history: History, rules: Rules) -> str | None:
    """P3: after each message that is told, what is published is what the state says."""
    return Interrupted(history, rules).faults.get("P3")


def same_state(history: History, rules: Rules) -> str | None:
    """State: the conversations that a rebuild leaves open are those of the uninterrupted run."""
    run = Interrupted(history, rules)
    straight = Straight(history, rules, snapshots=frozenset(takeover.offset for takeover in run.takeovers))
    for takeover in run.takeovers:
        log_time_ms, state = straight.states[takeover.offset]
        if takeover.state != state:
            return f"rebuilt at {takeover.offset}: the open conversations differ"
        if takeover.log_time_ms != log_time_ms:
            return f"rebuilt at {takeover.offset}: log time {takeover.log_time_ms} instead of {log_time_ms}"
    return run.faults.get("gate")


def same_from_snapshot(history: History, rules: Rules) -> str | None:
    """P14: a rebuild that begins with a snapshot ends in the state of one that does not, and nothing else is told."""
    run = Interrupted(history, rules)
    other = Interrupted(history._replace(snapshots=(0, 0)), rules)
    if "snapshot" in run.faults:
        return run.faults["snapshot"]
    for mine, theirs in zip(run.takeovers, other.takeovers, strict=True):
        if mine != theirs:
            return f"taken over at {theirs.offset}: the state is another one"
    return None if run.topic == other.topic else "something else is told"


def never_allowed_by_loss(history: History, rules: Rules) -> str | None:
    """P5: what retention took never turns *disallowed* into *allowed*; and in the end every verdict is final.

    Two kinds of recording are left out: those of the known hole, and those that the uninterrupted run had done with
    before the first message that the interrupted one still has of them. But what was told to be *disallowed* on earlier
    evidence is not left out: that is known whatever is lost.
    """
    run, straight = Interrupted(history, rules), Straight(history, rules)
    whole = readers_map(straight.topic, rules)
    for key, verdict in readers_map(run.topic, rules).items():
        if not verdict.final:
            return f"{key}: stays {verdict.outcome}, not final"
        other = whole.get(key)
        if verdict.outcome != "allowed" or other is None or other.outcome != "disallowed":
            continue
        offset, in_hole = run.births.get(key, (0, False))
        earlier = [decode_verdict(value) for name, value in run.topic if name == key and value is not None]
        told = any(each.outcome == "disallowed" and each.rests_from < offset for each in earlier)
        if told or (not in_hole and straight.final_at[key] > offset):
            return f"{key}: allowed by {verdict.rule}, and disallowed by {other.rule} without the loss"
    return None


def batches_change_nothing(history: History, rules: Rules) -> str | None:
    """P6: where a batch ends (a checkpoint is made, counters are taken) plays no part in what is told."""
    one, other = Straight(history, rules), Straight(history, rules, commits=True)
    for offset, (mine, theirs) in enumerate(zip(one.told, other.told, strict=True)):
        if mine != theirs:
            return f"message {offset}: told otherwise where a batch ended before it"
    return None


def told_once(history: History, rules: Rules) -> str | None:
    """P7: one verdict per recording and message (but a final one's late change); ``at`` and revisions only rise.

    And none shows evidence from before it rests.
    """
    run = Interrupted(history, rules)
    if "P7" in run.faults:
        return run.faults["P7"]
    if any(crash.zombie is not None for crash in history.crashes):
        return None
    last: dict[str, Verdict] = {}
    for key, value in run.topic:
        if value is None:
            last.pop(key, None)
            continue
        verdict = decode_verdict(value)
        before = last.get(key)
        if before is not None and verdict.at < before.at:
            return f"{key}: at {verdict.at} after {before.at}"
        if before is not None and verdict.revision <= before.revision:
            return f"{key}: revision {verdict.revision} after {before.revision}"
        shown = [int(one.position.partition(":")[2] or 1 << 60) for one in verdict.evidence]
        if min(shown, default=1 << 60) < verdict.rests_from:
            return f"{key}: rests from {verdict.rests_from}, and shows evidence at {min(shown)}"
        last[key] = verdict
    return None


def all_set_aside(history: History, rules: Rules) -> str | None:
    """Whoever dies when: every malformed entry reaches quarantine, every setting its topic, at least once."""
    run = Interrupted(history, rules)
    junk = {
        (at, index)
        for at, (_, entries) in enumerate(history.messages)
        for index, short in enumerate(entries.split())
        if short == "junk()"
    }
    lost = sorted(junk - run.broker.quarantine)
    if lost:
        return f"the malformed entries {lost} were never set aside"
    settings = sum("flex(" in short or "flow(" in short for _, entries in history.messages for short in entries.split())
    if settings and not run.broker.settings:
        return "no setting was copied"
    return None


def final_sense(topic: Topic) -> dict[str, Said]:
    """The final map without positions and arrivals: what must not depend on how the events arrived."""
    return {key: tuple(getattr(verdict, field) for field in _SENSE) for key, verdict in readers_map(topic).items()}


_SENSE = (
    *("kind", "account_sid", "final", "outcome", "rule", "severity", "cause", "strength", "start_source", "call_sid"),
    *("conference_sid", "recording_status", "started_at", "ended_at", "found_by", "reason", "missing"),
)


def order_plays_no_part(history: History, rules: Rules) -> str | None:
    """The order in which events arrive within a window changes no final verdict.

    But where a conference's name is given to another one while nobody has said that the first is over: whether TwiML
    means the first depends on whether the other was heard of before, and a conversation is joined for good.
    """
    if _passes_a_name_on(history.messages):
        return None
    together = history._replace(messages=tuple((0, entries) for _, entries in history.messages))
    chance = random.Random(repr(history.messages))
    whole = final_sense(Straight(together, rules).topic)
    for _ in range(2):
        shuffled = list(together.messages)
        chance.shuffle(shuffled)
        other = final_sense(Straight(together._replace(messages=tuple(shuffled)), rules).topic)
        if other != whole:
            return f"as {' | '.join(entries for _, entries in shuffled)}: {_first_difference(whole, other)}"
    return None


def _passes_a_name_on(messages: Iterable[tuple[int, str]]) -> bool:
    """Whether two conferences go by one name, of which not both are known to have ended."""
    named: dict[str, set[str]] = {}
    ended: set[str] = set()
    for _, entries in messages:
        for short in entries.split():
            account, what, names = _read_entry(short)
            if what in ("name", "end") or (what == "join" and len(names) == 3):
                named.setdefault(f"{account}:{names[-1]}", set()).add(names[-2])
            if what == "end":
                ended.add(f"{account}:{names[-2]}")
    return any(
        len(rooms) > 1 and not {f"{name.rpartition(':')[0]}:{room}" for room in rooms} <= ended
        for name, rooms in named.items()
    )


def _first_difference(one: dict[str, Said], other: dict[str, Said]) -> str:
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            return f"{key}: {other.get(key)} instead of {one.get(key)}"
    return "nothing"


def moving_changes_nothing(history: History, rules: Rules) -> str | None:
    """Whether a call that moves joins what it meets, or is a guest there, plays no part in any final verdict.

    Within one window, so that all of it can be seen; and not where a policy asks for tasks.
    """
    if history.policy == _OF_QUEUES:
        history = history._replace(policy=0)
    messages = tuple((min(stamp, WINDOW_MS - 1), entries) for stamp, entries in sorted(history.messages))
    within = history._replace(messages=messages, entries_max=50)
    joined = final_sense(Straight(within._replace(conferences_max=1 << 30), rules).topic)
    for most in (1, 2):
        moved = final_sense(Straight(within._replace(conferences_max=most), rules).topic)
        if moved != joined:
            return f"nailed up beyond {most}: {_first_difference(joined, moved)}"
    return None


def duplicates_change_nothing(history: History, rules: Rules) -> str | None:
    """Every message three times: the same final verdicts, and each repeat that has an id is counted as a duplicate."""
    tripled = history._replace(messages=tuple(m for m in history.messages for _ in range(3)))
    one, three = Straight(history, rules), Straight(tripled, rules)
    if final_sense(one.topic) != final_sense(three.topic):
        return _first_difference(final_sense(one.topic), final_sense(three.topic))
    once, thrice = one.pipeline.take_counts(), three.pipeline.take_counts()
    memberless = sum(short == "tick()" for _, entries in history.messages for short in entries.split())
    known = once.entries - once.ignored - once.malformed - memberless - 8  # The closing ticks are 8.
    if thrice.duplicate < once.duplicate + 2 * known:
        return f"{thrice.duplicate} duplicates were counted, {once.duplicate} + twice {known} were sent"
    return None


class _Ungated(Pipeline):
    """Judges every open conversation after every message."""

    def feed(self, *arguments: Any, **more: Any) -> Sequence[Told]:
        self._all_dirty = True
        return super().feed(*arguments, **more)


def gate_changes_nothing(history: History, rules: Rules) -> str | None:
    """Judging only what an event can have changed tells the same as judging everything after every message."""

    class Always(Rules):
        name = "ungated"

        def pipeline(
            self, tuning: Tuning, policy: Policy, settings: AccountSettings, checkpoint: Checkpoint
        ) -> Pipeline:
            return _Ungated(tuning, policy, settings, partition=0, checkpoint=checkpoint)

    gated, always = Straight(history, rules), Straight(history, Always())
    for offset, (one, other) in enumerate(zip(gated.told, always.told, strict=True)):
        mine = [(each.key, each.verdict) for each in one if isinstance(each, Publish)]
        theirs = [(each.key, each.verdict) for each in other if isinstance(each, Publish)]
        if mine != theirs:
            for (key, verdict), (_, meant) in zip(mine, theirs, strict=False):
                if verdict != meant and verdict is not None and meant is not None:
                    return f"message {offset}: {key}: {unlike(verdict, meant)}"
            return f"message {offset}: told {[key for key, _ in mine]} instead of {[key for key, _ in theirs]}"
    return None


def bounds_hold(history: History, rules: Rules) -> str | None:
    """The window never exceeds its bounds, its index is true, and every entry is counted as one thing."""
    tuning = history.tuning()
    start = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
    pipeline = rules.pipeline(tuning, policy_of(rules, history.policy), AccountSettings(), start)
    pipeline.open(rules.ledger(None))
    for offset, (stamp, value) in enumerate(history.log()):
        pipeline.feed(offset, stamp, value)
        fault = _beyond_bounds(pipeline, tuning) or _miscounted(pipeline, value)
        if fault:
            return f"message {offset}: {fault}"
    if pipeline.window.accounts or pipeline.window.open_recordings:
        return "something is open in the end"
    return None


def _beyond_bounds(pipeline: Pipeline, tuning: Tuning) -> str | None:
    window = pipeline.window
    conversations = window.conversations()
    for conversation in conversations:
        kept = conversation.read_evidence()
        others = sum(not any(map(shows_recording, one.facts)) for one in kept)
        if any(max(len(call.notes), len(call.sights)) > tuning.entries_max for call in _noted(window)):
            return "more is noted of a call than may be"
        if len(kept) > tuning.entries_max * RECORDINGS_KEPT_FACTOR or others > tuning.entries_max:
            return f"{len(kept)} entries are kept, {others} of them not of recordings"
        if len(conversation.read_properties()) > tuning.entries_max:
            return f"{conversation.properties_kept} properties are kept"
        if conversation.last_ms - conversation.birth.arrived_ms > tuning.age_max_ms:
            return "a conversation is older than may be"
        if conversation.last_ms + tuning.window_ms <= (pipeline.log_time_ms or 0):
            return "a conversation is open after its window"
        index = window.accounts[conversation.account].index
        if any(index.get(member) is not conversation for member in conversation.members):
            return "a member is filed elsewhere"
    for account in window.accounts.values():
        open_now = list({id(conversation): conversation for conversation in account.index.values()}.values())
        for name in account.books:
            book = book_of(account, name)
            if book.callers != sum(name in (conversation.called or ()) for conversation in open_now):
                return f"{book.callers} callers of a name are counted"
            if not book.rooms and not book.claims and not book.callers:
                return "a name is kept that nobody holds"
    if window.open_conversations != len(conversations):
        return f"{window.open_conversations} conversations are counted, {len(conversations)} are open"
    recordings = sum(len(conversation.recordings) for conversation in conversations)
    if window.open_recordings != recordings:
        return f"{window.open_recordings} recordings are counted, {recordings} are open"
    births = [conversation.birth.offset for conversation in conversations]
    birth = window.oldest_birth()
    if (birth.offset if birth is not None else None) != min(births, default=None):
        return "the oldest birth is not that of the oldest conversation"
    return None


def _noted(window: Window) -> list[Call]:
    return [call for guests in window.nailed.accounts.values() for call in noted_of(guests)[0].values()]


def _miscounted(pipeline: Pipeline, value: bytes) -> str | None:
    counts = pipeline.take_counts()
    told_apart = counts.events_total + counts.ignored + counts.malformed + counts.duplicate + counts.late
    if counts.entries != told_apart or counts.entries != len(decode(value)):
        return f"{counts.entries} entries are counted, {told_apart} told apart, {len(decode(value))} were there"
    return None


def disallowed_stands(history: History, rules: Rules) -> str | None:
    """More evidence turns a decided *disallowed* into *allowed* only where it contradicts what decided."""
    start = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
    pipeline = rules.pipeline(history.tuning(), policy_of(rules, history.policy), AccountSettings(), start)
    pipeline.open(rules.ledger(None))
    before: dict[str, Standing] = {}
    for offset, (stamp, value) in enumerate(history.log()):
        pipeline.feed(offset, stamp, value)
        assert pipeline.log_time_ms is not None
        now = {each.attribution.recording_sid: each for each in standings(pipeline, pipeline.log_time_ms)}
        for key, standing in now.items():
            was = before.get(key)
            if was is None or not was.decided or was.outcome != "disallowed" or standing.outcome != "allowed":
                continue
            if refines(was.subject, standing.subject):
                return f"message {offset}: {key} was disallowed by {was.rule}, and is allowed by {standing.rule}"
        before = now
    return None


def refines(was: Subject, now: Subject) -> bool:
    """Whether ``now`` only knows more than ``was``: what was known is known still, what was complete is the same."""
    for field in Subject.__struct_fields__:
        old, new = getattr(was, field), getattr(now, field)
        if not isinstance(old, Values):
            if old != new:
                return False
        elif (old.complete and old != new) or not set(old.known) <= set(new.known):
            return False
    return True


class Property(NamedTuple):
    """A promise, and the kind of history it is tried on."""

    name: str
    check: Check
    feature: Feature

    def example(self, number: int) -> History:
        """Example ``number`` of this property, the same everywhere."""
        return generate(self.feature, random.Random(f"{self.name}:{number}"))


_LOSSES = Feature(losses=True, changes=False, small=False, truthful=True)
_STRAIGHT = Feature(crashes=False, changes=False)

PROPERTIES = (
    Property("P1 same final map", same_final_map, Feature()),
    Property("P2 told in order, once", told_in_order, Feature(zombies=False, changes=False)),
    Property("P3 quiet moment", quiet_moment, Feature()),
    Property("P4 state after a rebuild", same_state, Feature(zombies=False, changes=False)),
    Property("P5 nothing allowed by a loss", never_allowed_by_loss, _LOSSES),
    Property("P6 batches change nothing", batches_change_nothing, Feature(crashes=False)),
    Property("P7 one verdict a message", told_once, Feature()),
    Property("P8 nothing dropped silently", all_set_aside, Feature()),
    Property("P9 order plays no part", order_plays_no_part, _STRAIGHT._replace(skew=False, cuts=False, truthful=True)),
    Property("P10 duplicates change nothing", duplicates_change_nothing, _STRAIGHT._replace(skew=False, cuts=False)),
    Property("P11 gated as ungated", gate_changes_nothing, Feature(crashes=False)),
    Property("P12 bounds hold", bounds_hold, _STRAIGHT),
    Property("P13 disallowed stands", disallowed_stands, _STRAIGHT),
    Property("P14 from a snapshot", same_from_snapshot, Feature(losses=True, snapshots=True)),
    Property("P15 guests as members", moving_changes_nothing, _STRAIGHT._replace(cuts=False, truthful=True)),
)


def shrink(history: History, fails: Callable[[History], bool]) -> History:
    """A smaller history that still fails: whatever can be left out, is."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(history):
            if fails(candidate):
                history, smaller = candidate, True
                break
    return history


def _smaller(history: History) -> Iterator[History]:
    for at in range(len(history.crashes)):
        yield history._replace(crashes=history.crashes[:at] + history.crashes[at + 1 :])
    for at in range(len(history.changes)):
        yield history._replace(changes=history.changes[:at] + history.changes[at + 1 :])
    for at in range(len(history.messages)):
        yield _without_message(history, at)
    for at, crash in enumerate(history.crashes):
        for simpler in (
            crash._replace(unwritten=0),
            crash._replace(back=0),
            crash._replace(stale=0),
            crash._replace(zombie=None, arrives=0),
            crash._replace(zombie=0 if crash.zombie else crash.zombie),
            crash._replace(low=None),
            crash._replace(unread=0),
        ):
            if simpler != crash:
                yield history._replace(crashes=(*history.crashes[:at], simpler, *history.crashes[at + 1 :]))
    for at, (stamp, entries) in enumerate(history.messages):
        for part in entries.split() if " " in entries else ():
            yield _with_message(history, at, stamp, part)
        plain = entries.partition("#")[0].partition("@")[0]
        if " " not in entries and plain != entries:
            yield _with_message(history, at, stamp, plain)
        if entries != "tick()":
            yield _with_message(history, at, stamp, "tick()")
        if stamp > 0:
            yield _with_message(history, at, stamp - 1, entries)
    for simpler_history in (
        history._replace(age_max_ms=1000),
        history._replace(entries_max=50),
        history._replace(drop_finals=False),
        history._replace(policy=0),
        history._replace(conferences_max=3),
    ):
        if simpler_history != history:
            yield simpler_history


def _with_message(history: History, at: int, stamp: int, entries: str) -> History:
    return history._replace(messages=(*history.messages[:at], (stamp, entries), *history.messages[at + 1 :]))


def _without_message(history: History, at: int) -> History:
    def moved(offset: int) -> int:
        return offset - 1 if offset > at else offset

    return history._replace(
        messages=history.messages[:at] + history.messages[at + 1 :],
        crashes=tuple(
            crash._replace(after=crash.after - (crash.after >= at), low=None if crash.low is None else moved(crash.low))
            for crash in history.crashes
        ),
        changes=tuple(change._replace(before=moved(change.before)) for change in history.changes),
    )


# --------------------------------------------------------------------------- the refuted rules


class _OtherWindow(Pipeline):
    """A fold over a window of another type."""

    window_type: type[Window] = Window

    def __init__(self, tuning: Tuning, policy: Policy, settings: AccountSettings, **more: Any) -> None:
        super().__init__(tuning, policy, settings, **more)
        self.window = self.window_type(
            window_ms=tuning.window_ms,
            grace_ms=tuning.grace_ms,
            age_max_ms=tuning.age_max_ms,
            entries_max=tuning.entries_max,
            conferences_max=tuning.conferences_max,
            cut=more["checkpoint"].cut,
        )
        self.fast_path = None  # It would do what the usual window does.


class _OtherPipeline(Rules):
    """Rules with another fold."""

    pipeline_type: type[Pipeline]

    def pipeline(self, tuning: Tuning, policy: Policy, settings: AccountSettings, checkpoint: Checkpoint) -> Pipeline:
        return self.pipeline_type(tuning, policy, settings, partition=0, checkpoint=checkpoint)


class _OtherLedger(Rules):
    """Rules with another view of what is published."""

    ledger_type: type[Ledger]

    def ledger(self, fetch: Callable[[str, int], bytes] | None) -> Ledger:
        return self.ledger_type(fetch)


class NoLogTime(Rules):
    """The commit does not hold the log time at R: it is taken from the message there."""

    name, refuted_by = "no log time at R", "P1"

    def committed(self, safe: Checkpoint, now: Checkpoint) -> Checkpoint:
        return msgspec.structs.replace(safe, log_time_ms=None)


class NowWithOldCommit(Rules):
    """R and its log time are those of now, though C is held back until its effects are delivered."""

    name, refuted_by = "R, w of now with C held back", "P1"

    def committed(self, safe: Checkpoint, now: Checkpoint) -> Checkpoint:
        return msgspec.structs.replace(
            now, offset=safe.offset, replay_from=min(now.replay_from, safe.offset), cut=safe.cut
        )


class NoCut(Rules):
    """The commit does not hold the cut."""

    name, refuted_by = "cuts not in the checkpoint", "P1"

    def committed(self, safe: Checkpoint, now: Checkpoint) -> Checkpoint:
        return msgspec.structs.replace(safe, cut=None)


class BirthsAlone(_OtherPipeline):
    """R is the oldest birth, whatever a conference name may have joined or kept apart."""

    name, refuted_by = "R sees no conference names", "P4"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def rebuild_from(self) -> tuple[int, int] | None:
                birth = self.oldest_birth()
                return None if birth is None else (birth.offset, birth.arrived_ms)


class DuplicateIsNoArrival(_OtherPipeline):
    """A duplicate does not extend the window."""

    name, refuted_by = "a duplicate does not extend the window", "P1"

    class pipeline_type(_OtherWindow):  # noqa: N801 - it stands for an attribute.
        class window_type(Window):  # noqa: N801
            def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
                before = {id(c): c.last_ms for account in self.accounts.values() for c in account.index.values()}
                touched = super().fold(event, offset, index, arrived_ms)
                if touched.duplicate and touched.conversation is not None:
                    touched.conversation.last_ms = before[id(touched.conversation)]
                return touched


class DuplicatesOfThePartition(_OtherPipeline):
    """An event is a duplicate if the partition has ever seen its id, not only its conversation."""

    name, refuted_by = "duplicate memory for the partition", "P1"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def __init__(self, **bounds: Any) -> None:
                super().__init__(**bounds)
                self.seen: set[tuple[str, str]] = set()

            def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
                key = (event.account, event.id or "")
                known = event.id is not None and event.members and key in self.seen
                self.seen.add(key)
                if known and not any(m in self.accounts[a].index for a in self.accounts for m in event.members):
                    return Touched(None, True, 0, ())
                return super().fold(event, offset, index, arrived_ms)


class ExpiryFromFirst(_OtherPipeline):
    """A conversation closes a window after its first arrival."""

    name, refuted_by = "expiry from the first arrival", "P1"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
                touched = super().fold(event, offset, index, arrived_ms)
                if touched.conversation is not None:
                    touched.conversation.last_ms = touched.conversation.birth.arrived_ms
                return touched


class BoundOfOne(_OtherPipeline):
    """The age bound closes only the conversation that is too old."""

    name, refuted_by = "the bound closes only the long conversation", "P1"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def close_all(self) -> list[Conversation]:
                old = [c for c in self.conversations() if c.last_ms - c.birth.arrived_ms > self.age_max_ms]
                for conversation in old:
                    self._close(conversation)
                return old


class CutDroppedEarly(_OtherPipeline):
    """The cut is dropped at ``until``, whatever is still open."""

    name, refuted_by = "cut dropped at until", "P4"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def drop_cut_when_over(self, log_time_ms: int) -> None:
                if self.cut is not None and log_time_ms >= self.cut.until_ms:
                    self.cut = None


class FinalReplaced(_OtherLedger):
    """A final verdict may be replaced like any other."""

    name, refuted_by = "final may be replaced", "P1"

    class ledger_type(Ledger):  # noqa: N801
        def last(self, key: str) -> Published | None:
            verdict = self.published(key)
            return None if verdict is None else remember(msgspec.structs.replace(verdict, final=False))

        def account_if_open(self, key: str) -> str | None:
            verdict = self.published(key)
            return None if verdict is None else verdict.account_sid


class NoPosition(_OtherLedger):
    """What is published is compared with whatever was decided, later or earlier; the gate opens at C."""

    name, refuted_by = "no position rule", "P2"

    class ledger_type(Ledger):  # noqa: N801
        def ahead(self, key: str, at: tuple[int, int]) -> bool:
            return False

        def greatest_offset(self, generation: int) -> int | None:
            return None


class NotComparedAtTheGate(_OtherPipeline):
    """What the rebuild left different is not compared when the gate opens."""

    name, refuted_by = "suppressed verdicts not compared again", "P3"

    class pipeline_type(Pipeline):  # noqa: N801
        def open(self, ledger: Ledger) -> int:
            gate = super().open(ledger)
            self._all_dirty = False
            return gate


class CommitBeforeTheGate(_OtherPipeline):
    """The checkpoint goes on while what was decided is still held back."""

    name, refuted_by = "commit before the gate", "P1"

    class pipeline_type(Pipeline):  # noqa: N801
        def checkpoint(self) -> Checkpoint:
            return self._checkpoint_at(self.next_offset)


class OthersNotHeard(_OtherLedger):
    """What a former owner writes over ours is known, but nothing is compared with it."""

    name, refuted_by = "what others write is not compared", "P3"

    class ledger_type(Ledger):  # noqa: N801
        def take_heard(self) -> list[tuple[str, str]]:
            super().take_heard()
            return []


class LastWriterWins(_OtherLedger):
    """Readers and owners take the last message of a key for what holds."""

    name, refuted_by = "last writer wins", "P1"

    class ledger_type(Ledger):  # noqa: N801
        def take_in(self, key: str, verdict: Verdict | None, place: int) -> bytes | None:
            super().take_in(key, None, place)
            return super().take_in(key, verdict, place)

    def reads(self, known: Verdict | None, other: Verdict) -> bool:
        return True


class NoRestsFrom(_OtherLedger):
    """*Disallowed* turns into *allowed* on whatever evidence is left."""

    name, refuted_by = "no rests_from rule", "P5"

    class ledger_type(Ledger):  # noqa: N801
        def last(self, key: str) -> Published | None:
            verdict = self.published(key)
            return None if verdict is None else remember(msgspec.structs.replace(verdict, rests_from=1 << 60))


class _Settles(Policy):
    __slots__ = ()

    def settle(self, *, truncated: bool) -> Any:
        return super().settle(truncated=False)


class AllowedOnLittle(Rules):
    """``when_open`` may allow on truncated evidence."""

    name, refuted_by = "when_open may allow on truncated evidence", "P5"

    def policy(self, document: PolicyDocument) -> Policy:
        return _Settles(document, "sha256:" + document.name)


class NoOrphans(_OtherPipeline):
    """A verdict whose conversation was lost is left as it is."""

    name, refuted_by = "no closing of orphans", "P5"

    class pipeline_type(Pipeline):  # noqa: N801
        def _end_orphans(self, keys: Iterable[str], offset: int, log_time_ms: int) -> list[Told]:
            return []


class LateSuspicionIsLost(_OtherPipeline):
    """A suspicion that a former owner writes when its conversation has closed ends as one whose evidence was lost."""

    name, refuted_by = "a late suspicion ends as a loss", "P1"

    class pipeline_type(Pipeline):  # noqa: N801
        def _end_orphans(self, keys: Iterable[str], offset: int, log_time_ms: int) -> list[Told]:
            self._whole = False
            return super()._end_orphans(keys, offset, log_time_ms)


class SilentBelowTheGate(_OtherPipeline):
    """Between commit and gate nothing is told at all, not even what is malformed."""

    name, refuted_by = "quarantine waits for the gate", "P8"

    class pipeline_type(Pipeline):  # noqa: N801
        def feed(self, offset: int, *arguments: Any, **more: Any) -> Sequence[Told]:
            told = super().feed(offset, *arguments, **more)
            return told if self.gate is not None and offset >= self.gate else ()


class EntryByEntry(_OtherPipeline):
    """The entries of a message are judged one by one."""

    name, refuted_by = "each entry judged by itself", "P7"

    class pipeline_type(Pipeline):  # noqa: N801
        def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
            parts = msgspec.json.decode(value, type=list[msgspec.Raw]) if value and value[:1] == b"[" else [value]
            told: list[Told] = []
            for part in parts:
                told += super().feed(offset, timestamp_ms, None if part is None else bytes(part), headers)
            return told


class CommitForgets(_OtherPipeline):
    """A checkpoint ends what was still to be compared."""

    name, refuted_by = "a batch ends what is dirty", "P6"

    class pipeline_type(Pipeline):  # noqa: N801
        def checkpoint(self) -> Checkpoint:
            self._all_dirty = False
            self._dirty_accounts.clear()
            return super().checkpoint()


class BoundOnArrival(_OtherPipeline):
    """TwiML is bound to the conference it means when it arrives, and never looked at again."""

    name, refuted_by = "names bind on arrival only", "P9"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            _seeing = False

            def _join_by_name(self, *arguments: Any) -> None:
                if not self._seeing:
                    super()._join_by_name(*arguments)

            def _see_room(self, *arguments: Any) -> None:
                self._seeing = True
                super()._see_room(*arguments)
                self._seeing = False


class NoDuplicates(_OtherPipeline):
    """Every event counts as new."""

    name, refuted_by = "no duplicate is known", "P10"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
                return super().fold(msgspec.structs.replace(event, id=None), offset, index, arrived_ms)


class MergeNotJudged(_OtherPipeline):
    """A conversation is judged again for new facts, not because another was poured into it."""

    name, refuted_by = "a merge is not judged", "P11"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
                return msgspec.structs.replace(super().fold(event, offset, index, arrived_ms), renewed=())


class MergePastBounds(_OtherPipeline):
    """Two conversations that merge keep what both had."""

    name, refuted_by = "a merge is past the bounds", "P12"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def _pour(self, one: Conversation, other: Conversation) -> None:
                one.evidence += other.evidence
                one.kept += other.kept
                one.properties += other.properties
                one.properties_kept += other.properties_kept


class WrittenAsItIs(_OtherPipeline):
    """A snapshot is written while the fold goes on, each conversation as it is when its turn comes."""

    name = "a snapshot of what has changed"
    refuted_by = "P14"

    class pipeline_type(Pipeline):  # noqa: N801
        def save(self, log: str) -> Saving | None:
            saving = super().save(log)
            self.window._saver = None
            return saving


class SnapshotBeforeLoss(_OtherPipeline):
    """A snapshot serves although evidence that it holds was lost to those who came after it."""

    name = "a snapshot from before a loss"
    refuted_by = "P14"

    class pipeline_type(Pipeline):  # noqa: N801
        def load(self, header: bytes, log: str, checkpoint: Checkpoint) -> Loading:
            return super().load(header, log, msgspec.structs.replace(checkpoint, cut=None))


class LedgerPlacedAtOnce(Rules):
    """A snapshot of the ledger is put in place when it is whole, whatever is still on its way."""

    name, refuted_by = "a ledger that knows what was not delivered", "P14"

    def places(self, sent: list[int], delivered: list[int]) -> bool:
        return True


class _OtherGuests(_OtherPipeline):
    """A fold in which conversations meet nailed-up calls otherwise."""

    guests_type: type[Guests] = Guests
    nailed_type: type[Nailed] = Nailed

    def pipeline(self, tuning: Tuning, policy: Policy, settings: AccountSettings, checkpoint: Checkpoint) -> Pipeline:
        pipeline = Pipeline(tuning, policy, settings, partition=0, checkpoint=checkpoint)
        window = pipeline.window
        window.nailed = self.nailed_type(
            window_ms=tuning.window_ms,
            conferences_max=tuning.conferences_max,
            entries_max=tuning.entries_max,
            renewed=window.nailed.renewed,
            truncate=window.nailed.truncate,
        )
        window.nailed.guests_type = self.guests_type
        pipeline.fast_path = None
        return pipeline


class AsInLongWindows(_OtherGuests):
    """Not refuted: a window of hours has so many buckets that what has no time is stamped more coarsely."""

    class nailed_type(Nailed):  # noqa: N801
        def __init__(self, **bounds: Any) -> None:
            super().__init__(**bounds)
            self.marks.part = 3


class AFewAtATime(Rules):
    """Not refuted: what concerns everything that is open is swept, none to two conversations after each message."""

    def pipeline(self, tuning: Tuning, policy: Policy, settings: AccountSettings, checkpoint: Checkpoint) -> Pipeline:
        return _Swept(tuning, policy, settings, partition=0, checkpoint=checkpoint, sweeps=True)


class _Swept(Pipeline):
    def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
        told = super().feed(offset, timestamp_ms, value, headers)
        return [*told, *self.sweep(offset % 3)]


class DumpedAndLoaded(_OtherPipeline):
    """Not refuted: what is known of calls is dumped and loaded after every message."""

    class pipeline_type(Pipeline):  # noqa: N801
        def feed(self, offset: int, timestamp_ms: int, value: bytes | None, headers: Any = None) -> Sequence[Told]:
            told = super().feed(offset, timestamp_ms, value, headers)
            window = self.window
            met = [each for each in window.conversations() if each.guests is not None]
            times = window.nailed.times()
            frozen = [(sid, [dict(records.items()) for records in known]) for sid, known in window.nailed.freeze()]
            known = msgspec.msgpack.encode(dict(frozen))
            for _ in window.nailed.thaw():
                pass
            window.nailed.load(times)
            for account in window.accounts.values():
                account.guests = None
            for sid, each in msgspec.msgpack.decode(known, type=dict[str, Known]).items():
                window.know(sid, each)
            window.restored((), met)
            return told


class NothingNoted(_OtherGuests):
    """What is told of a nailed-up call is not seen where it is a guest."""

    name, refuted_by = "guests tell nothing", "P15"

    class guests_type(Guests):  # noqa: N801
        def meet(self, *_: Any) -> None:
            pass


class NotNotedOnLeaving(_OtherGuests):
    """What its conversation holds of a call that becomes nailed up stays there alone."""

    name, refuted_by = "what a call leaves behind is not noted", "P15"

    class guests_type(Guests):  # noqa: N801
        def leave(self, conversation: Conversation, call: str, offset: int, arrived_ms: int) -> None:
            super().leave(conversation, call, offset, arrived_ms)
            known = self.notes.calls[call]
            known.sights = known.notes = ()
            known.properties = None


class NamesNotNoted(_OtherGuests):
    """Of a conference that a guest was in only the guest's own events are known, not its name and its end."""

    name, refuted_by = "where guests were is not noted", "P15"

    class guests_type(Guests):  # noqa: N801
        def _watch_room(self, *_: Any) -> None:
            pass


class StepsNotNoted(_OtherGuests):
    """Of a Studio execution that a guest started only the guest's own events are known, not its steps."""

    name, refuted_by = "steps of guests are not noted", "P15"

    class guests_type(Guests):  # noqa: N801
        def _watch_execution(self, *_: Any) -> None:
            pass


class NoLookBack(_OtherGuests):
    """A rebuild begins where the oldest conversation does, and knows nothing of where calls were before."""

    name, refuted_by = "no window before the oldest birth", "P4"

    class nailed_type(Nailed):  # noqa: N801
        def look_back_from(self, from_ms: int) -> None:
            return None


class OpensFromTheFirst(Rules):
    """What a rebuild reads to know where calls were opens conversations too: as if the commit did not say B."""

    name, refuted_by = "B not in the checkpoint", "P4"

    def committed(self, safe: Checkpoint, now: Checkpoint) -> Checkpoint:
        return msgspec.structs.replace(safe, open_from=None)


class LooksAtNailedUpCallsOnly(_OtherGuests):
    """Before the oldest birth only of calls that are nailed up by then is anything noted."""

    name, refuted_by = "a look back notes nailed-up calls alone", "P4"

    class guests_type(Guests):  # noqa: N801
        def _note_of(self, call: str, *more: Any) -> None:
            if self.index or self.notes.calls[call].conferences(-1) > self.nailed.conferences_max:
                super()._note_of(call, *more)


class NailedUpForGood(_OtherGuests):
    """A call that has been nailed up stays so, however few conferences it enters."""

    name, refuted_by = "once nailed up, always nailed up", "P4"

    class nailed_type(Nailed):  # noqa: N801
        def __init__(self, **bounds: Any) -> None:
            super().__init__(**bounds)
            self.for_good: set[str] = set()

        @staticmethod
        def _forget(accounts: dict[str, Guests], bucket: int) -> Iterator[str | None]:
            for guests in list(accounts.values()):
                yield from guests.forget(bucket)

        def see(
            self, guests: Guests | None, account: str, index: Parted[Conversation], event: Event, arrived_ms: int
        ) -> Guests | None:
            for call in self.for_good.intersection(event.members):
                guests = guests or self.open(account, index)
                for number in range(self.conferences_max + 1):
                    guests.notes.call(call).seen[str(number)] = arrived_ms // self.marks.bucket_ms
            return super().see(guests, account, index, event, arrived_ms)

    class guests_type(Guests):  # noqa: N801
        def leave_out(self, members: Sequence[str], arrived_ms: int) -> tuple[list[str], list[str]]:
            left, guests = super().leave_out(members, arrived_ms)
            assert isinstance(self.nailed, NailedUpForGood.nailed_type)
            self.nailed.for_good.update(left)
            return left, guests

        def forget(self, bucket: int) -> Iterator[None]:
            yield from super().forget(bucket)
            assert isinstance(self.nailed, NailedUpForGood.nailed_type)
            self.notes.watched.put_all(self.nailed.for_good, None)


class RepeatsAreNoSights(_OtherGuests):
    """A duplicate extends its conversation's window, but says nothing of where a call was, or is."""

    name, refuted_by = "a duplicate is no sight", "P4"

    class nailed_type(Nailed):  # noqa: N801
        def tell_again(self, *_: Any) -> None:
            pass


class AllNotesSeen(_OtherGuests):
    """A guest shows all that is still noted of it, however long before it was met."""

    name, refuted_by = "guests show all that is noted", "P4"

    class guests_type(Guests):  # noqa: N801
        def meet(self, conversation: Conversation, call: str, since: int) -> None:
            super().meet(conversation, call, since - self.window)


class GuestsNoNews(_OtherPipeline):
    """A conversation is not judged again for what is noted of its guests."""

    name, refuted_by = "guests bring no news", "P11"

    class pipeline_type(_OtherWindow):  # noqa: N801
        class window_type(Window):  # noqa: N801
            def fold(self, event: Event, offset: int, index: int, arrived_ms: int) -> Touched:
                touched = super().fold(event, offset, index, arrived_ms)
                return touched if touched.conversation is not None else msgspec.structs.replace(touched, renewed=())


class _Guesses(Policy):
    __slots__ = ()

    def judge(self, subject: Subject) -> Any:
        """Take what is open for false."""
        known = {
            field: Values(value.known, complete=True)
            for field in Subject.__struct_fields__
            if isinstance(value := getattr(subject, field), Values)
        }
        return super().judge(msgspec.structs.replace(subject, **known))


class OpenIsFalse(Rules):
    """A rule that is open counts as false."""

    name, refuted_by = "an open rule is false", "P13"

    def policy(self, document: PolicyDocument) -> Policy:
        return _Guesses(document, "sha256:" + document.name)


REFUTED: tuple[Rules, ...] = (
    NoLogTime(),
    NowWithOldCommit(),
    BirthsAlone(),
    DuplicateIsNoArrival(),
    DuplicatesOfThePartition(),
    ExpiryFromFirst(),
    BoundOfOne(),
    NoCut(),
    CutDroppedEarly(),
    FinalReplaced(),
    NoPosition(),
    NotComparedAtTheGate(),
    CommitBeforeTheGate(),
    OthersNotHeard(),
    LastWriterWins(),
    NoRestsFrom(),
    AllowedOnLittle(),
    NoOrphans(),
    LateSuspicionIsLost(),
    SilentBelowTheGate(),
    EntryByEntry(),
    CommitForgets(),
    BoundOnArrival(),
    NoDuplicates(),
    MergeNotJudged(),
    MergePastBounds(),
    OpenIsFalse(),
    WrittenAsItIs(),
    SnapshotBeforeLoss(),
    LedgerPlacedAtOnce(),
    NothingNoted(),
    NotNotedOnLeaving(),
    NamesNotNoted(),
    StepsNotNoted(),
    NoLookBack(),
    OpensFromTheFirst(),
    LooksAtNailedUpCallsOnly(),
    NailedUpForGood(),
    RepeatsAreNoSights(),
    AllNotesSeen(),
    GuestsNoNews(),
)


# --------------------------------------------------------------------------- the long run


def property_named(name: str) -> Property:
    """The property whose name begins so (``P1`` is not ``P10``)."""
    return next(each for each in PROPERTIES if each.name.split()[0] == name.split(maxsplit=1)[0])


def fault_of(history: History, promise: Property, rules: Rules) -> str | None:
    """What is wrong with one history under some rules; an exception is a fault too."""
    try:
        return promise.check(history, rules)
    except Exception as raised:
        return f"raised {type(raised).__name__}: {raised}"


def refutes(history: History, promise: Property, rules: Rules) -> bool:
    """Whether a history shows that rules break a promise which ours keep."""
    return fault_of(history, promise, rules) is not None and fault_of(history, promise, AS_BUILT) is None


def search(promise: Property, rules: Rules, numbers: range) -> list[tuple[int, str]]:
    """The examples by which rules break a promise, in order: of ours ten at most, of others the first."""
    found: list[tuple[int, str]] = []
    for number in numbers:
        history = promise.example(number)
        fault = fault_of(history, promise, rules)
        if fault is None or (rules is not AS_BUILT and fault_of(history, promise, AS_BUILT) is not None):
            continue
        found.append((number, fault))
        if len(found) == (10 if rules is AS_BUILT else 1):
            break
    return found


def _piece(task: tuple[int, int, int]) -> tuple[int, list[tuple[int, str]]]:
    """A piece of the long run, in a process of its own: which property, from which example to which."""
    place, first, end = task
    return place, search(PROPERTIES[place], AS_BUILT, range(first, end))


def _hunt(task: tuple[int, int]) -> tuple[int, list[tuple[int, str]]]:
    """The search for a refuted rule, in a process of its own."""
    which, examples = task
    rules = REFUTED[which]
    return which, search(property_named(rules.refuted_by), rules, range(examples))


def long_run(examples: int, only: str | None) -> bool:
    """Try every property on so many histories, and find every refuted rule; prints a table, says whether all held."""
    began = time.monotonic()
    held = True
    with multiprocessing.Pool() as pool:
        print(f"{'property':34} {'histories':>9}  failures")
        for place, promise in enumerate(PROPERTIES):
            if only not in (None, promise.name.split()[0]):
                continue
            pieces = [(place, first, min(first + 500, examples)) for first in range(0, examples, 500)]
            faults = sorted(fault for _, found in pool.imap_unordered(_piece, pieces) for fault in found)
            print(f"{promise.name:34} {examples:9}  {len(faults)}", flush=True)
            for number, fault in faults[:3]:
                held = False
                print(f"    example {number}: {fault}")
        print(f"\n{'refuted rule':46} {'by':4} found at example")
        hunts = [(which, examples) for which, rules in enumerate(REFUTED) if only in (None, rules.refuted_by)]
        for which, found in pool.imap(_hunt, hunts):
            rules = REFUTED[which]
            print(f"{rules.name:46} {rules.refuted_by:4} {found[0][0] if found else 'not found'}", flush=True)
            held = held and bool(found)
    print(f"\n{time.monotonic() - began:.0f} s")
    return held


def show_refuted(name: str, examples: int) -> bool:
    """Print the first counterexample to a refuted rule, shrunk; False where there is none among so many examples."""
    rules = next(each for each in REFUTED if each.name == name)
    promise = property_named(rules.refuted_by)
    found = search(promise, rules, range(examples))
    if not found:
        print(f"{name}: not found in {examples} examples")
        return False
    number, _ = found[0]
    history = shrink(promise.example(number), lambda smaller: refutes(smaller, promise, rules))
    print(f"{name}: {promise.name}, example {number}\n    {history!r}\n    {fault_of(history, promise, rules)}")
    return True


def main() -> int:
    """Run from the command line; 0 when all held and every refuted rule was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.history", description="The properties of the checkpoint.")
    parser.add_argument("--examples", type=int, default=20_000, help="histories per property (default: %(default)s)")
    parser.add_argument("--only", metavar="P1", help="one property, and the refuted rules it finds")
    names = [rules.name for rules in REFUTED]
    parser.add_argument("--find", metavar="RULE", choices=names, help="a refuted rule: its counterexample, shrunk")
    arguments = parser.parse_args()
    if arguments.find is not None:
        return 0 if show_refuted(arguments.find, arguments.examples) else 1
    return 0 if long_run(arguments.examples, arguments.only) else 1


if __name__ == "__main__":
    sys.exit(main())
