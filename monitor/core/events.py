"""What a message says, in our words: the values that decode yields and the window keeps.

An *entry* (one element of a message) becomes an ``Event``, an ``Ignored`` or a ``Malformed``. An event names the
*members* it connects (calls, conferences, recordings, tasks, Studio executions) and carries *facts*: what it shows.
Instants inside the core are whole milliseconds since 1970 in UTC (``*_ms``); they become text only in a verdict.
"""

from __future__ import annotations

from typing import Final

import msgspec

FOUND_BY_LISTING: Final = "listing"
FOUND_BY_VERB: Final = "verb"
FOUND_BY_STREAM: Final = "stream"


class Fact(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One thing an event shows. ``None`` means not said, never "does not apply"."""


class RecordingFact(Fact, tag=1, frozen=True, gc=False):
    """A recording exists; https://www.twilio.com/docs/voice/api/recording."""

    recording: str
    call: str | None
    conference: str | None
    source: str | None
    status: str | None
    started_ms: int | None
    duration_ms: int | None
    callback_url: str | None
    found_by: str
    however_old: bool = False  # To be judged even if it began so long ago that otherwise it would not be.


class ParticipantFact(Fact, tag=2, frozen=True, gc=False):
    """A call is, was or came to be inside a conference.

    ``phase`` is ``join``, ``leave`` or ``inside`` (an event of a participant that is neither); ``at_ms`` is when, which
    a summary tells long afterwards.
    """

    conference: str
    call: str
    phase: str
    name: str | None
    at_ms: int | None


class ConferenceFact(Fact, tag=3, frozen=True, gc=False):
    """A conference exists. ``phase`` is ``start``, ``end`` or ``seen``, ``at_ms`` when.

    ``recording_on`` is what Voice Insights says: that recording was configured, not that a file exists.
    """

    conference: str
    name: str | None
    phase: str
    at_ms: int | None
    recording_on: bool | None


class TwimlFact(Fact, tag=4, frozen=True, gc=False):
    """TwiML that Twilio ran for a call holds ``<Conference record>`` that records, for a conference of this name."""

    call: str
    name: str


class RequestFact(Fact, tag=5, frozen=True, gc=False):
    """An accepted participant request with ``ConferenceRecord`` that records; the conference by SID or by name.

    ``call`` is the participant's call, or a stand-in member of its own where the request names neither call nor
    conference SID.
    """

    conference: str | None
    name: str | None
    call: str | None


class TaskFact(Fact, tag=6, frozen=True, gc=False):
    """A TaskRouter task and the calls and conference its attributes name; queue and worker by SID and by name."""

    task: str
    conference: str | None
    calls: tuple[str, ...]
    queue: tuple[str, ...]
    worker: tuple[str, ...]


class ExecutionFact(Fact, tag=7, frozen=True, gc=False):
    """A Studio execution of ``flow`` at ``revision``, started by ``call``; ``ended`` once it is over."""

    execution: str
    call: str | None
    flow: str | None
    revision: int | None
    ended: bool


class StepFact(Fact, tag=8, frozen=True, gc=False):
    """A Studio execution left widget ``leaves`` by ``transition`` and entered widget ``enters``."""

    execution: str
    leaves: str | None
    enters: str | None
    transition: str | None


class CallFact(Fact, tag=9, frozen=True, gc=False):
    """What is known of a call that a policy may ask about."""

    call: str
    direction: str | None
    from_: str | None
    to: str | None


AnyFact = (
    RecordingFact
    | ParticipantFact
    | ConferenceFact
    | TwimlFact
    | RequestFact
    | TaskFact
    | ExecutionFact
    | StepFact
    | CallFact
)


class FlexSetting(msgspec.Struct, frozen=True, gc=False):
    """An observation of an account's Flex ``call_recording_enabled``."""

    account: str
    enabled: bool
    since_ms: int | None
    previous: bool | None
    observed_ms: int


class FlowSetting(msgspec.Struct, frozen=True, gc=False):
    """The widgets of one revision of a Studio flow that record: the names of those of type ``record-call`` that do."""

    account: str
    flow: str
    revision: int
    recording_widgets: tuple[str, ...]


class WorkerSession(msgspec.Struct, frozen=True, gc=False):
    """When a worker was last seen to come online and to go offline."""

    account: str
    worker: str
    available_since_ms: int | None
    offline_since_ms: int | None
    observed_ms: int


Setting = FlexSetting | FlowSetting | WorkerSession


class Event(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened, decoded.

    ``id`` is None where the producer gave none: it is never a duplicate then. ``occurred_ms`` is None where no date in
    it could be read: its arrival stands in. ``time`` is Twilio's own envelope ``time`` as it came (None in events of
    ours); only files, whose lines carry no arrival, need it.
    """

    type: str
    id: str | None
    account: str
    occurred_ms: int | None
    time: str | None
    members: tuple[str, ...]
    facts: tuple[AnyFact, ...]
    setting: Setting | None = None


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """An entry that tells us nothing: a known type without news for us, or an unknown type."""

    type: str
    known: bool


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """An entry we could not read. ``reason`` comes from a closed set; ``data`` is the entry's own bytes."""

    reason: str
    detail: str
    data: bytes


Entry = Event | Ignored | Malformed
