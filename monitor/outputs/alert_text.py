"""What an alert says: the JSON that Alertmanager is sent, with the words a person on call needs. A pure function.

Nothing in it is private: SIDs, closed words and rule names, as in the verdict. What may change while it fires stands in
annotations; the labels are its identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from monitor.core.attribution import ENDED
from monitor.core.policy import ALLOWED, DISALLOWED
from monitor.core.verdict import Verdict, render_instant
from monitor.outputs.alerts import BACKLOG, FLOOD, HEARTBEAT, SINGLE, Alert, Labels
from monitor.outputs.cases import Case

EVIDENCE_MAX: Final = 3
TEXT_MAX: Final = 1_500
"""Characters of one annotation: pagers cut at about this much, and better here than in the middle of a link."""
TEST: Final = "RecordingMonitorTest"

CAUSES: Final[Mapping[str, tuple[str, str]]] = {
    "api_call_recording": (
        "an explicit request to the recordings API",
        "If it was not meant to be made: find the service by its callback address, and stop it.",
    ),
    "studio_call_recording_widget": (
        "a Call Recording widget of a Studio flow",
        "Review the flow: remove the widget, or turn it off, and publish the flow.",
    ),
    "flex_plugin": ("a Flex plugin or a service you have named", "Turn the plugin off."),
    "conference_api": (
        "an API request that added a participant with ConferenceRecord",
        "Leave ConferenceRecord out of the request.",
    ),
    "conference_twiml": (
        "TwiML with <Conference record>",
        "Take the attribute `record` out of the TwiML of the call that joined.",
    ),
    "flex_call_recording": (
        "Flex, with call recording on",
        "Turn call recording off: Flex console, Settings, Call recording.",
    ),
    "flex_stale_session": (
        "an agent's Flex session from before recording was turned off",
        "Let all agents log out of Flex and in again.",
    ),
    "flex_residual_setting": (
        "Flex, although recording has been off for longer than any session lasts",
        "Look for the flag in a cached or deployed Flex configuration and in plugins; gather the SIDs for support.",
    ),
    "flex_conference": (
        "Flex; whether its call recording was on is not known",
        "Look whether call recording is on in Flex, and let the monitor read the Flex setting.",
    ),
    "dial_verb": ("TwiML <Dial record>", "Take the attribute `record` out of the TwiML."),
    "record_verb": ("TwiML <Record>", "Take the verb, or the voicemail widget, out of the flow."),
    "sip_trunk": ("the setting of a SIP trunk", "Set the trunk to do-not-record."),
    "outbound_call_api": ("an API request that made the call with Record", "Leave Record out of the request."),
    "start_recording_twiml": ("TwiML <Start><Recording>", "Take it out of the TwiML."),
    "conference_recording_api": ("a request to record a conference", "Stop whoever makes this request."),
    "unknown_source": (
        "a source that this monitor does not know",
        "Report the source to the maintainers; a rule of the policy can name it until then.",
    ),
    "unattributed": (
        "something that no event shows",
        "Gather the SIDs below and ask Twilio's support what started it.",
    ),
}
"""What a cause is, for a sentence that begins with "started by", and the step that mends it, as docs/causes.md says."""
_NO_CAUSE: Final = ("something that is not known yet", "Open the case: it shows what is missing.")
STRENGTHS: Final = {
    "observed": "an event shows it",
    "implied": "Twilio's source value says so",
    "inferred": "everything else is ruled out",
}


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Where people find more. ``web`` is the monitor's own address; the others are None where nobody named them."""

    web: str
    runbooks: str | None = None
    dashboard: str | None = None
    alertmanager: str | None = None

    def case(self, key: str) -> str:
        """The page of a case."""
        return f"{self.web}/cases/{quote(key, safe='')}"

    def runbook(self, name: str) -> str | None:
        """The runbook of an alert."""
        return None if self.runbooks is None else f"{self.runbooks}/{name}.md"

    def silence(self, labels: Labels) -> str | None:
        """A silence for just this alert, filled in: to be confirmed by whoever opens it."""
        if self.alertmanager is None:
            return None
        matchers = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
        return f"{self.alertmanager}/#/silences/new?filter={quote('{' + matchers + '}', safe='')}"


def render_alert(
    alert: Alert,
    case: Case | None,
    *,
    count: int,
    links: Links,
    runbook_of: Callable[[str], str | None] = lambda _: None,
) -> dict[str, Any]:
    """One alert as the API takes it, without ``endsAt``, which moves with each sending.

    ``case`` is the one it is about, None where that is not at hand or it is about several. ``runbook_of`` gives the
    runbook that the policy names for a rule.
    """
    labels = dict(alert.labels)
    rule = labels.get("rule", "")
    if alert.name == SINGLE:
        url = links.case(alert.about or "")
        annotations = _of_case(alert, case)
        annotations["case_url"] = url
    else:
        url = f"{links.web}/cases"
        annotations = _of_many(alert, labels, count)
    annotations["runbook_url"] = runbook_of(rule) or links.runbook(alert.name)
    annotations["dashboard_url"] = links.dashboard
    annotations["silence_url"] = links.silence(alert.labels)
    return {
        "labels": labels,
        "annotations": {name: text[:TEXT_MAX] for name, text in annotations.items() if text},
        "startsAt": render_instant(alert.starts_ms),
        "generatorURL": url,
    }


