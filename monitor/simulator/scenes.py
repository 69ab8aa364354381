"""The scripts: what happens in one call from its first ring to the last summary of it, and what is true of it.

A scene is a function that writes into a ``Script``: who calls, what runs, who enters which conference, what is recorded
and why. It states the cause of each recording itself, and the script works out from its own bookkeeping of who was
where which conference a call recording belongs to. So the truth is never read back from events.

Two kinds of spans stand in a scene. Waiting and talking are divided by the tempo, so that a demonstration need not last
as long as life; the spans in which evidence counts (ten seconds for a cause, five for the entry into a conference) are
Twilio's and the monitor's and keep their length, and so do the distances from them that make a scene unambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from random import Random
from typing import Final, NamedTuple

from monitor.simulator import envelopes as say
from monitor.simulator.truth import UNTOLD_FIELDS, RecordingTruth

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

SESSION_MAX_MS: Final = DAY
"""How long after Flex recording went off an old agent session explains a recording."""
PLUGIN_CALLBACK: Final = "https://recording-plugin.example.com/dual-channel/"
"""Where the Flex plugin of this world has its recordings reported; the monitor's ``starters`` must name it."""
_APART_MS: Final = 20 * SECOND
"""Later than any evidence for the start of a recording counts, with room for seconds cut off."""
_ROOM_REST_MS: Final = 20 * SECOND
"""How long a room stays empty before its name is used again: two conferences of one name never touch."""
_AREA_CODES: Final = (
    202,
    206,
    212,
    213,
    303,
    305,
    312,
    313,
    404,
    415,
    503,
    512,
    602,
    612,
    617,
    702,
    713,
    718,
    808,
    916,
)

FLEX_CAUSES: Final = ("flex_call_recording", "flex_conference", "flex_stale_session", "flex_residual_setting")

_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>'
_MENU_TWIML: Final = (
    f'{_XML}<Response><Gather input="dtmf speech" timeout="5"><Say>Billing, or support?</Say></Gather></Response>'
)

_CAUSE: Final[tuple[str, ...]] = ("cause", "outcome")

Render = Callable[..., bytes]


class Action(NamedTuple):
    """One event to come: when it happens, how it is rendered, and what a truth rests on that it tells (``token``)."""

    at_ms: int
    render: Render
    args: tuple[object, ...]
    token: str


class Widget(NamedTuple):
    """One widget of a Studio flow: its name, its type, whether it records."""

    name: str
    type: str
    records: bool = False


class StudioFlow(NamedTuple):
    """A flow at one revision and its widgets; ``observed`` says whether the monitor is told of them."""

    flow: say.Flow
    widgets: tuple[Widget, ...]
    observed: bool = True


_WELCOME: Final = Widget("welcome", "say-play")
_MENU: Final = Widget("main_menu", "gather-input-on-call")
_ROUTE: Final = Widget("route_by_choice", "split-based-on")
_TO_FLEX: Final = Widget("send_to_flex_1", "send-to-flex")
_RECORDS: Final = Widget("call_recording_1", "record-call", records=True)
_RECORDS_NOT: Final = Widget("call_recording_1", "record-call")
_VOICEMAIL: Final = Widget("voicemail_1", "record-voicemail", records=True)


class FlexState(NamedTuple):
    """What the monitor is told of an account's Flex call recording, relative to the start of the traffic."""

    name: str
    enabled: bool | None
    """At the start; None where nobody has looked."""
    since_ms: int | None
    """Before the start; None where only the observation itself is known."""
    turned_off_after_ms: int | None = None
    """After the start, where it is turned off while the traffic runs."""


FLEX_STATES: Final = (
    FlexState("off-half-an-hour-ago", False, 30 * MINUTE),
    FlexState("on", True, 30 * DAY),
    FlexState("not-known", None, None),
    FlexState("off-two-days-ago", False, 2 * DAY),
    FlexState("turned-off-meanwhile", True, 3 * DAY, turned_off_after_ms=10 * MINUTE),
    FlexState("off-since-nobody-knows", False, None),
)


class Desk:
    """One account: its flows, agents and rooms, and what its Flex configuration says. Rooms are its only memory."""

    def __init__(self, rng: Random, index: int, start_ms: int) -> None:
        self.index = index
        self.start_ms = start_ms
        self.flex = FLEX_STATES[index % len(FLEX_STATES)]
        sid = f"AC{rng.getrandbits(128):032x}"
        self.account = say.Account(
            sid,
            f"voice{index + 1}.example.com",
            f"WS{rng.getrandbits(128):032x}",
            f"WW{rng.getrandbits(128):032x}",
            old_call_types=index % 7 == 3,
        )
        self.number = _number(rng)
        self.channel = f"TC{rng.getrandbits(128):032x}"
        self.queues = tuple((f"WQ{rng.getrandbits(128):032x}", name) for name in ("Everyone", "Billing", "Support"))
        self.workers = tuple(say.Worker(f"WK{rng.getrandbits(128):032x}", f"agent.{n:03}") for n in range(1, 17))
        ivr, other, voicemail, unseen = (f"FW{rng.getrandbits(128):032x}" for _ in range(4))
        revision = 1 + rng.randrange(30)
        self.plain_flows = (
            StudioFlow(say.Flow(other, revision), (_WELCOME, _MENU, _ROUTE, _TO_FLEX)),
            # Switched off in the widget, or taken out in the next revision: neither records, and both look alike.
            StudioFlow(say.Flow(other, revision + 1), (_WELCOME, _RECORDS_NOT, _MENU, _ROUTE, _TO_FLEX)),
            StudioFlow(say.Flow(ivr, revision + 1), (_WELCOME, _MENU, _ROUTE, _TO_FLEX)),
        )
        self.recording_flow = StudioFlow(say.Flow(ivr, revision), (_WELCOME, _RECORDS, _MENU, _ROUTE, _TO_FLEX))
        self.voicemail_flow = StudioFlow(say.Flow(voicemail, revision), (_WELCOME, _MENU, _VOICEMAIL))
        self.unseen_flow = StudioFlow(say.Flow(unseen, revision), (_WELCOME, _MENU, _ROUTE, _TO_FLEX), observed=False)
        self._rooms_free: list[tuple[int, str]] = []
        self._rooms = 0

    @property
    def flows(self) -> tuple[StudioFlow, ...]:
        """Every flow whose widgets the monitor is told."""
        return (*self.plain_flows, self.recording_flow, self.voicemail_flow)

    def turned_off_ms(self, tempo: float) -> int | None:
        """When Flex recording is turned off while the traffic runs (a whole second), or None if it is not."""
        after_ms = self.flex.turned_off_after_ms
        return None if after_ms is None else self.start_ms + int(after_ms / tempo) // SECOND * SECOND

    def flex_cause(self, at_ms: int, tempo: float) -> str:
        """Why a Flex conference is recorded that began to be so at ``at_ms``: by what this account has been set to."""
        if self.flex.enabled is None:
            return "flex_conference"
        turned_off_ms = self.turned_off_ms(tempo)
        if self.flex.enabled and (turned_off_ms is None or at_ms < turned_off_ms):
            return "flex_call_recording"
        if self.flex.enabled:
            off_since_ms = turned_off_ms
        else:
            off_since_ms = None if self.flex.since_ms is None else self.start_ms - self.flex.since_ms
        if off_since_ms is None or at_ms - off_since_ms < SESSION_MAX_MS:
            return "flex_stale_session"
        return "flex_residual_setting"

    def settings(self) -> list[tuple[Render, tuple[object, ...]]]:
        """What the monitor is told of this account before the traffic begins."""
        account, told = self.account, list[tuple[Render, tuple[object, ...]]]()
        if self.flex.enabled is not None:
            since_ms = None if self.flex.since_ms is None else self.start_ms - self.flex.since_ms
            now, before = ("true", "false") if self.flex.enabled else ("false", "true")
            previous = None if since_ms is None else before
            told.append((say.flex_observed, (account, now, since_ms, previous)))
        told += [(say.flow_observed, (account, flow.flow, flow.widgets)) for flow in self.flows]
        told += [
            (say.worker_observed, (account, worker, self.start_ms - (n % 9 + 1) * HOUR))
            for n, worker in enumerate(self.workers[:4])
        ]
        return told

    def take_room(self, at_ms: int) -> str:
        """Name a room that has been empty for a while at ``at_ms``, or a new one; give it back with ``leave_room``."""
        if self._rooms_free and self._rooms_free[0][0] <= at_ms:
            return heappop(self._rooms_free)[1]
        self._rooms += 1
        return f"support-room-{self._rooms}"

    def leave_room(self, name: str, ended_ms: int) -> None:
        """Give a room back whose last conference ends at ``ended_ms``."""
        heappush(self._rooms_free, (ended_ms + _ROOM_REST_MS, name))


