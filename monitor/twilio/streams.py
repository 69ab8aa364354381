"""Event Streams as the monitor needs them: which types, where to, and what differs in an account. Pure: no network.

An account has *sinks* (where events go) and *subscriptions* (which types go to a sink, each in a schema version).
``compare`` says from one look at both what is wrong and what mends it, so that ``check``, ``plan`` and ``apply`` can
never disagree. https://www.twilio.com/docs/events
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

PREFIX: Final = "recording-monitor"
"""How the description of everything that we make begins, before the name of the installation in brackets."""
SINKS_MAX: Final = 100
"""Of an account, and as many subscriptions: https://www.twilio.com/docs/events/event-streams."""

# --- What the monitor needs --------------------------------------------------------------------------------------


class EventType(NamedTuple):
    """A type to be subscribed, its schema version, and what nobody sees without it.

    What is not ``required`` confirms, or comes late: without it verdicts are less certain, not wrong.
    """

    name: str
    version: int
    required: bool
    blind: str


def _family(prefix: str, version: int, *types: tuple[str, bool, str]) -> Iterator[EventType]:
    for name, required, blind in types:
        yield EventType(f"com.twilio.{prefix}.{name}", version, required, blind)


_CALL: Final = "A call's parent, direction and numbers have one witness less."
_TASK: Final = "The call, conference, queue and worker of a Flex task have one witness less."
_PLACE: Final = "Which call is in which conference has one witness less."

NEEDED: Final[tuple[EventType, ...]] = (
    # Schema Voice.WebhookEvent: https://www.twilio.com/docs/events/event-types-overview.
    *_family(
        "voice.status-callback",
        2,
        ("recording.processed", True, "No recording is seen, but those that a TwiML verb reports when it ends."),
        ("conference.updated", True, "Conferences have no name, no beginning and no end."),
        ("conference.participant.updated", True, "Nobody knows which call is in which conference."),
        ("call.initiated", True, "A call's parent, direction and numbers are not known while it lasts."),
        ("call.ringing", False, _CALL),
        ("call.answered", False, _CALL),
        ("call.completed", True, "Of calls that report only their end, which is Twilio's default, nothing is known."),
    ),
    *_family(
        "voice.twiml",
        2,
        ("call.requested", True, "A conference that TwiML records has no known cause."),
        ("call.redirected", True, "A conference that TwiML records after a redirect has no known cause."),
        ("call.transferred", True, "A conference that TwiML records after a transfer has no known cause."),
        ("gather.finished", True, "A conference that TwiML records after a Gather verb has no known cause."),
        ("enqueue.finished", True, "A conference that TwiML records after an Enqueue verb has no known cause."),
        ("dial.finished", True, "Recordings of the Dial verb that have no status callback are not seen."),
        ("record.finished", True, "Recordings of the Record verb that have no status callback are not seen."),
    ),
    *_family(
        "voice.api-request",
        2,
        ("call.created", True, "A conference recorded by TwiML given when a call was made has no known cause."),
        ("call.modified", True, "A conference recorded by TwiML given to a running call has no known cause."),
        ("conference-participant.created", True, "A conference recorded by ConferenceRecord has no known cause."),
        ("conference-participant.modified", False, _PLACE),
        ("conference-participant.deleted", False, _PLACE),
        ("conference.modified", False, _PLACE),
    ),
    # https://www.twilio.com/docs/events/event-types/studio/flow
    *_family(
        "studio.flow",
        2,
        ("execution.started", True, "What a Studio widget recorded passes for an explicit start, which is allowed."),
        ("execution.ended", True, "A recording at the last widget of a flow is judged only when the grace is over."),
    ),
    *_family(
        "studio.flow",
        1,
        ("step.ended", True, "What a Studio widget recorded is never told from an explicit start."),
    ),
    # https://www.twilio.com/docs/events/event-types/taskrouter/reservation
    *_family(
        "taskrouter",
        4,
        (
            "task.created",
            True,
            "Rules on a queue stay open, and Flex calls are tied to nothing before they are accepted.",
        ),
        ("task.updated", True, "A Flex conference that is not named after its task is not known as one."),
        ("task.canceled", False, _TASK),
        ("task.completed", False, _TASK),
        ("task.wrapup", False, _TASK),
        ("reservation.created", False, _TASK),
        ("reservation.accepted", True, "Which worker took a call is not known: rules on a worker stay open."),
        ("reservation.completed", False, _TASK),
        ("reservation.wrapup", False, _TASK),
    ),
    # Perhaps only with advanced features: https://www.twilio.com/docs/voice/voice-insights/event-streams.
    *_family(
        "voice.insights",
        2,
        ("conference-summary.partial", False, "A recorded conference of which no event came is suspected later."),
        ("conference-summary.complete", False, "A recorded conference of which no event came is never suspected."),
        ("conference-participant-summary.complete", False, "Lost participant events are not made up for."),
    ),
    *_family(
        "voice.insights",
        7,
        ("call-summary.partial", False, "Lost call events are made up for later."),
        ("call-summary.complete", False, "Lost call events are not made up for."),
    ),
)

