"""What to do about a recording, step by step: the steps of a cause, and those of Twilio's help article.

The steps of a cause are those of its runbook in ``deploy/runbooks/causes``, which a test compares with these: runbooks
lie where an installation keeps them, and the pages have to have the steps wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from monitor.core.verdict import Verdict

ARTICLE_URL: Final = (
    "https://support.twilio.com/hc/en-us/articles/"
    "46867407476891-Flex-Calls-Still-Being-Recorded-After-Disabling-Call-Recording"
)


class ArticleStep(msgspec.Struct, frozen=True):
    """One thing that the help article has people look at, and the causes that it is about."""

    says: str
    causes: tuple[str, ...]


ARTICLE: Final = (
    ArticleStep("Flex: call recording is turned off.", ("flex_call_recording", "flex_conference")),
    ArticleStep("Agents have logged out of Flex and in again since.", ("flex_stale_session", "flex_residual_setting")),
    ArticleStep("Plugins that record are turned off.", ("flex_plugin",)),
    ArticleStep("Studio flows have no Call Recording widget that is on.", ("studio_call_recording_widget",)),
    ArticleStep(
        "TwiML has no recording in it.", ("conference_twiml", "dial_verb", "record_verb", "start_recording_twiml")
    ),
    ArticleStep(
        "Services ask for no recording through the API.",
        ("conference_api", "outbound_call_api", "conference_recording_api", "api_call_recording"),
    ),
    ArticleStep("SIP trunks are set to do-not-record.", ("sip_trunk",)),
)


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the article and what is known of it: ``state`` is ``found``, ``ruled out`` or ``to check``."""

    says: str
    state: str
    why: str = ""


def article_steps(verdict: Verdict) -> list[Checked]:
    """What a verdict says to each step of the article."""
    ruled_out = {ruled.cause: ruled.by for ruled in verdict.ruled_out}
    checked = []
    for step in ARTICLE:
        against = [f"{cause}: {ruled_out[cause]}" for cause in step.causes if cause in ruled_out]
        if verdict.cause in step.causes:
            checked.append(Checked(says=step.says, state="found", why=verdict.reason))
        elif len(against) == len(step.causes):
            checked.append(Checked(says=step.says, state="ruled out", why="; ".join(against)))
        else:
            checked.append(Checked(says=step.says, state="to check", why="; ".join(against)))
    return checked


def steps_of(cause: str | None) -> tuple[str, ...]:
    """What to do about a cause, first things first; where it is not known, how to find it."""
    return STEPS.get(cause or "", STEPS["unattributed"])


STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "api_call_recording": (
        "Does your policy allow this cause only for some callback address, queue or hours, and this one is another?",
        "The callback address in the case says who asked. Do you know that service?",
        "If you do not: rotate the API key it used, once you know which it is.",
        "If it is meant: allow it, as narrowly as possible, by callback_url. If it is not: take the recording request out of the service, or its right to make it.",
    ),
    "conference_api": (
        "The case shows the request: its time, and which conference.",
        "Find what sends it: the dialler, a function, a workflow's assignment callback.",
        "Take ConferenceRecord out, or set it to do-not-record.",
        "Deploy it without the flag. A running conference goes on being recorded: stop that recording singly.",
    ),
    "conference_recording_api": (
        "Who can? No public interface creates these: think of Twilio's own products and of betas you take part in.",
        "Gather the SIDs at once: support can see who asked.",
        "Stop the recording by its conference; turn off what started it.",
    ),
    "conference_twiml": (
        "The case names the call whose TwiML it was, and when it ran.",
        "Where does that call get its TwiML: a TwiML Bin, a function, your own address, a Studio redirect?",
        "Take the attribute out there.",
        "Deploy the TwiML without the attribute. Running conferences are recorded until they end: stop those recordings singly.",
    ),
    "dial_verb": (
        "The call in the case is the parent. Where does it get its TwiML?",
        "Take record out of the <Dial>. In a Studio flow it is the widget Connect Call To with recording on.",
        "Deploy the TwiML, or publish the flow, without it. A running recording has to be stopped singly.",
    ),
    "flex_call_recording": (
        "Is it meant to be on? Then the policy is wrong, not Flex.",
        "If it is not: Flex's settings in Twilio's console, call recording: disable it and save.",
        "Let all agents log out and in again: a session keeps what it has read.",
        "Disable it, then see that new sessions follow: test and monitor. For a day the cause becomes flex_stale_session, for agents who have not logged in again.",
    ),
    "flex_conference": (
        "Look it up: Flex's settings in Twilio's console, call recording.",
        "On: as in flex_call_recording. Off: as in flex_stale_session.",
        "As for whichever of the two it is.",
    ),
    "flex_plugin": (
        "Which starter matched? The case names it.",
        "Open Flex, Admin, Plugins: is it enabled, and in which version?",
        "Disable it, or the feature in it, and let agents reload Flex.",
        "Disable the plugin and publish the configuration; agents who are logged in keep the old one until they log out and in.",
    ),
    "flex_residual_setting": (
        "Is it really off? GET https://flex-api.twilio.com/v1/Configuration: call_recording_enabled.",
        "Do all agents have it, or one? One: a browser that keeps an old Flex; clear its cache, log out and in.",
        "All: a plugin or the assignment callback sets ConferenceRecord.",
        "Remove the flag where it was found; see test and monitor.",
    ),
    "flex_stale_session": (
        "Which agent? The case names the worker's SID, at the latest when the task is completed.",
        "Ask that agent to log out of Flex and in again.",
        "Ask everybody else who has to: recording-monitor audit --sessions lists them, with what they left.",
        "All agents log out and in. It is over when each agent has begun a new session; a reload alone may not be one.",
    ),
    "outbound_call_api": (
        "Which service dials? The call's details in Twilio's console name the caller's number and API key.",
        "Take Record out of its request.",
        "Deploy it without. Running calls are recorded to their end unless stopped.",
    ),
    "record_verb": (
        "Is it a voicemail that is meant? Then allow the cause in the policy: when: {cause: record_verb}.",
        "If it is not: find the TwiML or the flow of the call, and take it out.",
        "Allow it, or deploy without it.",
    ),
    "sip_trunk": (
        "Twilio's console, Elastic SIP Trunking: the trunk of this call, General, Call Recording.",
        "Set it to do not record.",
        "Look at the other trunks too: there is one setting each.",
        "It holds from the next call on; running ones are recorded to their end unless stopped.",
    ),
    "start_recording_twiml": (
        "Where does the call get its TwiML? Its request log in Twilio's console says so.",
        "Take the <Start><Recording> out.",
        "Deploy it without. A running recording has to be stopped singly.",
    ),
    "studio_call_recording_widget": (
        "The case names the flow (FW…), its revision and the widget.",
        "Open that flow in Twilio's console (Studio), find the widget, and look who published it and when.",
        "Take it out or switch it off, and publish: a draft changes nothing.",
        "Publish the flow without the widget. Calls that are in it already may go on in the revision they began with.",
    ),
    "unattributed": (
        "Is evidence missing because its events are not subscribed to? missing and ruled_out in the case say what was looked for.",
        "Is it one conference or a kind (one name, one number, one hour)?",
        "Gather the SIDs and ask Twilio's support what started it.",
        "Once it is known: as on that cause's page.",
    ),
    "unknown_source": (
        "Read the source in the case, and look it up in Twilio's documentation of recordings.",
        "Decide whether it is allowed, and say so in the policy by start_source.",
        "Report it to the maintainers, so that it gets a cause of its own.",
        "A rule of the policy by start_source, until there is a cause.",
    ),
}