class Stint(NamedTuple):
    """A call's time inside a conference."""

    join_ms: int
    leave_ms: int
    conference: str


class Extra(NamedTuple):
    """Something that happens to a participant between joining and leaving: ``participant-hold`` and the like."""

    at_ms: int
    call: say.Call
    what: str
    label: str
    on: say.Flag


class Leg(NamedTuple):
    """A participant of a conference as a scene describes it."""

    call: say.Call
    label: str
    join_ms: int
    leave_ms: int


def _number(rng: Random) -> str:
    """Make up a phone number from the range kept for fiction (555-0100 to 555-0199)."""
    return f"+1{_AREA_CODES[rng.randrange(len(_AREA_CODES))]}55501{rng.randrange(100):02}"


def _up(at_ms: int) -> int:
    """Round up to a whole second: recordings and callbacks state no smaller part."""
    return -(-at_ms // SECOND) * SECOND


class Script:
    """One scene while it is being written: its events to come and its truths, in any order."""

    def __init__(self, rng: Random, desk: Desk, start_ms: int, name: str, tempo: float, *, whole: bool) -> None:
        self.rng = rng
        self.random = rng.random
        self.desk = desk
        self.account = desk.account
        self.start_ms = start_ms
        self.name = name
        self.tempo = tempo
        self.whole = whole
        """Whether every event of the scene arrives: what can be told in one place only is left out where not."""
        self.actions: list[Action] = []
        self.truths: list[RecordingTruth] = []
        self._rests: list[tuple[RecordingTruth, Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]] = []
        self._stints: dict[str, list[Stint]] = {}
        self._of_call: list[tuple[RecordingTruth, str, int]] = []

    # -- chance and time --

    def chance(self, share: float) -> bool:
        """Whether something comes true that does in ``share`` of all cases."""
        return self.random() < share

    def between(self, least_s: float, most_s: float) -> int:
        """A span of its own length, in milliseconds."""
        return int((least_s + self.random() * (most_s - least_s)) * SECOND)

    def wait(self, least_s: float, most_s: float) -> int:
        """A span that the tempo shortens, in milliseconds; at least one."""
        return int((least_s + self.random() * (most_s - least_s)) * SECOND / self.tempo) + 1

    def talk(self, at_least_s: float = 8) -> int:
        """How long two people talk, in milliseconds: most briefly, a few for a quarter of an hour."""
        seconds = min(900.0, 20 + self.rng.expovariate(1 / 130))
        return int(max(at_least_s, seconds / self.tempo) * SECOND)

    def sid(self, prefix: str) -> str:
        """A new SID."""
        return f"{prefix}{self.rng.getrandbits(128):032x}"

    def add(self, at_ms: int, render: Render, *args: object, token: str = "") -> None:
        """Let an event happen. ``token`` names what it tells that a truth may rest on."""
        self.actions.append(Action(max(at_ms, self.start_ms), render, args, token))

    # -- calls --

    def customer(self) -> say.Call:
        """A person calling in."""
        return say.Call(self.account, self.sid("CA"), None, "inbound", _number(self.rng), self.desk.number)

    def leg(self, to: str | None = None, parent: str | None = None) -> say.Call:
        """A call the account makes; a leg of ``<Dial>`` where it has a parent."""
        direction = "outbound-api" if parent is None else "outbound-dial"
        to = _number(self.rng) if to is None else to
        return say.Call(self.account, self.sid("CA"), parent, direction, self.desk.number, to)

    def rings(self, call: say.Call, at_ms: int, after_ms: int) -> int:
        """Let a call ring from ``at_ms`` and be answered ``after_ms`` later; tell when that is."""
        self.add(at_ms, say.call_status, call, "initiated")
        self.add(at_ms + min(900, after_ms // 2), say.call_status, call, "ringing")
        self.add(at_ms + after_ms, say.call_status, call, "answered")
        return at_ms + after_ms

    def ends(self, call: say.Call, answered_ms: int, at_ms: int, *, summary: bool = True, trunk: str = "") -> None:
        """Let a call end, and Voice Insights report on it: soon for a start, then when all is counted."""
        seconds = max(0, at_ms - answered_ms) // SECOND
        if not trunk:
            self.add(at_ms, say.call_status, call, "completed", seconds)
        if summary:
            self.add(at_ms + self.wait(90, 600), say.call_summary, call, "partial", answered_ms, at_ms, trunk)
            last_ms = at_ms + self.wait(1200, 1800)
            if self.chance(0.1):
                early_ms = at_ms + self.wait(620, 900)
                self.add(early_ms, say.call_summary, call, "predicted-complete", answered_ms, at_ms, trunk)
            self.add(last_ms, say.call_summary, call, "complete", answered_ms, at_ms, trunk)
            if self.chance(0.6):
                self.add(at_ms + self.wait(20, 60), say.call_metrics, call)

    def url(self, path: str) -> str:
        """An address in the customer's web service."""
        return f"https://{self.account.host}/{path}"

    def twiml(
        self,
        at_ms: int,
        call: say.Call,
        path: str,
        body: str,
        what: str = "call.requested",
        more: str = "",
        token: str = "",
    ) -> None:
        """Let Twilio fetch TwiML for a call and run it; ``body`` lacks the XML declaration."""
        status = "ringing" if what == "call.requested" and call.direction == "inbound" else "in-progress"
        self.add(at_ms, say.twiml, call, what, self.url(path), status, _XML + body, more, token=token)

    # -- conferences --

    def conference(self, name: str) -> say.Conference:
        """A new conference of that name."""
        return say.Conference(self.account, self.sid("CF"), name)

    def meets(
        self,
        conference: say.Conference,
        legs: list[Leg],
        *,
        recording_on: bool = False,
        by_api: bool = False,
        extras: tuple[Extra, ...] = (),
        summary: bool = True,
    ) -> tuple[int, int]:
        """Let ``legs`` (in order of joining) meet in a conference; tell when it starts and when it ends.

        It starts once two are in it and ends when the last has left, or a second later by the API. ``extras`` are
        holds, mutes and the like. ``recording_on`` is what Voice Insights will say.
        """
        told_on: say.Flag = "true" if recording_on else "false"
        started_ms = legs[1].join_ms if len(legs) > 1 else legs[0].join_ms
        last = max(legs, key=lambda leg: leg.leave_ms)
        ended_ms = last.leave_ms + (SECOND if by_api else 40)
        told: list[tuple[int, Render, tuple[object, ...], tuple[object, ...], str]] = []
        for leg in legs:
            sid = leg.call.sid
            self._stints.setdefault(sid, []).append(Stint(leg.join_ms, leg.leave_ms, conference.sid))
            told.append((leg.join_ms, say.participant_status, (sid, "participant-join"), (leg.label,), f"leg:{sid}"))
            told.append((leg.leave_ms, say.participant_status, (sid, "participant-leave"), (leg.label,), f"leg:{sid}"))
            if summary:
                participant = self.sid("CP")
                self.add(
                    ended_ms + self.wait(1200, 1750),
                    say.participant_summary,
                    participant,
                    conference,
                    leg.call,
                    leg.label,
                    told_on,
                    leg.join_ms,
                    leg.leave_ms,
                )
        for at_ms, call, what, label, on in extras:
            told.append((at_ms, say.participant_status, (call.sid, what), (label, on), ""))
        told.append((started_ms + 15, say.conference_status, ("conference-start",), (), f"name:{conference.sid}"))
        ended_by = "" if by_api else last.call.sid
        told.append((ended_ms, say.conference_status, ("conference-end",), (ended_by,), f"end:{conference.sid}"))
        told.sort(key=lambda one: one[0])
        for number, (at_ms, render, before, after, token) in enumerate(told, 1):
            self.add(at_ms, render, conference, *before, number, *after, token=token)
        if by_api:
            self.add(ended_ms - 200, say.conference_modified, conference)
        if summary:
            who = len({leg.call.sid for leg in legs})
            for state, at_ms in (("partial", self.wait(90, 170)), ("complete", self.wait(1200, 1800))):
                self.add(
                    ended_ms + at_ms,
                    say.conference_summary,
                    conference,
                    state,
                    told_on,
                    legs[0].join_ms,
                    ended_ms,
                    who,
                    token=f"summary:{conference.sid}",
                )
        return started_ms, ended_ms

    def where(self, call: str, at_ms: int) -> str | None:
        """The conference a call was in at ``at_ms``; else the next it entered, else the last before, else None."""
        stints = self._stints.get(call, [])
        inside = [stint for stint in stints if stint.join_ms <= at_ms < stint.leave_ms]
        after = [stint for stint in stints if stint.join_ms > at_ms]
        before = [stint for stint in stints if stint.leave_ms <= at_ms]
        if inside:
            return inside[0].conference
        if after:
            return min(after).conference
        return max(before, key=lambda stint: stint.leave_ms).conference if before else None

    # -- recordings --

    def recorded(
        self,
        cause: str | None,
        source: str | None,
        start_ms: int,
        end_ms: int,
        *,
        call: say.Call | None = None,
        conference: say.Conference | None = None,
        callback_url: str = "",
        channels: int = 2,
        start_stated: bool = True,
        fate: str = "",
        cause_rests_on: tuple[str, ...] = (),
        without_starters: tuple[str, str] | None = None,
    ) -> RecordingTruth:
        """Let a call or a conference be recorded from ``start_ms`` (cut to the second), because of ``cause``.

        ``fate`` says how it goes: ``completed``, ``absent``, ``failed``, ``paused`` (and resumed), ``begun`` (only the
        beginning is ever told) or ``verb`` (no event of its own: a verb's answer tells it); empty: chance decides.
        The cause rests on the events with a token of ``cause_rests_on``.
        """
        start_ms, end_ms = start_ms // SECOND * SECOND, max(end_ms, start_ms + SECOND)
        sid = self.sid("RE")
        recording = say.Recording(
            self.account,
            sid,
            None if call is None else call.sid,
            None if conference is None else conference.sid,
            source,
            channels,
            start_ms if start_stated else None,
            callback_url or self.url("callbacks/recording"),
        )
        if not fate:
            draw = self.random()
            # Most callers ask for the end alone, since that is Twilio's default; few for the beginning alone.
            fate = "begun" if draw < 0.04 else "paused" if draw < 0.12 else "completed"
            # Without media, what a policy allows may be judged in another way: these are left to what it forbids.
            if cause not in {None, "api_call_recording", "flex_plugin"} and draw > 0.96:
                fate = "absent" if draw < 0.99 else "failed"
        begins_told = fate in {"begun", "paused"} or (fate == "completed" and self.chance(0.6))
        if fate == "paused" and end_ms - start_ms < 12 * SECOND:
            fate = "completed"
        token = f"recording:{sid}"
        if begins_told:
            self.add(start_ms + self.between(0.2, 1.2), say.recording_status, recording, "in-progress", token=token)
        if fate == "paused":
            third_ms = (end_ms - start_ms) // 3
            self.add(start_ms + third_ms, say.recording_status, recording, "paused", token=token)
            self.add(start_ms + 2 * third_ms, say.recording_status, recording, "in-progress", token=token)
        seconds = (end_ms - start_ms) // SECOND
        ready_ms = end_ms + self.between(1.5, 6)
        if fate in {"completed", "paused"}:
            self.add(ready_ms, say.recording_status, recording, "completed", seconds, token=token)
        elif fate == "absent":
            code = "16101" if self.chance(0.7) else "16102"
            self.add(ready_ms, say.recording_status, recording, "absent", 0, code, token=token)
        elif fate == "failed":
            self.add(ready_ms, say.recording_status, recording, "failed", 0, "16105", token=token)
        status = {"begun": "in-progress", "paused": "completed", "verb": None}.get(fate, fate)
        outcome = "undetermined" if cause is None else "allowed" if cause == "api_call_recording" else "disallowed"
        truth = RecordingTruth(
            kind="recording",
            recording_sid=sid,
            account_sid=self.account.sid,
            start_source=source,
            cause=cause,
            outcome=outcome,
            call_sid=recording.call,
            conference_sid=recording.conference,
            started_at=say.iso(start_ms),
            status=status,
            scene=self.name,
            without_starters=without_starters,
        )
        if not start_stated or fate == "verb":
            truth.leave_untold(["started_at"])
        if fate == "verb":
            truth.leave_untold(["status"])
        any_of: dict[str, tuple[str, ...]] = dict.fromkeys(cause_rests_on, _CAUSE)
        any_of[token] = ("status", "started_at")
        one_of = {token: UNTOLD_FIELDS}
        if call is not None:
            self._of_call.append((truth, call.sid, start_ms))
            any_of[f"leg:{call.sid}"] = ("conference_sid",)
        self.truths.append(truth)
        self._rests.append((truth, any_of, one_of))
        return truth

    def suspected(self, cause: str, conference: say.Conference, start_ms: int) -> None:
        """Let a conference be recorded without a single recording event: only Voice Insights says so.

        What a monitor can say of the cause depends on what else it saw; the truth states it but has it compared by
        nobody.
        """
        truth = RecordingTruth(
            kind="suspicion",
            recording_sid=None,
            account_sid=self.account.sid,
            start_source=None,
            cause=cause,
            outcome="disallowed",
            call_sid=None,
            conference_sid=conference.sid,
            started_at=say.iso(start_ms),
            status=None,
            scene=self.name,
            untold=("start_source", "cause", "outcome", "started_at", "status"),
        )
        self.truths.append(truth)
        self._rests.append((truth, {}, {f"summary:{conference.sid}": UNTOLD_FIELDS}))

    def settle(self, lost: Mapping[str, int], told: Mapping[str, int]) -> None:
        """Finish the truths once it is known how many events of each token were lost, and how many were not."""
        for truth, call, start_ms in self._of_call:
            truth.conference_sid = self.where(call, start_ms)
        for truth, any_of, one_of in self._rests if lost else ():
            for token in lost:
                truth.leave_untold(any_of.get(token, ()))
                if not told.get(token):
                    truth.leave_untold(one_of.get(token, ()))

    # -- Studio --

    def studio(
        self, flow: StudioFlow, call: say.Call, at_ms: int, *, failed_widget: bool = False
    ) -> tuple[say.Execution, int, int | None]:
        """Let a call walk through a flow's widgets; tell the execution, when it enters the last one, and when it
        entered the one that records (None if it has none).

        ``failed_widget``: the widget that records is left by ``failed``.
        """
        account, token = self.account, f"studio:{call.sid}"
        execution = say.Execution(account, self.sid("FN"), flow.flow, call, at_ms)
        webhook = f"https://webhooks.twilio.com/v1/Accounts/{account.sid}/Flows/{flow.flow.sid}"
        said = f"<Say>Welcome. This call may be recorded.</Say><Redirect>{webhook}</Redirect>"
        welcome = f"{_XML}<Response>{said}</Response>"
        self.add(at_ms + 40, say.twiml, call, "call.requested", webhook, "ringing", welcome, "")
        self.add(at_ms + 90, say.execution_started, execution, token=token)
        at_ms += self.between(0.4, 0.9)
        before, leaves, transition, recorded_ms = "", "Trigger", "incomingCall", None
        for widget in flow.widgets:
            step = self.sid("FT")
            self.add(at_ms, say.step_ended, execution, step, before, transition, leaves, widget.name, token=token)
            before, leaves, transition = step, widget.name, "audioComplete"
            if widget.type == "record-call":
                recorded_ms = at_ms if widget.records else recorded_ms
                transition = "failed" if failed_widget else "success"
                at_ms += self.between(1.2, 2.4)
            elif widget.type == "gather-input-on-call":
                transition = "keypress"
                for _ in range(self.rng.randrange(3)):
                    self.add(at_ms + self.between(0.3, 1.5), say.ignored_of_call, call, "gather.partial.captured")
                at_ms += self.wait(2, 12)
                pressed = ',"Digits":"2"'
                self.add(at_ms - 1, say.twiml, call, "gather.finished", webhook, "in-progress", _MENU_TWIML, pressed)
            elif widget.type == "split-based-on":
                transition = "match"
                at_ms += self.between(0.05, 0.2)
            else:
                at_ms += self.wait(1, 5)
        return execution, at_ms, recorded_ms

    def leaves_studio(self, execution: say.Execution, at_ms: int, reason: str) -> None:
        """Let a flow's execution end."""
        self.add(at_ms, say.execution_ended, execution, reason, token=f"studio:{execution.call.sid}")

    def noise(self, call: say.Call, from_ms: int, to_ms: int, most: int) -> None:
        """Sprinkle events of no interest over a span of a call."""
        for _ in range(self.rng.randrange(most + 1)):
            at_ms = from_ms + int(self.random() * max(1, to_ms - from_ms))
            draw = self.random()
            if draw < 0.8:
                kind = ("transcription.processed", "stream.updated", "media.fetched")[self.rng.randrange(3)]
                self.add(at_ms, say.ignored_of_call, call, kind)
            elif draw < 0.9:
                self.add(at_ms, say.error_logged, self.account, call.sid)
            else:
                self.add(at_ms, say.unknown_type, self.account, "messaging.message.delivered")


# ---- TwiML -----------------------------------------------------------------------------------------------------------


def _room_twiml(s: Script, name: str, record: str) -> str:
    """TwiML that puts a call into a conference; ``record`` empty: nothing is said of recording."""
    told = (
        f' record="{record}" recordingStatusCallback="{s.url("callbacks/recording")}"'
        ' recordingStatusCallbackEvent="in-progress completed absent"'
        if record
        else ""
    )
    return (
        f'<Response><Dial><Conference{told} statusCallback="{s.url("callbacks/conference")}" '
        f'statusCallbackEvent="start end join leave">{name}</Conference></Dial></Response>'
    )


_RECORDING_MODES: Final = ("record-from-start", "record-from-start", "true")
_SILENT_MODES: Final = ("", "", "do-not-record", "false")


# ---- Scenes ----------------------------------------------------------------------------------------------------------


def flex_inbound(s: Script, cause: str | None) -> None:
    """A Flex call: Studio, queue, agent, conference, perhaps hold and transfer, wrap-up; recorded in many ways."""
    desk, t = s.desk, s.start_ms
    customer = s.customer()
    answered_ms = s.rings(customer, t, s.between(0.3, 1.2))
    failed_widget = cause == "api_call_recording" and s.chance(0.2)
    # A call that passes a widget which records is recorded by it, whatever records it too.
    if cause == "studio_call_recording_widget" or failed_widget:
        flow = desk.recording_flow
    elif cause is None or cause in {"undetermined", "suspicion", *FLEX_CAUSES}:
        flow = desk.unseen_flow if cause == "undetermined" or s.chance(0.15) else s.rng.choice(desk.plain_flows)
    else:
        flow = s.rng.choice(desk.plain_flows)
    execution, queued_ms, widget_ms = s.studio(flow, customer, answered_ms, failed_widget=failed_widget)

    task, conference = _flex_task(s, queued_ms + 150)
    first = f'"call_sid": "{customer.sid}", "from": "{customer.from_}", "to": "{customer.to}", "direction": "inbound"'
    enqueue = f'<Response><Enqueue workflowSid="{s.account.workflow}"><Task>{{}}</Task></Enqueue></Response>'
    s.twiml(queued_ms, customer, "twiml/enqueue", enqueue, "call.redirected")
    s.add(queued_ms + 150, say.task_event, task, "created", f"{{{first}}}")
    offered_ms = queued_ms + s.wait(1, 40)
    worker, agent, accepted_ms, reservation = _flex_agent(s, task, first, offered_ms)
    agent_ms = accepted_ms + s.between(1.5, 3)
    start_ms = agent_ms + s.between(1, 3)
    # Spans in which evidence counts do not shrink with the tempo, so such a call must be long enough for them.
    long = failed_widget or s.chance(0.1)
    end_ms = start_ms + s.talk(60 if long else 12)
    s.twiml(
        start_ms + 60,
        customer,
        "twiml/after-queue",
        "<Response/>",
        "enqueue.finished",
        _queue_result(s, queued_ms, start_ms),
    )

    by_conference = cause in FLEX_CAUSES
    legs = [Leg(agent, "worker", agent_ms, end_ms + 300), Leg(customer, "customer", start_ms, end_ms)]
    attributes = (
        f'{{{first}, "conference": {{"sid": "{conference.sid}", "participants": {{"customer": "{customer.sid}", '
        f'"worker": "{agent.sid}"}}}}, "worker_call_sid": "{agent.sid}"}}'
    )
    s.add(start_ms + s.between(0.8, 2.5), say.task_event, task, "updated", attributes, token=f"task:{task.sid}")
    extras = _holds(s, conference, customer, start_ms, end_ms)
    last_worker, last_reservation = worker, reservation
    if s.chance(0.15) and end_ms - start_ms > 45 * SECOND:
        second, joined_ms = _transfer(s, task, conference, attributes, start_ms, end_ms)
        last_worker, last_reservation, agent_two = second
        legs[0] = Leg(agent, "worker", agent_ms, joined_ms + s.between(3, 6))
        legs.append(Leg(agent_two, "worker", joined_ms, end_ms + 300))
        s.ends(agent, agent_ms, legs[0].leave_ms, summary=False)
        s.ends(agent_two, joined_ms, end_ms + 300, summary=False)
    else:
        s.ends(agent, agent_ms, end_ms + 300)
    s.meets(conference, legs, recording_on=by_conference or cause == "suspicion", extras=extras)
    s.noise(customer, start_ms, end_ms, 4)
    s.ends(customer, answered_ms, end_ms + 80)
    s.leaves_studio(execution, end_ms + 400, "hangup")
    _wrap_up(s, task, attributes, last_worker, last_reservation, end_ms + 500)

    if by_conference:
        _flex_recording(s, conference, task, start_ms, end_ms)
    elif cause == "suspicion":
        s.suspected(desk.flex_cause(start_ms, s.tempo), conference, start_ms)
    elif cause == "studio_call_recording_widget":
        assert widget_ms is not None
        s.recorded(
            cause,
            "StartCallRecordingAPI",
            _up(widget_ms),
            end_ms,
            call=customer,
            cause_rests_on=(f"studio:{customer.sid}",),
        )
        if long and s.chance(0.5):  # The same call, and this time somebody meant it.
            _started_by_api(s, "api_call_recording", customer, start_ms + _APART_MS, end_ms, studio=True)
    elif cause == "flex_plugin":
        who = customer if s.chance(0.7) else agent
        s.recorded(
            cause,
            "StartCallRecordingAPI",
            _up(start_ms + s.between(2, 4)),
            end_ms if who is customer else legs[0].leave_ms,
            call=who,
            callback_url=f"{PLUGIN_CALLBACK}{task.sid}",
            cause_rests_on=(f"studio:{who.sid}",),
            without_starters=("api_call_recording", "allowed"),
        )
    elif cause == "api_call_recording":
        # Far enough behind a widget that failed, and after the call entered the conference.
        who = customer if failed_widget or s.chance(0.7) else agent
        _started_by_api(
            s, cause, who, start_ms + (_APART_MS if failed_widget else s.between(3, 5)), end_ms, studio=True
        )
    elif cause == "undetermined":
        _started_by_api(s, None, customer, start_ms + s.between(3, 5), end_ms, studio=True)


def _started_by_api(
    s: Script, cause: str | None, call: say.Call, start_ms: int, end_ms: int, *, studio: bool = False
) -> None:
    """Let somebody start a call's recording through the API; ``studio``: a flow that call started bears on it."""
    rests = (f"studio:{call.sid}",) if studio else ()
    s.recorded(cause, "StartCallRecordingAPI", _up(start_ms), end_ms, call=call, cause_rests_on=rests)


def _flex_task(s: Script, created_ms: int) -> tuple[say.Task, say.Conference]:
    """A task and the conference it will lead to: named after the task, but for a few with a name of their own."""
    queue, queue_name = s.rng.choice(s.desk.queues)
    task = say.Task(s.account, s.sid("WT"), s.desk.channel, queue, queue_name, created_ms)
    own_name = s.whole and s.chance(0.08)
    return task, s.conference(f"callback-{task.sid[2:14]}" if own_name else task.sid)


def _flex_agent(s: Script, task: say.Task, first: str, offered_ms: int) -> tuple[say.Worker, say.Call, int, str]:
    """Offer a task to agents until one accepts; tell who, on which leg, when and under which reservation."""
    worker = s.rng.choice(s.desk.workers)
    attributes = f"{{{first}}}"
    if s.chance(0.1):
        other, reservation = s.rng.choice(s.desk.workers), s.sid("WR")
        s.add(offered_ms, say.reservation_event, task, "created", attributes, other, reservation)
        offered_ms += s.between(1, 4)
        s.add(offered_ms, say.reservation_event, task, "rejected", attributes, other, reservation)
        s.add(offered_ms + 200, say.worker_activity, s.account, other, "Available", "Break")
    elif s.chance(0.1):
        s.add(offered_ms - 900, say.worker_activity, s.account, worker, "Offline", "Available")
    reservation = s.sid("WR")
    s.add(offered_ms + 50, say.reservation_event, task, "created", attributes, worker, reservation)
    accepted_ms = offered_ms + s.between(1, 4)
    s.add(accepted_ms, say.reservation_event, task, "accepted", attributes, worker, reservation)
    agent = s.leg(f"client:{worker.name}")
    s.rings(agent, accepted_ms + 200, s.between(0.4, 1.1))
    return worker, agent, accepted_ms, reservation


def _queue_result(s: Script, queued_ms: int, left_ms: int) -> str:
    return f',"QueueSid":"{s.sid("QU")}","QueueTime":"{(left_ms - queued_ms) // SECOND}","QueueResult":"bridged"'


def _holds(s: Script, conference: say.Conference, call: say.Call, start_ms: int, end_ms: int) -> tuple[Extra, ...]:
    """Put the customer on hold and mute somebody now and then; these happen inside the conference."""
    span_ms, told = end_ms - start_ms, list[Extra]()
    if s.chance(0.4):
        held_ms, back_ms = start_ms + span_ms // 3, start_ms + span_ms // 2
        holds: tuple[tuple[int, say.Flag, str], ...] = ((held_ms, "true", "hold"), (back_ms, "false", "unhold"))
        for at_ms, hold, what in holds:
            s.add(at_ms - 90, say.participant_modified, conference, call.sid, f'"Hold":"{hold}"')
            told.append(Extra(at_ms, call, f"participant-{what}", "customer", hold))
        s.add(held_ms + 120, say.ignored_of_call, call, "announcement.processed")
    if s.chance(0.3):
        told.append(Extra(start_ms + 2 * span_ms // 3, call, "participant-mute", "customer", "true"))
        told.append(Extra(start_ms + 3 * span_ms // 4, call, "participant-unmute", "customer", "false"))
    if s.chance(0.3):
        told.append(Extra(start_ms + span_ms // 5, call, "participant-modify", "customer", "false"))
    return tuple(told)


def _transfer(
    s: Script, task: say.Task, conference: say.Conference, attributes: str, start_ms: int, end_ms: int
) -> tuple[tuple[say.Worker, str, say.Call], int]:
    """Bring a second agent into the conference, well after its recording started; tell who, and when they join.

    The request may ask for recording: too late to have caused it.
    """
    asked_ms = start_ms + _APART_MS + (end_ms - start_ms - _APART_MS) // 3
    worker, reservation = s.rng.choice(s.desk.workers), s.sid("WR")
    agent = s.leg(f"client:{worker.name}")
    record = ',"ConferenceRecord":"true"' if s.chance(0.3) else ""
    s.add(asked_ms, say.reservation_event, task, "created", attributes, worker, reservation)
    s.add(asked_ms + 700, say.reservation_event, task, "accepted", attributes, worker, reservation)
    s.add(asked_ms + 800, say.participant_created, conference, conference.sid, agent, "worker", record)
    return (worker, reservation, agent), s.rings(agent, asked_ms + 900, s.between(1, 3)) + 300


def _wrap_up(s: Script, task: say.Task, attributes: str, worker: say.Worker, reservation: str, at_ms: int) -> None:
    s.add(at_ms, say.task_event, task, "wrapup", attributes)
    s.add(at_ms + 60, say.reservation_event, task, "wrapup", attributes, worker, reservation)
    done_ms = at_ms + s.wait(8, 60)
    s.add(done_ms, say.reservation_event, task, "completed", attributes, worker, reservation)
    s.add(done_ms + 90, say.task_event, task, "completed", attributes)


def _flex_recording(s: Script, conference: say.Conference, task: say.Task, start_ms: int, end_ms: int) -> None:
    """Let Flex's own recording run: why depends on nothing but the account's setting at its start."""
    start_ms = start_ms // SECOND * SECOND
    # A name of its own says nothing of Flex: only the task's attributes do then.
    named = conference.name.startswith("WT")
    s.recorded(
        s.desk.flex_cause(start_ms, s.tempo),
        "Conference",
        start_ms,
        end_ms,
        conference=conference,
        callback_url="https://flex-recordings.example.com/webhook",
        cause_rests_on=(f"name:{conference.sid}" if named else f"task:{task.sid}",),
    )


def flex_outbound(s: Script, cause: str | None) -> None:
    """An agent calls somebody from Flex; no Studio, and the task may never learn of its conference."""
    desk, t = s.desk, s.start_ms
    task, conference = _flex_task(s, t)
    customer_number = _number(s.rng)
    first = f'"from": "{desk.number}", "outbound_to": "{customer_number}", "direction": "outbound"'
    s.add(t, say.task_event, task, "created", f"{{{first}}}")
    worker, agent, accepted_ms, reservation = _flex_agent(s, task, first, t + s.between(0.3, 1))
    agent_ms = accepted_ms + s.between(1.5, 3)
    customer = s.leg(customer_number)
    # Somebody's own code may ask for a recording here, and this then is the cause, whatever Flex is set to.
    record = _records_by_request(s) if cause == "conference_api" else ""
    token = f"request:{conference.sid}"
    s.add(
        agent_ms + 300, say.participant_created, conference, conference.sid, customer, "customer", record, token=token
    )
    start_ms = s.rings(customer, agent_ms + 500, s.between(2, 9)) + 200
    end_ms = start_ms + s.talk(12)
    by_conference = cause in FLEX_CAUSES or cause == "conference_api"
    knows = not conference.name.startswith("WT") or s.chance(0.7)
    known = (
        f', "conference": {{"sid": "{conference.sid}", "participants": {{"customer": "{customer.sid}", '
        f'"worker": "{agent.sid}"}}}}'
        if knows
        else ""
    )
    attributes = f'{{{first}, "call_sid": "{customer.sid}"{known}, "worker_call_sid": "{agent.sid}"}}'
    s.add(start_ms + s.between(0.8, 2.5), say.task_event, task, "updated", attributes, token=f"task:{task.sid}")
    legs = [Leg(agent, "worker", agent_ms, end_ms + 300), Leg(customer, "customer", start_ms, end_ms)]
    extras = _holds(s, conference, customer, start_ms, end_ms)
    s.meets(conference, legs, recording_on=by_conference, extras=extras)
    s.noise(customer, start_ms, end_ms, 3)
    s.ends(customer, start_ms - 200, end_ms + 80)
    s.ends(agent, agent_ms, end_ms + 300)
    _wrap_up(s, task, attributes, worker, reservation, end_ms + 500)
    if cause == "conference_api":
        s.recorded(cause, "Conference", start_ms, end_ms, conference=conference, cause_rests_on=(token,))
    elif cause == "flex_plugin":
        s.recorded(
            cause,
            "StartCallRecordingAPI",
            _up(start_ms + s.between(2, 4)),
            end_ms,
            call=customer,
            callback_url=f"{PLUGIN_CALLBACK}{task.sid}",
            without_starters=("api_call_recording", "allowed"),
        )
    elif cause == "api_call_recording":
        _started_by_api(s, cause, customer, start_ms + s.between(3, 5), end_ms)
    elif by_conference:
        _flex_recording(s, conference, task, start_ms, end_ms)


def _records_by_request(s: Script) -> str:
    value = "true" if s.chance(0.7) else "record-from-start"
    return (
        f',"ConferenceRecord":"{value}","ConferenceRecordingStatusCallback":"{s.url("callbacks/recording")}",'
        f'"ConferenceStatusCallback":"{s.url("callbacks/conference")}"'
    )


def room(s: Script, cause: str | None) -> None:
    """Two or three people meet in a TwiML conference whose name was another conference's before."""
    desk, t = s.desk, s.start_ms
    conference = s.conference(desk.take_room(t))
    name = conference.name
    seen = not (cause == "unattributed" and s.chance(0.5))
    """Whether the monitor is told of the TwiML: an unattributed recording may have begun in silence."""
    caller, agent = s.customer(), s.leg()
    token = f"twiml:{conference.sid}"
    recorded_by = s.rng.randrange(3) if cause == "conference_twiml" else 3
    modes = [s.rng.choice(_RECORDING_MODES) if recorded_by in {n, 2} else s.rng.choice(_SILENT_MODES) for n in range(2)]
    answered_ms = s.rings(caller, t, s.between(0.4, 1.5))
    if seen:
        s.twiml(
            t + 30, caller, "twiml/inbound", _room_twiml(s, name, modes[0]), token=token if recorded_by != 1 else ""
        )
    joined_ms = answered_ms + s.between(0.2, 0.8)
    asked_ms = joined_ms + s.between(0.5, 1.5)
    s.add(
        asked_ms,
        say.call_created,
        agent,
        f',"Url":"{s.url("twiml/agent")}","StatusCallback":"{s.url("callbacks/call-status")}"',
    )
    agent_ms = s.rings(agent, asked_ms + 200, s.between(2, 8))
    if seen:
        s.twiml(
            agent_ms + 40, agent, "twiml/agent", _room_twiml(s, name, modes[1]), token=token if recorded_by != 0 else ""
        )
    start_ms = agent_ms + s.between(0.3, 0.9)
    third = s.chance(0.25) or (seen and cause == "unattributed")
    end_ms = start_ms + s.talk(45 if third else 10)
    legs = [Leg(caller, "customer", joined_ms, end_ms), Leg(agent, "agent", start_ms, end_ms + 400)]
    if third:
        # Who comes later may bring TwiML or a request that records; the recording ran long before.
        guest = s.customer()
        guest_ms = s.rings(guest, start_ms + _APART_MS, s.between(0.4, 1.5)) + s.between(0.3, 0.9)
        late = s.rng.choice(_RECORDING_MODES) if cause == "unattributed" else s.rng.choice(_SILENT_MODES)
        s.twiml(guest_ms - 200, guest, "twiml/inbound", _room_twiml(s, name, late))
        legs.append(Leg(guest, "guest", guest_ms, end_ms - 2 * SECOND))
        s.ends(guest, guest_ms, end_ms - 2 * SECOND)
        if cause == "unattributed" and s.chance(0.5):
            watcher = s.leg()
            s.add(
                start_ms + _APART_MS,
                say.participant_created,
                conference,
                False,
                watcher,
                "coach",
                _records_by_request(s),
            )
    source = "StartConferenceRecordingAPI" if cause == "conference_recording_api" else "Conference"
    recording_on = cause in {"conference_twiml", "conference_recording_api", "unattributed", "suspicion"}
    extras = _holds(s, conference, caller, start_ms, end_ms)
    _, gone_ms = s.meets(conference, legs, recording_on=recording_on, by_api=s.chance(0.2), extras=extras)
    desk.leave_room(name, gone_ms)
    s.noise(caller, start_ms, end_ms, 3)
    s.ends(caller, answered_ms, end_ms + 60)
    s.ends(agent, agent_ms, end_ms + 460)
    if cause == "api_call_recording":
        _started_by_api(s, cause, caller, start_ms + s.between(2, 4), end_ms)
    elif cause == "suspicion":
        s.suspected("unattributed", conference, start_ms)
    elif cause == "conference_twiml":
        rests = (token, f"leg:{caller.sid}", f"leg:{agent.sid}")
        s.recorded(cause, source, start_ms, end_ms, conference=conference, cause_rests_on=rests)
    elif cause is not None:
        # Of some recordings Twilio does not even say what started them.
        silent = cause == "unattributed" and s.chance(0.15)
        s.recorded(cause, None if silent else source, start_ms, end_ms, conference=conference)


def alone(s: Script, cause: str | None) -> None:
    """A conference recording of which nothing else is ever told."""
    conference = s.conference("")
    end_ms = s.start_ms + s.talk(10)
    s.recorded(cause, "Conference", _up(s.start_ms), end_ms, conference=conference, fate="completed")


def dialer(s: Script, cause: str | None) -> None:
    """A dialer calls an agent and then a customer into a room through the participants API."""
    desk, t = s.desk, s.start_ms
    conference = s.conference(desk.take_room(t))
    agent, customer = s.leg(), s.leg()
    records = cause == "conference_api"
    token = f"request:{conference.sid}"
    plain = "" if s.chance(0.6) else ',"ConferenceRecord":"do-not-record"'
    asks = [
        _records_by_request(s) if records else plain,
        _records_by_request(s) if records and s.chance(0.5) else plain,
    ]
    if records and s.chance(0.3):
        asks.reverse()
    if cause == "unattributed":
        # It asked for a recording and was refused; what then recorded, nobody says.
        s.add(t, say.participant_requested, conference, agent, "agent", _records_by_request(s), 400)
        t += s.between(1, 2)
    if s.whole and records and s.chance(0.2):
        # The answer leaves out the conference it made: then its name must do.
        s.add(t, say.participant_requested, conference, agent, "agent", asks[0], 201, token=token)
    else:
        s.add(t, say.participant_created, conference, conference.name, agent, "agent", asks[0], token=token)
    agent_ms = s.rings(agent, t + 200, s.between(1.5, 6))
    joined_ms = agent_ms + s.between(0.2, 0.6)
    asked_ms = joined_ms + s.between(0.5, 2)
    s.add(asked_ms, say.participant_created, conference, conference.sid, customer, "customer", asks[1], token=token)
    answered_ms = s.rings(customer, asked_ms + 200, s.between(3, 15))
    s.add(answered_ms + 900, say.ignored_of_call, customer, "amd.detected")
    start_ms = answered_ms + s.between(0.2, 0.6)
    end_ms = start_ms + s.talk(10)
    recording_on = records or cause in {"unattributed", "suspicion"}
    legs = [Leg(agent, "agent", joined_ms, end_ms + 500), Leg(customer, "customer", start_ms, end_ms)]
    if records and s.chance(0.2):  # A request goes before TwiML.
        s.twiml(agent_ms + 20, agent, "twiml/agent", _room_twiml(s, conference.name, "record-from-start"))
    by_api = s.chance(0.5)
    if not by_api:
        s.add(end_ms + 350, say.participant_deleted, conference, agent.sid)
    extras = _holds(s, conference, customer, start_ms, end_ms)
    _, gone_ms = s.meets(conference, legs, recording_on=recording_on, by_api=by_api, extras=extras)
    desk.leave_room(conference.name, gone_ms)
    s.noise(customer, start_ms, end_ms, 3)
    s.ends(customer, answered_ms, end_ms + 60)
    s.ends(agent, agent_ms, end_ms + 560)
    if cause == "suspicion":
        s.suspected("unattributed", conference, start_ms)
    elif cause == "api_call_recording":
        _started_by_api(s, cause, customer, start_ms + s.between(2, 4), end_ms)
    elif cause is not None:
        # Where both ask, one of the two events is enough; where one does, it must arrive.
        s.recorded(
            cause, "Conference", start_ms, end_ms, conference=conference, cause_rests_on=(token,) if records else ()
        )


def nailed_up(s: Script, cause: str | None) -> None:
    """An agent's leg that stays up and enters one conference after another, all of one name or each of its own."""
    desk, t = s.desk, s.start_ms
    agent = s.leg()
    s.add(t, say.call_created, agent, f',"Url":"{s.url("twiml/agent-line")}"')
    up_ms = s.rings(agent, t + 100, s.between(1, 3))
    s.twiml(up_ms + 20, agent, "twiml/agent-line", '<Response><Pause length="600"/></Response>')
    rooms = [desk.take_room(t)]
    one_name = s.chance(0.5)
    stints = 2 + s.rng.randrange(3)
    recorded_at = s.rng.randrange(stints)
    at_ms, first_ms, gone_ms = up_ms + s.between(6, 8), 0, up_ms
    for n in range(stints):
        if n and not one_name:
            rooms.append(desk.take_room(t))
        conference = s.conference(rooms[-1])
        records = n == recorded_at and cause in {"conference_twiml", "conference_api"}
        twiml_records = records and cause == "conference_twiml"
        token = f"evidence:{conference.sid}"
        mode = s.rng.choice(_RECORDING_MODES if twiml_records else _SILENT_MODES)
        s.twiml(at_ms, agent, "twiml/agent-line", _room_twiml(s, conference.name, mode), "call.redirected", token=token)
        joined_ms = at_ms + s.between(0.3, 0.9)
        customer = s.customer() if not records or twiml_records else s.leg()
        if customer.direction == "inbound":
            answered_ms = s.rings(customer, joined_ms + 200, s.between(0.4, 1.5))
            s.twiml(answered_ms + 30, customer, "twiml/inbound", _room_twiml(s, conference.name, ""))
        else:
            ask = _records_by_request(s)
            s.add(
                joined_ms + 100,
                say.participant_created,
                conference,
                conference.sid,
                customer,
                "customer",
                ask,
                token=token,
            )
            answered_ms = s.rings(customer, joined_ms + 300, s.between(1, 4))
        start_ms = answered_ms + s.between(0.3, 0.9)
        # The next conference must not begin within the slack that its TwiML allows for.
        end_ms = start_ms + s.talk(15)
        legs = [Leg(agent, "agent", joined_ms, end_ms + 500), Leg(customer, "customer", start_ms, end_ms)]
        _, gone_ms = s.meets(conference, legs, recording_on=records)
        s.ends(customer, answered_ms, end_ms + 60, summary=s.chance(0.5))
        if records:
            rests = (token, f"leg:{agent.sid}") if twiml_records else (token,)
            s.recorded(cause, "Conference", start_ms, end_ms, conference=conference, cause_rests_on=rests)
        if n == recorded_at:
            first_ms = start_ms if s.chance(0.5) else gone_ms  # In this conference, or between it and the next.
        at_ms = gone_ms + s.between(8, 12)
    for name in rooms:
        desk.leave_room(name, gone_ms)
    end_ms = at_ms + s.between(1, 3)
    s.ends(agent, up_ms, end_ms)
    if cause == "api_call_recording":
        _started_by_api(s, cause, agent, first_ms + s.between(2, 3), end_ms)


def dial(s: Script, cause: str | None) -> None:
    """A call that TwiML connects to a number: no conference; recorded by the verb, by ``<Start>``, or from outside."""
    t = s.start_ms
    caller = s.customer()
    callee = s.leg(parent=caller.sid)
    verb = cause == "dial_verb"
    fate = ""
    if verb:
        draw = s.random()
        fate = "verb" if draw < 0.2 else "absent" if draw < 0.3 else "failed" if draw < 0.35 else "completed"
    record = (
        f' record="record-from-answer-dual" recordingStatusCallback="{s.url("callbacks/recording")}"' if verb else ""
    )
    by_request = cause == "start_recording_twiml" and s.chance(0.3)
    start_verb = f'<Start><Recording recordingStatusCallback="{s.url("callbacks/recording")}"/></Start>'
    body = (
        f"<Response>{start_verb if cause == 'start_recording_twiml' and not by_request else '<Say>One moment.</Say>'}"
        f'<Dial{record} action="{s.url("twiml/after-dial")}">{callee.to}</Dial></Response>'
    )
    answered_ms = s.rings(caller, t, s.between(0.3, 1.2))
    s.twiml(t + 40, caller, "twiml/inbound", body)
    s.noise(caller, t, answered_ms, 1)
    picked_ms = s.rings(callee, answered_ms + 300, s.between(2, 12))
    end_ms = picked_ms + (s.between(0.3, 0.9) if fate == "absent" else s.talk(12))
    s.noise(caller, picked_ms, end_ms, 4)
    recording_url = ""
    if verb:
        truth = s.recorded(cause, "DialVerb", _up(picked_ms), end_ms, call=caller, fate=fate)
        if fate not in {"absent", "failed"}:
            recording_url = (
                f',"RecordingUrl":"{say.API}/2010-04-01/Accounts/{s.account.sid}/Recordings/{truth.recording_sid}"'
            )
    elif cause == "start_recording_twiml":
        if by_request:
            twiml = say.quoted(f"<Response>{start_verb}</Response>")
            s.add(picked_ms + 900, say.call_modified, caller, f'"Twiml":"{twiml}"')
        began_ms = _up(picked_ms + SECOND) if by_request else _up(answered_ms)
        s.recorded(cause, "StartCallRecordingTwiML", began_ms, end_ms, call=caller)
    elif cause == "api_call_recording":
        _started_by_api(s, cause, caller, picked_ms + s.between(1, 4), end_ms)
    elif cause == "unknown_source":
        source = s.rng.choice(("RealTimeAssistant", "ConversationRelay", "StartRoomRecordingAPI"))
        s.recorded(cause, source, _up(picked_ms + SECOND), end_ms, call=caller)
    elif cause == "unattributed":
        s.recorded(cause, None, _up(picked_ms + SECOND), end_ms, call=caller)
    token = f"recording:{s.truths[-1].recording_sid}" if recording_url else ""
    told = (
        f',"DialCallSid":"{callee.sid}","DialCallStatus":"completed",'
        f'"DialCallDuration":"{(end_ms - picked_ms) // SECOND}"{recording_url}'
    )
    s.twiml(end_ms + 60, caller, "twiml/after-dial", "<Response><Hangup/></Response>", "dial.finished", told, token)
    s.ends(callee, picked_ms, end_ms)
    s.ends(caller, answered_ms, end_ms + 150)


def studio_dial(s: Script, cause: str | None) -> None:
    """A flow without an agent: the call is recorded by its widget or in spite of one, then connected to a number."""
    caller = s.customer()
    answered_ms = s.rings(caller, s.start_ms, s.between(0.3, 1.2))
    if cause == "undetermined":
        flow = s.desk.unseen_flow
    elif cause == "studio_call_recording_widget":
        flow = s.desk.recording_flow
    else:
        flow = s.rng.choice(s.desk.plain_flows)
    execution, left_ms, widget_ms = s.studio(flow, caller, answered_ms)
    callee = s.leg(parent=caller.sid)
    picked_ms = s.rings(callee, left_ms + 200, s.between(2, 8))
    end_ms = picked_ms + s.talk(12)
    s.noise(caller, picked_ms, end_ms, 3)
    if cause == "studio_call_recording_widget":
        assert widget_ms is not None
        rests = (f"studio:{caller.sid}",)
        s.recorded(cause, "StartCallRecordingAPI", _up(widget_ms), end_ms, call=caller, cause_rests_on=rests)
    elif cause is not None:
        _started_by_api(
            s, None if cause == "undetermined" else cause, caller, picked_ms + s.between(1, 4), end_ms, studio=True
        )
    s.ends(callee, picked_ms, end_ms)
    s.leaves_studio(execution, end_ms + 50, "hangup")
    s.ends(caller, answered_ms, end_ms + 150)


def voicemail(s: Script, cause: str | None) -> None:
    """Nobody answers, and the caller leaves a message, or thinks better of it."""
    t = s.start_ms
    caller = s.customer()
    answered_ms = s.rings(caller, t, s.between(0.3, 1.2))
    draw = s.random()
    fate = "verb" if draw < 0.2 else "absent" if draw < 0.3 else "failed" if draw < 0.33 else "completed"
    if s.chance(0.4):
        execution, begins_ms, _ = s.studio(s.desk.voicemail_flow, caller, answered_ms)
        s.leaves_studio(execution, begins_ms + 300, "flow-ended")
    else:
        begins_ms = answered_ms + s.between(2, 6)
        verb = (
            f'<Record maxLength="120" action="{s.url("twiml/after-record")}" '
            f'recordingStatusCallback="{s.url("callbacks/recording")}"/>'
        )
        s.twiml(t + 40, caller, "twiml/inbound", f"<Response><Say>Please leave a message.</Say>{verb}</Response>")
    if cause is None:
        end_ms = begins_ms + s.between(0.2, 1)
    else:
        begins_ms = _up(begins_ms)
        end_ms = begins_ms + (SECOND if fate == "absent" else s.between(4, 60))
        truth = s.recorded(
            cause, "RecordVerb", begins_ms, end_ms, call=caller, channels=1, start_stated=False, fate=fate
        )
        if fate in {"verb", "completed"}:
            sid = truth.recording_sid
            told = (
                f',"RecordingUrl":"{say.API}/2010-04-01/Accounts/{s.account.sid}/Recordings/{sid}",'
                f'"RecordingSid":"{sid}","RecordingDuration":"{(end_ms - begins_ms) // SECOND}"'
            )
            bye = "<Response><Say>Goodbye.</Say></Response>"
            s.twiml(end_ms, caller, "twiml/after-record", bye, "record.finished", told, f"recording:{sid}")
    s.ends(caller, answered_ms, end_ms + 400)


def trunk(s: Script, cause: str | None) -> None:
    """A call over an Elastic SIP trunk: Twilio tells of its recording and, afterwards, that it was; nothing between."""
    caller = say.Call(s.account, s.sid("CA"), None, "inbound", _number(s.rng), s.desk.number)
    answered_ms = s.start_ms + s.between(2, 8)
    end_ms = answered_ms + s.talk(10)
    s.ends(caller, answered_ms, end_ms, trunk=s.sid("TK"))
    if cause is not None:
        s.recorded(cause, "Trunking", _up(answered_ms), end_ms, call=caller)


def outbound(s: Script, cause: str | None) -> None:
    """Somebody's own service makes a call through the API; some of these enter a conference once answered."""
    t, desk = s.start_ms, s.desk
    callee = s.leg()
    record = (
        f',"Record":"true","RecordingChannels":"dual","RecordingStatusCallback":"{s.url("callbacks/recording")}"'
        if cause == "outbound_call_api"
        else ""
    )
    s.add(
        t,
        say.call_created,
        callee,
        f',"Url":"{s.url("twiml/outbound")}"{record},"StatusCallback":"{s.url("callbacks/call-status")}"',
    )
    answered_ms = s.rings(callee, t + 200, s.between(3, 14))
    s.add(answered_ms + 700, say.ignored_of_call, callee, "amd.detected")
    if s.chance(0.4):
        conference = s.conference(desk.take_room(t))
        s.twiml(
            answered_ms + 40, callee, "twiml/outbound", _room_twiml(s, conference.name, s.rng.choice(_SILENT_MODES))
        )
        joined_ms = answered_ms + s.between(2.1, 3)  # After the recording began, by more than a second cut off.
        other = s.customer()
        other_ms = s.rings(other, joined_ms + 300, s.between(0.3, 1.2))
        s.twiml(other_ms - 100, other, "twiml/inbound", _room_twiml(s, conference.name, ""))
        end_ms = other_ms + s.talk(12)
        legs = [Leg(callee, "", joined_ms, end_ms), Leg(other, "", other_ms + 400, end_ms + 500)]
        _, gone_ms = s.meets(conference, legs)
        desk.leave_room(conference.name, gone_ms)
        s.ends(other, other_ms, end_ms + 550)
    else:
        s.twiml(answered_ms + 40, callee, "twiml/outbound", f"<Response><Dial>{_number(s.rng)}</Dial></Response>")
        end_ms = answered_ms + s.talk(10)
    s.noise(callee, answered_ms, end_ms, 3)
    s.ends(callee, answered_ms, end_ms + 60)
    if cause == "outbound_call_api":
        s.recorded(cause, "OutboundAPI", answered_ms, end_ms, call=callee)
    elif cause == "api_call_recording":
        _started_by_api(s, cause, callee, end_ms - 5 * SECOND, end_ms)


Scene = Callable[[Script, str | None], None]

_FLEX: Final[tuple[tuple[Scene, float], ...]] = ((flex_inbound, 4), (flex_outbound, 1))
SCENES: Final[dict[str, tuple[tuple[Scene, float], ...]]] = {
    "flex_call_recording": _FLEX,
    "flex_conference": _FLEX,
    "flex_stale_session": _FLEX,
    "flex_residual_setting": _FLEX,
    "api_call_recording": (
        (flex_inbound, 5),
        (flex_outbound, 1),
        (room, 1),
        (dialer, 1),
        (nailed_up, 1),
        (dial, 2),
        (studio_dial, 1),
        (outbound, 1),
    ),
    "studio_call_recording_widget": ((flex_inbound, 3), (studio_dial, 1)),
    "flex_plugin": ((flex_inbound, 4), (flex_outbound, 1)),
    "conference_api": ((dialer, 4), (flex_outbound, 1), (nailed_up, 1)),
    "conference_twiml": ((room, 4), (nailed_up, 1)),
    "dial_verb": ((dial, 1),),
    "record_verb": ((voicemail, 1),),
    "sip_trunk": ((trunk, 1),),
    "outbound_call_api": ((outbound, 1),),
    "start_recording_twiml": ((dial, 1),),
    "conference_recording_api": ((room, 1),),
    "unknown_source": ((dial, 1),),
    "unattributed": ((room, 3), (dialer, 1), (alone, 1), (dial, 1)),
    "undetermined": ((flex_inbound, 2), (studio_dial, 1)),
    "suspicion": ((flex_inbound, 2), (room, 1), (dialer, 1)),
}
"""The scenes that can end in a recording of each cause, with their weights.

``undetermined`` is a recording whose cause nobody can know, ``suspicion`` a conference that only Voice Insights calls
recorded.
"""

UNRECORDED: Final[tuple[tuple[Scene, float], ...]] = (
    (flex_inbound, 48),
    (flex_outbound, 14),
    (room, 11),
    (dialer, 8),
    (nailed_up, 1),
    (dial, 9),
    (studio_dial, 5),
    (voicemail, 4),
    (trunk, 1),
    (outbound, 4),
)
"""The scenes of calls that nobody records, with their weights."""

DEFAULT_CAUSES: Final[dict[str, float]] = {
    "flex_call_recording": 12,
    "flex_stale_session": 12,
    "flex_residual_setting": 5,
    "flex_conference": 5,
    "api_call_recording": 20,
    "studio_call_recording_widget": 7,
    "flex_plugin": 6,
    "conference_api": 8,
    "conference_twiml": 8,
    "dial_verb": 4,
    "record_verb": 4,
    "sip_trunk": 2,
    "outbound_call_api": 4,
    "start_recording_twiml": 2,
    "conference_recording_api": 2,
    "unknown_source": 2,
    "unattributed": 4,
    "undetermined": 2,
    "suspicion": 4,
}
"""How often each cause is met among the recorded calls, as weights."""