LOOPING: Final = "com.twilio.error-logs."
"""Types that Twilio writes when it cannot deliver: to the sink that it cannot deliver to, they feed themselves.

https://www.twilio.com/docs/events/event-types/errors/error-logs
"""

# --- What an account has -----------------------------------------------------------------------------------------


class Sink(msgspec.Struct, frozen=True, kw_only=True):
    """Where events go. ``destination`` is an address as ``address_of`` gives it, empty where the kind has none.

    ``batched`` None: Twilio does not say.
    """

    sid: str
    description: str
    kind: str
    status: str
    destination: str = ""
    method: str = "POST"
    batched: bool | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """Which types go to a sink, each with its schema version; of what does not lead to us they need not be known."""

    sid: str
    description: str
    sink_sid: str
    types: Mapping[str, int]


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """All sinks and subscriptions of one account, and the types that Twilio offers it (None: it does not say)."""

    sinks: Sequence[Sink] = ()
    subscriptions: Sequence[Subscription] = ()
    offered: frozenset[str] | None = None

    def offers(self, name: str) -> bool:
        """Whether a type can be subscribed here, as far as Twilio says."""
        return self.offered is None or name in self.offered


def address_of(url: str) -> str:
    """An address as it is compared and shown: without user, password, query, and what is spelled in several ways."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{port}' if port not in (None, usual) else ''}{parts.path.rstrip('/')}"


# --- What is wrong, and what mends it ----------------------------------------------------------------------------

Level = Literal["ok", "missing", "wrong", "optional"]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at. ``missing`` and ``wrong`` are what makes the answer no.

    ``by_hand``: it is not ours, and ``apply`` does not touch it.
    """

    level: Level
    about: str
    says: str
    by_hand: bool = False


class CreateSink(msgspec.Struct, frozen=True, tag="create-sink"):
    """Make a sink that leads to us."""

    destination: str

    def __str__(self) -> str:
        return f"+ sink to {self.destination}, webhook, POST, batched"


class ValidateSink(msgspec.Struct, frozen=True, tag="validate-sink"):
    """Have Twilio send a test to the sink, and tell it what arrived; ``sink_sid`` None: the one just made."""

    sink_sid: str | None

    def __str__(self) -> str:
        return f"~ sink {self.sink_sid or '(new)'}: test it, and validate it with what arrives"


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    """Make a subscription of these types to the sink; ``sink_sid`` None: the one just made."""

    sink_sid: str | None
    types: Mapping[str, int]

    def __str__(self) -> str:
        lines = [f"+ subscription to sink {self.sink_sid or '(new)'}"]
        return "\n".join([*lines, *[f"  + {name} version {version}" for name, version in self.types.items()]])


class AddType(msgspec.Struct, frozen=True, tag="add-type"):
    """Add a type to a subscription; ``subscription_sid`` None: the one just made.

    Twilio may refuse one that is not ``required`` (a product that the account does not have): no harm is done.
    """

    subscription_sid: str | None
    name: str
    version: int
    required: bool

    def __str__(self) -> str:
        return f"+ subscription {self.subscription_sid or '(new)'}: {self.name} version {self.version}"


class SetVersion(msgspec.Struct, frozen=True, tag="set-version"):
    """Have a subscription carry a type in another schema version."""

    subscription_sid: str
    name: str
    before: int
    version: int

    def __str__(self) -> str:
        return f"~ subscription {self.subscription_sid}: {self.name} version {self.before} -> {self.version}"


class RemoveType(msgspec.Struct, frozen=True, tag="remove-type"):
    """Take a type out of a subscription of ours."""

    subscription_sid: str
    name: str

    def __str__(self) -> str:
        return f"- subscription {self.subscription_sid}: {self.name}"


class DeleteSubscription(msgspec.Struct, frozen=True, tag="delete-subscription"):
    """Delete a subscription of ours."""

    subscription_sid: str

    def __str__(self) -> str:
        return f"- subscription {self.subscription_sid}"


class DeleteSink(msgspec.Struct, frozen=True, tag="delete-sink"):
    """Delete a sink of ours that no subscription needs any more."""

    sink_sid: str

    def __str__(self) -> str:
        return f"- sink {self.sink_sid}"


