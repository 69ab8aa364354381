"""From what an account is set up to do to everything in it that can start a recording, judged by the policy.

A *start* is what certainly records once a call comes there; a *look* is what may, which no API shows. Both say where
they are and from which numbers calls get there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from monitor.audit.account import APPLICATION, NUMBER, AccountRead, Line, Unread
from monitor.audit.studio import INDIRECT, RECORDERS
from monitor.core.policy import (
    ABSENT,
    HOURS,
    MINUTES_OF_DAY,
    OPEN,
    SHADOW,
    UNDETERMINED,
    Hours,
    Policy,
    Subject,
    Values,
)
from monitor.core.values import epoch_ms
from monitor.log import redact

DO_NOT_RECORD: Final = "do-not-record"
BEYOND: Final = (
    "The text of TwiML Bins: Twilio's API does not show it.",
    "The code of Functions and Flex plugins, and what webhooks answer: programs, which no audit can read.",
    "Requests to Twilio's API by your own services: the monitor sees them when they happen.",
    "The sessions of agents who logged in before Flex call recording was switched off: `audit --sessions`.",
)
"""What can start a recording and is never read."""

# Widget type -> the cause and the start source of what it starts. https://www.twilio.com/docs/voice/api/recording
_OF_WIDGET: Final = {
    "record-call": ("studio_call_recording_widget", "StartCallRecordingAPI"),
    "record-voicemail": ("record_verb", "RecordVerb"),
    "connect-call-to": ("dial_verb", "DialVerb"),
    "make-outgoing-call": ("outbound_call_api", "OutboundAPI"),
    "make-outgoing-call-v2": ("outbound_call_api", "OutboundAPI"),
}
assert _OF_WIDGET.keys() == RECORDERS.keys()

TWIML_BIN: Final = "twiml-bin"
FUNCTION: Final = "function"
TWIMLET: Final = "twimlet"
WEBHOOK: Final = "webhook"
FLOW: Final = "studio-flow"
WIDGET: Final = "studio-widget"
TRUNK: Final = "sip-trunk"
FLEX: Final = "flex-configuration"

_WHY: Final = {
    TWIML_BIN: "Twilio's API does not show its TwiML. Open it in the Console: <Record>, record=, <Start><Recording>?",
    FUNCTION: "What it answers is a program. Look in its code for <Record>, record= and recordings.create",
    TWIMLET: "A twimlet does what its address says; voicemail and conference can record",
    WEBHOOK: "What it answers is a program of yours. Look in its TwiML for <Record>, record= and <Start><Recording>",
    FLOW: "Calls lead to a flow of which no published revision was found",
}
_FLOW_IN_URL: Final = re.compile(r"/Flows/(FW[0-9a-f]{32})(?:[/?#]|$)")
_BIN_IN_URL: Final = re.compile(r"/(EH[0-9a-f]{32})(?:[/?#]|$)")


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where something is: its kind, and the SID or the address (without its query) that finds it again."""

    kind: str
    sid: str | None = None
    revision: int | None = None
    widget: str | None = None
    type: str | None = None
    address: str | None = None

    def __str__(self) -> str:
        if self.kind == WIDGET:
            return f"Studio flow {self.sid}, revision {self.revision}, widget {self.widget} ({self.type})"
        named = {FLEX: "Flex configuration", TRUNK: "SIP trunk", TWIML_BIN: "TwiML Bin", FLOW: "Studio flow"}
        of = named.get(self.kind, self.kind.capitalize())
        return " ".join(part for part in (of, self.sid, self.address) if part)


