"""What a report of a stretch of time says, in values: what people and programs read of it is `outputs/report_text`.

Who reads it files it, and is asked months later how it is known: so it says what each number rests on, and what is not
known is None, never a number.
"""

from __future__ import annotations

from typing import Final

import msgspec

from monitor.core.policy import DISALLOWED, UNDETERMINED

FORMAT: Final = 1
LISTED_MAX: Final = 10_000
"""Recordings that are told one by one, disallowed ones first, then by their start; the others are counted alone."""
SILENCES_MAX: Final = 1_000
"""Silences that are told, the longest."""

SUSPECTED: Final = "suspected"
CLEARED: Final = "cleared"
STATES: Final = (DISALLOWED, SUSPECTED, UNDETERMINED, CLEARED)
"""What a case of the report is: ``cleared`` is allowed by now, and was not before."""
NOT_KNOWN: Final = "not known"


class Limit(msgspec.Struct, frozen=True):
    """Something that this report cannot say, or not for certain: a word for programs and a sentence for people."""

    what: str
    says: str


class AccountAsked(msgspec.Struct, frozen=True):
    """An account the report is about: ``account`` is its alias, or its SID where the settings give it none."""

    account: str
    account_sid: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings that began in the stretch: ``recordings`` = ``allowed`` + ``disallowed`` + ``undetermined``.

    ``suspected`` are conferences that may have been recorded, of which no recording is known. ``cleared`` are of the
    allowed those that were not allowed before; ``open`` those whose verdict is not final, and may still change.
    ``allowed_since``: before it allowed verdicts may be gone, so ``allowed`` and ``recordings`` are at least so many.
    ``as_expected`` is the share of allowed ones among all from ``allowed_since`` on; None where there were none.
    """

    recordings: int
    allowed: int
    disallowed: int
    undetermined: int
    suspected: int
    cleared: int
    open: int
    allowed_since: str
    as_expected: float | None
    as_expected_of: int


class PolicyUsed(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that judged: its hash and mode, its name where its file was at hand, and how many recordings it judged.

    ``first`` and ``last`` are when the first and last of these began.
    """

    policy: str
    mode: str
    name: str | None
    recordings: int
    disallowed: int
    first: str
    last: str


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings of one account, cause, start source or rule, by what became of them."""

    name: str
    allowed: int = 0
    disallowed: int = 0
    undetermined: int = 0
    suspected: int = 0


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Disallowed recordings that one thing started: a Studio flow and its widget, or a starter of the settings.

    ``flow_sid`` is None where the events no longer tell which flow it was. Counted among those told one by one.
    """

    flow_sid: str | None = None
    widget: str | None = None
    starter: str | None = None
    recordings: int = 0


class Handling(msgspec.Struct, frozen=True, kw_only=True):
    """What people did about a case. ``by`` are their names, only where they were asked for; ``people`` is how many."""

    acknowledged_at: str | None = None
    explained: str | None = None
    accepted_until: str | None = None
    closed_at: str | None = None
    comments: int = 0
    people: int = 0
    by: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True):
    """Where a piece of evidence lies: ``partition:offset`` of the events topic, and the id and type of the event."""

    position: str
    event_id: str | None
    type: str


class ReportedCase(msgspec.Struct, frozen=True, kw_only=True):
    """A recording (or suspected conference, ``sid`` then) that is or was not allowed. ``state`` is one of ``STATES``.

    ``lasted_s`` is None where its end was not seen. ``unseen_s``: from its start to the first that was seen of it;
    ``detected_s``: from its start to the disallowed verdict; ``told_at``: when an Alertmanager first took its alert.
    """

    sid: str
    state: str
    account: str
    account_sid: str
    started_at: str
    ended_at: str | None
    lasted_s: float | None
    call_sid: str | None
    conference_sid: str | None
    cause: str | None
    strength: str | None
    start_source: str | None
    flow_sid: str | None
    execution_sid: str | None
    widget: str | None
    starter: str | None
    rule: str
    policy: str
    mode: str
    severity: str | None
    recording_status: str | None
    found_by: str | None
    backlog: bool
    first_seen_at: str
    unseen_s: float | None
    disallowed_since: str | None
    detected_s: float | None
    told_at: str | None
    revision: int
    final: bool
    missing: tuple[str, ...]
    evidence: tuple[Proof, ...]
    handling: Handling = Handling()