Step = CreateSink | ValidateSink | Subscribe | AddType | SetVersion | RemoveType | DeleteSubscription | DeleteSink


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Where events have to go, and by what name ours are known: ``installation`` tells two monitors apart.

    ``prune``: delete also what is ours and leads to another address.
    """

    destination: str
    installation: str
    prune: bool = False

    @property
    def description(self) -> str:
        """What stands on everything that we make."""
        return f"{PREFIX} ({self.installation})"

    def made(self, thing: Sink | Subscription) -> bool:
        """Whether we made it, by its description."""
        return thing.description.startswith(self.description)


class Comparison(msgspec.Struct, frozen=True):
    """What was found in an account, and the steps that mend it, in order; both empty of what is not ours to change."""

    findings: Sequence[Finding]
    steps: Sequence[Step]

    @property
    def good(self) -> bool:
        """Whether everything that is required is there and nothing is wrong."""
        return all(finding.level in ("ok", "optional") for finding in self.findings)


def compare(has: Streams, wanted: Wanted, *, checkable: bool = True) -> Comparison:
    """Hold what an account has against what the monitor needs.

    ``checkable``: whether the bridge has the token that this account's requests are signed with. Without it everything
    that came would be refused, and nothing is to be changed.

    The order of the steps is such that events never stop: what is new is validated and subscribed before what is old
    is deleted, and to stop after any of them leaves what the next look mends.
    """
    look = _Look(has, wanted)
    look.sink()
    look.types()
    look.others()
    if not checkable:
        says = (
            "The bridge cannot check what this account signs, for it has no token of it: give the account an entry of "
            "its own under `accounts`, with its auth_token_file."
        )
        return Comparison([Finding("wrong", "auth_token_file", says, by_hand=True), *look.findings], [])
    return Comparison(look.findings, [*look.steps, *look.deletions])


class _Look:
    """One comparison on its way."""

    def __init__(self, has: Streams, wanted: Wanted) -> None:
        self._has = has
        self._wanted = wanted
        self.findings: list[Finding] = []
        self.steps: list[Step] = []
        self.deletions: list[Step] = []
        self._leading = [sink for sink in has.sinks if sink.destination == wanted.destination]
        by_sink: dict[str, list[Subscription]] = {}
        for subscription in has.subscriptions:
            by_sink.setdefault(subscription.sink_sid, []).append(subscription)
        self._by_sink = by_sink
        self._sink = self._choose()
        self._blocked = False

    def _choose(self) -> Sink | None:
        """The sink that carries our events: the one that has most of what it takes."""
        usable = [
            sink
            for sink in self._leading
            if sink.method == "POST" and (self._fits(sink) or not self._wanted.made(sink))
        ]
        return min(
            usable,
            key=lambda sink: (
                not self._fits(sink),
                not self._by_sink.get(sink.sid),
                sink.status != "active",
                not self._wanted.made(sink),
                sink.sid,
            ),
            default=None,
        )

    @staticmethod
    def _fits(sink: Sink) -> bool:
        return sink.kind == "webhook" and sink.method == "POST" and sink.batched is not False

    def sink(self) -> None:
        """Is there a sink that leads to us, and may events go there?"""
        sink = self._sink
        if sink is None:
            says = f"No sink leads to {self._wanted.destination}: no event of this account comes."
            self._found("missing", "sink", says)
            if len(self._has.sinks) >= SINKS_MAX:
                says = f"There are {SINKS_MAX} sinks already, the most: delete one."
                self._found("wrong", "sink", says, by_hand=True)
                self._blocked = True
                return
            self.steps += [CreateSink(self._wanted.destination), ValidateSink(None)]
            return
        if sink.batched is False:
            says = "It sends each event in a request of its own (batch_events is off): delete it, and apply anew."
            self._found("wrong", sink.sid, says, by_hand=True)
        if sink.status == "active":
            self._found("ok", sink.sid, f"The sink to {self._wanted.destination} is active.")
            return
        # https://www.twilio.com/docs/events/webhook-quickstart: only an active sink can be subscribed to.
        says = {
            "failed": "Twilio could not validate the sink: it is not active.",
            "initialized": "The sink was never validated: it is not active.",
            "validating": "A test of the sink is on its way, or never arrived: it is not active.",
        }.get(sink.status, "Twilio gives the sink a state that this monitor does not know.")
        self._found("wrong", sink.sid, says)
        self.steps.append(ValidateSink(sink.sid))

    def types(self) -> None:
        """Is every type on its way to us, in the version that we read?"""
        if self._blocked:
            return
        subscription = next(iter(self._by_sink.get(self._sink.sid, ()) if self._sink else ()), None)
        carried = {} if subscription is None else subscription.types
        if subscription is None:
            self._found("missing", "subscription", "Nothing is subscribed for the sink.")
            required = {each.name: each.version for each in NEEDED if each.required and self._has.offers(each.name)}
            if len(self._has.subscriptions) >= SINKS_MAX:
                says = f"There are {SINKS_MAX} subscriptions already, the most: delete one."
                self._found("wrong", "subscription", says, by_hand=True)
                self.steps.clear()
                self._blocked = True
                return
            self.steps.append(Subscribe(self._sink.sid if self._sink else None, required))
        sid = None if subscription is None else subscription.sid
        fine = 0
        for each in NEEDED:
            version = carried.get(each.name)
            if version == each.version:
                fine += 1
            elif version is not None:
                assert sid is not None
                says = f"It comes in schema version {version}; version {each.version} is what the monitor reads."
                self._found("wrong", each.name, says)
                self.steps.append(SetVersion(sid, each.name, version, each.version))
            elif not self._has.offers(each.name):
                says = f"Twilio does not offer it to this account. {each.blind}"
                self._found("missing" if each.required else "optional", each.name, says, by_hand=True)
            else:
                self._found("missing" if each.required else "optional", each.name, each.blind)
                if subscription is not None or not each.required:
                    self.steps.append(AddType(sid, each.name, each.version, each.required))
        if fine:
            self._found("ok", str(sid), f"The subscription carries {fine} of {len(NEEDED)} types as needed.")

    def others(self) -> None:
        """What else leads to us, or is ours and leads elsewhere."""
        if self._blocked:
            return
        chosen = self._by_sink.get(self._sink.sid, [])[:1] if self._sink else []
        seen = {name for subscription in chosen for name in subscription.types}
        for sink in self._leading:
            for subscription in self._by_sink.get(sink.sid, ()):
                self._loops(subscription)
                if subscription in chosen:
                    continue
                self._twice(subscription, seen & set(subscription.types))
                seen |= set(subscription.types)
            if sink is not self._sink and self._wanted.made(sink):
                self._superfluous(sink)
        for sink in self._has.sinks:
            if self._wanted.made(sink) and sink not in self._leading:
                self._elsewhere(sink)

    def _loops(self, subscription: Subscription) -> None:
        for name in sorted(subscription.types):
            if name.startswith(LOOPING):
                says = "Twilio's errors about this sink go to this sink: each that it cannot deliver makes another."
                ours = self._wanted.made(subscription)
                self._found("wrong", name, says, by_hand=not ours)
                if ours:
                    self.steps.append(RemoveType(subscription.sid, name))

    def _twice(self, subscription: Subscription, types: Iterable[str]) -> None:
        names = sorted(types)
        ours = self._wanted.made(subscription)
        if names:
            says = f"It sends {len(names)} types a second time, {names[0]} among them: each such event costs twice."
            self._found("wrong", subscription.sid, says, by_hand=not ours)
        elif ours:
            self._found("wrong", subscription.sid, "The subscription is ours, and one too many.")
        if ours:
            self.deletions.append(DeleteSubscription(subscription.sid))

    def _superfluous(self, sink: Sink) -> None:
        ours = self._ours_alone(sink)
        says = "one too many" if self._fits(sink) else "does not send arrays by POST"
        self._found("wrong", sink.sid, f"The sink is ours, but {says}.", by_hand=not ours)
        if ours:
            self.deletions.append(DeleteSink(sink.sid))

    def _elsewhere(self, sink: Sink) -> None:
        says = (
            f"The sink bears our name ({self._wanted.installation}) and leads to {sink.destination or 'no address'}. "
            "Left over? `apply --prune` deletes it. Another monitor's? Give that one another kafka.group_id."
        )
        deletable = self._wanted.prune and self._ours_alone(sink)
        self._found("wrong", sink.sid, says, by_hand=not deletable)
        if deletable:
            self.deletions += [DeleteSubscription(each.sid) for each in self._by_sink.get(sink.sid, ())]
            self.deletions.append(DeleteSink(sink.sid))

    def _ours_alone(self, sink: Sink) -> bool:
        """Whether no subscription of somebody else's goes there."""
        return all(self._wanted.made(each) for each in self._by_sink.get(sink.sid, ()))

    def _found(self, level: Level, about: str, says: str, *, by_hand: bool = False) -> None:
        self.findings.append(Finding(level, about, says, by_hand))