def heartbeat(started_ms: int) -> dict[str, Any]:
    """The signal whose silence is the alarm."""
    return {
        "labels": {"alertname": HEARTBEAT, "severity": "none"},
        "annotations": {
            "summary": "The recording monitor is at work. It is the end of this alert that matters.",
            "description": "Pushed while events are read, log time is fresh and a policy is loaded.",
        },
        "startsAt": render_instant(started_ms),
    }


def trial_alert(now_ms: int, sender: str, links: Links) -> dict[str, Any]:
    """A page through the real route that says of itself that it is none."""
    return {
        "labels": {
            "alertname": TEST,
            "severity": "critical",
            "account": "test",
            "rule": "test",
            "start_source": "none",
            "sender": sender,
        },
        "annotations": {
            "summary": "TEST, nothing to do: somebody asked recording-monitor to try the way to whoever is on call.",
            "description": "Sent by `recording-monitor alert test`. It resolves by itself.",
            **({"dashboard_url": links.dashboard} if links.dashboard else {}),
        },
        "startsAt": render_instant(now_ms),
        "generatorURL": links.web,
    }


def _of_case(alert: Alert, case: Case | None) -> dict[str, str | None]:
    if case is None:
        # The view has lost it (its retention is over, or memory was too small): the identity alone still says which.
        return {"summary": f"Recording {alert.about} is not allowed.", "description": "Its case is not at hand."}
    verdict = case.verdict
    return {
        "summary": headline(verdict),
        "description": _description(verdict),
        "account_sid": verdict.account_sid,
        "conference_sid": verdict.conference_sid,
        "call_sid": verdict.call_sid,
        "cause": verdict.cause,
        "recording_started_at": verdict.started_at,
        "recording_status": verdict.recording_status,
        "reason": _reason(alert, verdict),
    }


def headline(verdict: Verdict) -> str:
    """What a case is about, in one sentence."""
    what = started_by(verdict.cause)
    if verdict.recording_sid is None:
        return f"Conference {verdict.key} may have been recorded: {verdict.reason}"
    where = f" in conference {verdict.conference_sid}" if verdict.conference_sid else ""
    about = f"Recording {verdict.key}{where}"
    if verdict.outcome == DISALLOWED:
        return f"{about} is not allowed: started by {what}."
    if verdict.outcome == ALLOWED:
        return f"{about} is allowed after all: started by {what}."
    return f"{about} could not be judged: {verdict.reason}"


def started_by(cause: str | None) -> str:
    """A cause in words, to follow "started by"."""
    return CAUSES.get(cause or "", _NO_CAUSE)[0]


def _description(verdict: Verdict) -> str:
    what, step = CAUSES.get(verdict.cause or "", _NO_CAUSE)
    lines = [
        verdict.reason,
        f"Started by {what}" + (f" ({STRENGTHS[verdict.strength]})." if verdict.strength else "."),
    ]
    shown = verdict.evidence[-EVIDENCE_MAX:]
    lines += [f"Evidence: {shown.occurred_at} {shown.shows} [{shown.position}]" for shown in shown]
    if verdict.missing:
        lines.append(f"Not known: {', '.join(verdict.missing)}.")
    lines.append(f"To do: {step}")
    return "\n".join(lines)


def _reason(alert: Alert, verdict: Verdict) -> str:
    """What changed, where something did: a change of rule, why it is resolved, an end that nobody saw."""
    said = [verdict.reason]
    first = dict(alert.labels).get("rule")
    if alert.resolved_ms is None and first != verdict.rule:
        said.append(f"It fired by rule {first}; it is rule {verdict.rule} by now.")
    if alert.why == "cleared":
        by = "later evidence" if verdict.rejudged is None else "judging it again"
        said = [f"Cleared by {by}: it is {verdict.outcome} now. {verdict.reason}"]
    elif alert.why == "closed":
        said.append("Closed by a person.")
    elif alert.why == "graver":
        said.append("Graver by now: another alert goes on.")
    elif alert.why == "ended" and verdict.ended_at is None and verdict.recording_status not in ENDED:
        said.append("Its end was not seen: its conversation has closed.")
    return " ".join(said)


def _of_many(alert: Alert, labels: Mapping[str, str], count: int) -> dict[str, str | None]:
    account, rule = labels.get("account"), labels.get("rule")
    number = f"{count} recording" + ("" if count == 1 else "s")
    if alert.name == FLOOD:
        return {
            "summary": f"Recordings that are not allowed, too many for a page each: account {account}, rule {rule}.",
            "description": f"{number} of this kind are open. Those that fired before go on by themselves; the list of "
            "cases shows all. To do: mend what starts them, which the cases say.",
            "count": str(count),
        }
    assert alert.name == BACKLOG
    return {
        "summary": f"Recordings that were not allowed and are over, found only now: account {account}.",
        "description": f"{number} began and ended while the monitor was behind or under another policy. What is still "
        "being recorded pages by itself. To do: read the cases, and why the monitor was behind.",
        "count": str(count),
    }


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
