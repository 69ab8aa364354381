"""The contact centre at work: scenes begin, overlap and end, and their events come out in the order of their delivery.

``traffic`` is a pure function of its knobs: the same knobs give the same bytes, wherever and whenever it runs. It plans
one scene at a time, as it begins, and keeps no more than the calls under way. ``truth`` plans the same scenes without
rendering an event, so that all of it can be written down before the first one. Between a scene's script and the stream
stands what happens to events on their way: loss, delay, disorder, repeats, and garbage in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush, heapreplace
from operator import itemgetter
from random import Random
from typing import Final, NamedTuple

import msgspec

from monitor.simulator import envelopes as say
from monitor.simulator.scenes import (
    DEFAULT_CAUSES,
    FLEX_CAUSES,
    FLEX_STATES,
    HOUR,
    PLUGIN_CALLBACK,
    SCENES,
    SECOND,
    SESSION_MAX_MS,
    UNRECORDED,
    Desk,
    Render,
    Scene,
    Script,
)
from monitor.simulator.truth import Counts, Header, Line, RecordingTruth, Starter

SIMULATOR: Final = 1
"""The version of the scripts: the same seed means the same bytes for as long as this number stays."""

LATENESS_MAX_S: Final = 3.5 * 3600
"""Twilio drops an event after four hours, and a window closes after as many: what came later would be no duplicate
any more but late, and the counts would no longer be exact."""
_DEFAULT_START_MS: Final = 1_793_631_600_000  # 2026-11-02T15:00:00Z


class KnobError(ValueError):
    """A knob is set to what makes no sense; the message names it and says what would."""


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """How the traffic is to be. Shares are from 0 to 1; ``*_s`` are seconds, ``*_ms`` milliseconds since 1970.

    Calls begin until the first of ``calls``, ``events`` and ``duration_s`` is reached and are then brought to their
    end; without any of the three they begin for ever. Raises ``KnobError``.
    """

    seed: int = 1
    start_ms: int = _DEFAULT_START_MS
    """When the first call begins, and what account settings are relative to."""
    rate: float = 100.0
    """Entries a second of simulated time, once the first calls have run their course."""
    calls: int | None = None
    events: int | None = None
    """Entries of every kind; a run writes this many or, since every call is brought to its end, a few more."""
    duration_s: float | None = None
    accounts: int = 6
    tempo: float = 1.0
    """How many times faster than in life people wait and talk."""
    recorded: float = 0.35
    """Share of calls that something records."""
    causes: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Weights of the causes of recordings (keys of ``SCENES``); empty: as in life, as far as the accounts allow it."""
    duplicates: float = 0.02
    """Share of events that come again, byte for byte, at most half a minute (or ``disorder_s``) later."""
    retried: float = 0.0
    """Share of Voice events that come again under a new id."""
    disorder_s: float = 2.0
    """Every event is delivered up to this long after it happened."""
    late: float = 0.0
    """Share of events that are delivered up to ``lateness_s`` later than that."""
    lateness_s: float = 600.0
    loss: float = 0.0
    """Share of events that are never delivered; the truth then says which of its fields they leave untold."""
    malformed: float = 0.0
    """Share of entries that nobody can read."""

    def __post_init__(self) -> None:
        for name in ("recorded", "duplicates", "retried", "late", "loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise KnobError(f"{name} is {getattr(self, name):g}: a share lies between 0 and 1")
        if not 0 <= self.malformed <= 0.5:
            raise KnobError(f"malformed is {self.malformed:g}: this share lies between 0 and 0.5")
        for name in ("rate", "tempo"):
            if not 0 < getattr(self, name) < float("inf"):
                raise KnobError(f"{name} is {getattr(self, name):g}: it must be greater than 0")
        for name in ("calls", "events", "duration_s"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise KnobError(f"{name} is {getattr(self, name):g}: it must be greater than 0")
        for name in ("disorder_s", "lateness_s"):
            if not 0 <= getattr(self, name) <= LATENESS_MAX_S:
                raise KnobError(f"{name} is {getattr(self, name):g}: it lies between 0 and {LATENESS_MAX_S:g} seconds")
        if self.accounts < 1:
            raise KnobError(f"accounts is {self.accounts}: there must be at least one")
        for name, weight in self.causes.items():
            if name not in SCENES:
                raise KnobError(f"cause {name!r} is not known; known are {', '.join(SCENES)}")
            if not 0 <= weight < float("inf"):
                raise KnobError(f"cause {name} has weight {weight:g}: a weight is at least 0")
            if weight and name in FLEX_CAUSES and not _states_of(self, name):
                fitting = next(n for n in range(len(FLEX_STATES)) if name in _possible(n))
                raise KnobError(f"cause {name} needs at least {fitting + 1} accounts: each has its own Flex setting")
        if self.causes and not any(self.causes.values()):
            raise KnobError("causes: at least one must have a weight greater than 0")

    @property
    def bounded(self) -> bool:
        """Whether the traffic comes to an end."""
        return not (self.calls is None and self.events is None and self.duration_s is None)


class Delivery(NamedTuple):
    """One entry on its way: due when, what it is and how it is rendered."""

    due_ms: int
    at_ms: int
    render: Render
    args: tuple[object, ...]
    id: str


class Plan(NamedTuple):
    """One scene as it reaches the stream: what is delivered (in order) and what is true of it."""

    started_ms: int
    account_sid: str
    deliveries: list[Delivery]
    truths: list[RecordingTruth]
    counts: Counts


def traffic(
    knobs: Knobs, begin: Callable[[list[RecordingTruth]], None] | None = None
) -> Iterator[tuple[int, str, bytes]]:
    """Yield (due_ms, account SID, bytes) of every entry, in the order of delivery; ``due_ms`` never falls.

    ``begin`` is called with the truths of each scene before the first of its entries is yielded.
    """
    under_way: list[tuple[int, int, int, Plan]] = []  # Next due, the plan's number and its next delivery.
    for number, plan in enumerate(plans(knobs)):
        while under_way and under_way[0][0] < plan.started_ms:
            yield _next(under_way)
        if begin is not None:
            begin(plan.truths)
        if plan.deliveries:
            heappush(under_way, (plan.deliveries[0].due_ms, number, 0, plan))
    while under_way:
        yield _next(under_way)


def _next(under_way: list[tuple[int, int, int, Plan]]) -> tuple[int, str, bytes]:
    due_ms, number, place, plan = under_way[0]
    deliveries = plan.deliveries
    _, at_ms, render, args, id_ = deliveries[place]
    place += 1
    if place < len(deliveries):
        heapreplace(under_way, (deliveries[place].due_ms, number, place, plan))
    else:
        heappop(under_way)
    return due_ms, plan.account_sid, render(at_ms, id_, *args)


def header(knobs: Knobs) -> Header:
    """The first line of the truth."""
    settings = msgspec.to_builtins(knobs)
    settings["causes"] = _weights(knobs)
    return Header(
        simulator=SIMULATOR,
        seed=knobs.seed,
        bounded=knobs.bounded,
        settings=settings,
        starters=(Starter(PLUGIN_CALLBACK + "*", "flex_plugin", "dual-channel plugin"),),
        session_max_hours=SESSION_MAX_MS // HOUR,
    )


def truth(knobs: Knobs) -> Iterator[Line]:
    """Yield all the lines of the truth, before a single event is made. Raises ``KnobError`` for endless traffic."""
    if not knobs.bounded:
        raise KnobError("endless traffic has no whole truth; bound it by calls, events or duration")
    yield header(knobs)
    total = Counts()
    for plan in plans(knobs):
        yield from plan.truths
        add_counts(total, plan.counts)
    yield total


def add_counts(total: Counts, more: Counts) -> None:
    """Add ``more`` to ``total``."""
    for name in Counts.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(more, name))


def plans(knobs: Knobs) -> Iterator[Plan]:
    """Yield the scenes in the order in which they begin, the accounts' settings before them and where they change."""
    desks = [Desk(Random(f"{knobs.seed}:account:{n}"), n, knobs.start_ms) for n in range(knobs.accounts)]
    groups = [desks[n :: len(FLEX_STATES)] for n in range(len(FLEX_STATES))]
    weights = _weights(knobs)
    causes, running = _running(weights)
    for desk in desks:
        yield _opening(knobs, desk)
    changes = [desk for desk in desks if desk.flex.turned_off_after_ms is not None]
    changed_ms = changes[0].turned_off_ms(knobs.tempo) if changes else None
    last_ms, clock, made, number = knobs.start_ms, float(knobs.start_ms), 0, 0
    end_ms = None if knobs.duration_s is None else knobs.start_ms + knobs.duration_s * SECOND
    while (
        (knobs.calls is None or number < knobs.calls)
        and (knobs.events is None or made < knobs.events)
        and (end_ms is None or clock < end_ms)
    ):
        started_ms = int(clock)
        if changed_ms is not None and changed_ms <= started_ms:
            for desk in changes:
                yield _turned_off(desk, changed_ms, started_ms)
            changed_ms = None
        rng = Random(knobs.seed * 1_000_000_007 + number)
        cause = causes[_drawn(rng, running)] if rng.random() < knobs.recorded else None
        desk = _desk_for(rng, cause, desks, groups, started_ms, knobs.tempo)
        plan = _plan(knobs, rng, desk, cause, started_ms)
        yield plan
        if plan.deliveries:
            last_ms = max(last_ms, plan.deliveries[-1].due_ms)
        made += plan.counts.entries
        number += 1
        # The rate is kept by spacing scenes by what each brings; they come as people do, without regard of each other.
        clock += plan.counts.entries * SECOND / knobs.rate * rng.expovariate(1.0)
    if changed_ms is not None and changed_ms <= last_ms:
        for desk in changes:
            yield _turned_off(desk, changed_ms, changed_ms)


def _desk_for(
    rng: Random, cause: str | None, desks: list[Desk], groups: list[list[Desk]], at_ms: int, tempo: float
) -> Desk:
    """An account where this cause can be: for those of Flex, one that is set so at ``at_ms``."""
    if cause in FLEX_CAUSES:
        fitting = [group for group in groups if group and group[0].flex_cause(at_ms, tempo) == cause]
        if fitting:
            place = rng.randrange(sum(map(len, fitting)))
            for group in fitting:
                if place < len(group):
                    return group[place]
                place -= len(group)
    return desks[rng.randrange(len(desks))]


def _plan(knobs: Knobs, rng: Random, desk: Desk, cause: str | None, started_ms: int) -> Plan:
    """Write one scene and let its events go their way."""
    scene = _pick(rng, UNRECORDED if cause is None else SCENES[cause])
    script = Script(rng, desk, started_ms, scene.__name__, knobs.tempo, whole=not knobs.loss)
    scene(script, cause)
    return _delivered(knobs, script)


def _event_id(base: int, number: int) -> str:
    """The id of an event of a scene, without its prefix: no two have more in common than chance has it."""
    return f"{(base * _SPREAD + number * _STEP) & _ID_MAX:032x}"


# Odd numbers without a pattern: events that share half of their ids would take less memory than Twilio's do.
_SPREAD: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835
_STEP: Final = 0xD1342543DE82EF95A0761D6478BD642F
_ID_MAX: Final = (1 << 128) - 1


def _delivered(knobs: Knobs, script: Script) -> Plan:
    """Lose, delay and repeat a script's events, and put garbage between them, as the knobs say."""
    rng, random = script.rng, script.rng.random
    # All other chance comes before this line: the same calls are made whatever happens to their events.
    id_base = rng.getrandbits(104)
    disorder_ms, lateness_ms = knobs.disorder_s * SECOND, knobs.lateness_s * SECOND
    again_ms = max(30 * SECOND, disorder_ms)
    loss, late, duplicates, retried = knobs.loss, knobs.late, knobs.duplicates, knobs.retried
    # A share of all entries, and so a greater one of those that can be read.
    malformed = knobs.malformed / (1 - knobs.malformed)
    lost: dict[str, int] = {}
    told: dict[str, int] = {}
    counts = Counts(calls=1)
    deliveries: list[Delivery] = []
    n = 0
    for at_ms, render, args, token in script.actions:
        n += 1
        if loss and random() < loss:
            counts.lost += 1
            if token:
                lost[token] = lost.get(token, 0) + 1
            continue
        if token:
            told[token] = told.get(token, 0) + 1
        due_ms = at_ms + int(random() * disorder_ms) if disorder_ms else at_ms
        if late and random() < late:
            due_ms += int(random() * lateness_ms)
        id_ = _event_id(id_base, n)
        delivery = Delivery(due_ms, at_ms, render, args, id_)
        deliveries.append(delivery)
        if render in say.IGNORED:
            counts.ignored += 1
        else:
            counts.events += 1
            if render not in say.WITHOUT_MEMBERS:
                if duplicates and random() < duplicates:
                    deliveries.append(delivery._replace(due_ms=due_ms + int(random() * again_ms)))
                    counts.duplicates += 1
                if retried and render in say.VOICE_CALLBACKS and random() < retried:
                    n += 1
                    again = delivery._replace(due_ms=due_ms + int(random() * again_ms), id=_event_id(id_base, n))
                    deliveries.append(again)
                    counts.events += 1
                    counts.retried += 1
        if malformed and random() < malformed:
            n += 1
            kind = say.GARBAGE_KINDS[rng.randrange(len(say.GARBAGE_KINDS))]
            deliveries.append(Delivery(due_ms, at_ms, say.garbage, (script.account, kind), _event_id(id_base, n)))
            counts.malformed += 1
    deliveries.sort(key=itemgetter(0))
    counts.entries = len(deliveries)
    script.settle(lost, told)
    counts.recordings = sum(one.kind == "recording" for one in script.truths)
    counts.suspicions = len(script.truths) - counts.recordings
    return Plan(script.start_ms, script.account.sid, deliveries, script.truths, counts)


def _opening(knobs: Knobs, desk: Desk) -> Plan:
    """What is told of an account before its first call. Settings are never lost, repeated or late: they are ours."""
    at_ms = knobs.start_ms
    tested = Delivery(at_ms, at_ms, say.sink_tested, (desk.account,), f"{desk.account.sid[2:]}")
    told = [Delivery(at_ms, at_ms, render, args, "") for render, args in desk.settings()]
    counts = Counts(entries=len(told) + 1, events=len(told), ignored=1, settings=len(told))
    return Plan(at_ms, desk.account.sid, [*told, tested], [], counts)


def _turned_off(desk: Desk, changed_ms: int, seen_ms: int) -> Plan:
    """Somebody turned Flex recording off at ``changed_ms``, and it is seen at ``seen_ms``."""
    args = (desk.account, "false", changed_ms, "true")
    told = [Delivery(seen_ms, seen_ms, say.flex_observed, args, "")]
    return Plan(seen_ms, desk.account.sid, told, [], Counts(entries=1, events=1, settings=1))


def _possible(state: int) -> tuple[str, ...]:
    """The Flex causes that an account in this state (an index of ``FLEX_STATES``) can have near the start."""
    desk = Desk(Random(0), state, 0)
    turned_off_ms = desk.turned_off_ms(1.0)
    return tuple({desk.flex_cause(at_ms, 1.0): None for at_ms in (0, turned_off_ms or 0)})


def _states_of(knobs: Knobs, cause: str) -> list[int]:
    """The states among the accounts of this run that can have a Flex cause."""
    return [state for state in range(min(knobs.accounts, len(FLEX_STATES))) if cause in _possible(state)]


def _weights(knobs: Knobs) -> dict[str, float]:
    """The weights of causes that apply: those asked for, else as in life, without what no account here can have."""
    if knobs.causes:
        return {cause: float(weight) for cause, weight in knobs.causes.items() if weight}
    return {
        cause: weight
        for cause, weight in DEFAULT_CAUSES.items()
        if cause not in FLEX_CAUSES or _states_of(knobs, cause)
    }


def _running(weights: Mapping[str, float]) -> tuple[list[str], list[float]]:
    """Names and running sums of weights, as parts of one."""
    total, sums, so_far = sum(weights.values()), list[float](), 0.0
    for weight in weights.values():
        so_far += weight
        sums.append(so_far / total)
    return list(weights), sums


def _drawn(rng: Random, sums: list[float]) -> int:
    draw = rng.random()
    return next((n for n, up_to in enumerate(sums) if draw < up_to), len(sums) - 1)


def _pick(rng: Random, scenes: tuple[tuple[Scene, float], ...]) -> Scene:
    draw = rng.random() * sum(weight for _, weight in scenes)
    for scene, weight in scenes:
        draw -= weight
        if draw < 0:
            return scene
    return scenes[-1][0]