class Spread(msgspec.Struct, frozen=True):
    """How long something took: of so many, the median, what 99 % stayed below, and the longest; None of none."""

    count: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How soon: ``unseen`` and ``detected`` from the start of a recording, ``told`` from its disallowed verdict."""

    unseen: Spread
    detected: Spread
    told: Spread
    not_told: int


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor's own listing counted, in whole hours from ``since`` to ``until``: it keeps the last day."""

    since: str
    until: str
    listed: int
    seen: int


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What Twilio lists now, of the stretch: ``listed`` = ``seen`` by the stream + ``missed`` + ``fresh`` + ``old``.

    ``old`` have no verdict and began more than 7 days ago: what was allowed is forgotten by then. ``fresh`` began so
    lately that the stream may still tell of them.
    """

    listed: int
    seen: int
    missed: int
    fresh: int
    old: int


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what Twilio lists the stream told of. ``ratio`` is None where Twilio was not asked: not known.

    ``found_by_listing``: recordings with a verdict that the stream never told of.
    """

    account: str
    account_sid: str
    ratio: float | None
    listed: Listed | None
    counted: Counted | None
    found_by_listing: int


class BlindInterval(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that were gone before they were judged to the end; instants that are not known are None."""

    topic: str
    partition: int
    since: str | None
    until: str | None
    messages: int
    unjudged: int
    found_at: str


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch in which no tick of ours came through a partition: nobody proved that it was watched."""

    partition: int
    since: str
    until: str
    lasted_s: float


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How far a partition is judged now: ``to`` is the arrival of the first message that is not, None where all are.

    ``waiting`` messages are not judged yet; None where nobody ever has judged anything in it.
    """

    partition: int
    to: str | None
    waiting: int | None


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """Entries that could not be read, by why; when the first and the last were set aside."""

    reason: str
    count: int
    first: str
    last: str


class MissingType(msgspec.Struct, frozen=True, kw_only=True):
    """A type of event that never came, and what nobody sees without it."""

    type: str
    required: bool
    blind: str


class Lack(msgspec.Struct, frozen=True):
    """What recordings lack to be determined, and how many do."""

    missing: str
    recordings: int


class Unseen(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be seen. Empty lists mean that nothing of the kind is known; None: it was not looked for."""

    blind_intervals: tuple[BlindInterval, ...]
    judged: tuple[Judged, ...]
    silences: tuple[Silence, ...] | None
    silences_left_out: int
    set_aside: tuple[SetAside, ...]
    lacks: tuple[Lack, ...]
    missing_types: tuple[MissingType, ...] | None


class RuleUsed(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that allows until it expires, and how many recordings of the stretch it allowed."""

    rule: str
    policy: str
    expires: str
    recordings: int


class AcceptedCase(msgspec.Struct, frozen=True, kw_only=True):
    """A case that somebody accepts until a day (``until``); ``by`` is their name, only where names were asked for."""

    sid: str
    account: str
    until: str | None
    at: str
    by: str | None


class Exceptions(msgspec.Struct, frozen=True):
    """What was allowed or accepted for a time."""

    rules: tuple[RuleUsed, ...]
    accepted: tuple[AcceptedCase, ...]


class TopicRead(msgspec.Struct, frozen=True, kw_only=True):
    """A topic that this rests on; ``held_since``: what came before it is gone, None where nothing is."""

    topic: str
    messages: int
    held_since: str | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A report; docs/report.md has its fields. Instants are UTC; ``since`` is in the stretch, ``until`` is not."""

    format: int = FORMAT
    made_at: str
    since: str
    until: str
    accounts: tuple[AccountAsked, ...]
    all_accounts: bool
    limits: tuple[Limit, ...]
    policies: tuple[PolicyUsed, ...]
    totals: Totals
    by_cause: tuple[Tally, ...]
    by_account: tuple[Tally, ...]
    by_start_source: tuple[Tally, ...]
    by_rule: tuple[Tally, ...]
    by_origin: tuple[Origin, ...]
    cases: tuple[ReportedCase, ...]
    cases_left_out: int
    timing: Timing
    coverage: tuple[Coverage, ...]
    unseen: Unseen
    exceptions: Exceptions
    topics: tuple[TopicRead, ...]