class Entrance(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line (number, application, SIP domain) from which calls get somewhere."""

    kind: str
    sid: str
    number: str | None = None


class Start(msgspec.Struct, frozen=True):
    """Something that starts recordings, and what the policy says of them.

    ``outcome`` is ``undetermined`` where that depends on the call: on the conditions in ``depends_on``.
    """

    account_sid: str
    place: Place
    cause: str
    start_source: str
    detail: str | None
    outcome: str
    rule: str
    depends_on: tuple[str, ...] = ()
    reached_from: tuple[Entrance, ...] = ()


class Look(msgspec.Struct, frozen=True):
    """Something that may start recordings, which only a person can find out: look here yourself."""

    account_sid: str
    place: Place
    why: str
    reached_from: tuple[Entrance, ...] = ()


class Audit(msgspec.Struct, frozen=True):
    """What was found in the accounts, and what could not be asked. ``read_at`` is ISO 8601, ``policy`` its hash."""

    read_at: str
    policy: str
    accounts: tuple[str, ...]
    starts: tuple[Start, ...]
    looks: tuple[Look, ...]
    unread: tuple[Unread, ...]

    def of(self, outcome: str) -> int:
        """How many starts have this outcome."""
        return sum(start.outcome == outcome for start in self.starts)


def find_starts(accounts: Iterable[AccountRead], policy: Policy, now: datetime) -> Audit:
    """Find everything in the accounts that can start a recording; ``now`` is when they were read."""
    read = list(accounts)
    return Audit(
        now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        policy.hash,
        tuple(account.sid for account in read),
        tuple(start for account in read for start in _starts(account, policy, now)),
        tuple(look for account in read for look in _looks(account)),
        tuple(unread for account in read for unread in account.unread),
    )


# --- What records --------------------------------------------------------------------------------------------------


def _starts(account: AccountRead, policy: Policy, now: datetime) -> Iterator[Start]:
    def start(
        place: Place,
        cause: str,
        start_source: str,
        *,
        callback_url: str | None = None,
        detail: str | None = None,
        reached_from: tuple[Entrance, ...] = (),
    ) -> Start:
        outcome, rule, depends_on = _judge(policy, account, cause, start_source, callback_url, now)
        return Start(account.sid, place, cause, start_source, detail, outcome, rule, depends_on, reached_from)

    reached = _reached(account)
    if account.flex is not None and account.flex.recording_enabled:
        yield start(
            Place(FLEX), "flex_call_recording", "Conference", callback_url=account.flex.callback_url, detail="on"
        )
    for flow in account.flows:
        for widget in flow.widgets:
            if widget.records and widget.type in _OF_WIDGET:
                place = Place(WIDGET, flow.sid, flow.revision, widget.name, widget.type)
                cause, source = _OF_WIDGET[widget.type]
                yield start(
                    place,
                    cause,
                    source,
                    callback_url=widget.callback_url,
                    reached_from=reached.get((FLOW, flow.sid), ()),
                )
    for trunk in account.trunks:
        if trunk.mode != DO_NOT_RECORD:
            place = Place(TRUNK, trunk.sid)
            yield start(
                place, "sip_trunk", "Trunking", detail=trunk.mode, reached_from=reached.get((TRUNK, trunk.sid), ())
            )


def _judge(
    policy: Policy, account: AccountRead, cause: str, start_source: str, callback_url: str | None, now: datetime
) -> tuple[str, str, tuple[str, ...]]:
    """Outcome, rule, and on which conditions the outcome depends, of whatever calls may come there."""

    def subject(at: datetime) -> Subject:
        return Subject(
            account.sid,
            account.alias,
            epoch_ms(at),
            Values((cause,), complete=True),
            Values((start_source,), complete=True),
            OPEN,
            ABSENT if callback_url is None else Values((callback_url,), complete=True),
            *(OPEN,) * 7,  # Direction, from, to, queue, worker, status, found by: every call brings its own.
        )

    judgement = policy.judge(subject(now))
    outcomes = {policy.judge(subject(at)).outcome for at in _instants(policy, now)} | {judgement.outcome}
    if judgement.outcome is not None and len(outcomes) == 1:
        return judgement.outcome, judgement.rule, ()
    open_ = {
        name
        for answer in policy.explain(subject(now))
        if answer.answer is None and answer.mode != SHADOW
        for name, said in answer.conditions
        if said is None
    }
    return UNDETERMINED, judgement.rule, tuple(sorted(open_ | ({HOURS} if len(outcomes) > 1 else set())))


def _instants(policy: Policy, now: datetime) -> Iterator[datetime]:
    """An instant in every stretch of the week in which the rules' hours are the same: where each span begins and ends.

    Rules without hours need none.
    """
    for rule in policy.rules:
        for span in rule.document.hours:
            yield from _edges(span, now)


def _edges(span: Hours, now: datetime) -> Iterator[datetime]:
    midnight = now.astimezone(span.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in range(8):
        for minute in (span.from_minute, span.to_minute % MINUTES_OF_DAY):
            yield midnight + timedelta(days=day, minutes=minute)


# --- What may record -----------------------------------------------------------------------------------------------


def _looks(account: AccountRead) -> Iterator[Look]:
    flows = {flow.sid for flow in account.flows}
    for (kind, key), entrances in _reached(account).items():
        if kind == TRUNK or (kind == FLOW and key in flows):
            continue
        by_sid = kind in (FLOW, TWIML_BIN)
        place = Place(kind, sid=key) if by_sid else Place(kind, address=key)
        yield Look(account.sid, place, _WHY[kind], entrances)
    if account.flex is not None and account.flex.recording_enabled is None:
        yield Look(account.sid, Place(FLEX), "Twilio does not say whether Flex call recording is on")
    for flow in account.flows:
        for widget in flow.widgets:
            place = Place(WIDGET, flow.sid, flow.revision, widget.name, widget.type)
            if widget.type in INDIRECT:
                led = None if widget.leads_to is None else _destination(widget.leads_to)
                why = _WHY[WEBHOOK] if led is None or led[0] == FLOW else _WHY[led[0]]
                place = msgspec.structs.replace(place, address=_bare(widget.leads_to))
                yield Look(account.sid, place, why)
            elif widget.records and widget.type not in _OF_WIDGET:
                yield Look(account.sid, place, "A widget of a type that the monitor does not know says that it records")


def _reached(account: AccountRead) -> dict[tuple[str, str], tuple[Entrance, ...]]:
    """Of every destination of calls the lines that lead there, in the order in which they were told."""
    applications = {line.sid: line for line in account.lines if line.kind == APPLICATION}
    found: dict[tuple[str, str], dict[Entrance, None]] = {}
    for line in account.lines:
        entrance = Entrance(line.kind, line.sid, line.number)
        for destination in _destinations(line, applications):
            found.setdefault(destination, {})[entrance] = None
    return {destination: tuple(entrances) for destination, entrances in found.items()}


def _destinations(line: Line, applications: dict[str, Line]) -> list[tuple[str, str]]:
    """Twilio takes a number's trunk before its application, and that before its own addresses.

    https://www.twilio.com/docs/phone-numbers/api/incomingphonenumber-resource
    """
    if line.kind == NUMBER and line.trunk_sid:
        return [(TRUNK, line.trunk_sid)]
    if line.kind == NUMBER and line.application_sid:
        application = applications.get(line.application_sid)
        return [] if application is None else _destinations(application, applications)
    return [_destination(url) for url in line.urls]


def _destination(url: str) -> tuple[str, str]:
    """What stands behind an address: its kind, and its SID or the address without what may be private in it."""
    host = _split(url).hostname or ""
    if host.endswith("twilio.com") and (flow := _FLOW_IN_URL.search(url)):
        return FLOW, flow[1]
    if host == "handler.twilio.com" and (bin_ := _BIN_IN_URL.search(url)):
        return TWIML_BIN, bin_[1]
    kind = FUNCTION if host.endswith(".twil.io") else TWIMLET if host.endswith("twimlets.com") else WEBHOOK
    return kind, _bare(url) or ""


def _bare(url: str | None) -> str | None:
    """An address without user, password, query and fragment, nor a telephone number in its path."""
    if url is None:
        return None
    parts = _split(url)
    return redact(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl())


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")  # What is no address leads nowhere that could be named.
