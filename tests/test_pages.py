"""The pages and their JSON as a client sees them: what is shown, what is refused, and that nothing shown is obeyed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from monitor.commands.pages import coverage_of, missed_of
from monitor.core.policy import PolicyDocument, RuleDocument, compile_policy
from monitor.core.verdict import RuledOut, Shown, render_instant
from monitor.inputs.coverage import Settled, Tally
from monitor.outputs.alert_text import CAUSES, Links
from monitor.outputs.case_events import RawEvent, RawEvents
from monitor.outputs.cases import CATEGORIES, PAGE_MAX
from monitor.outputs.metrics import Metrics
from monitor.outputs.steps import ARTICLE, STEPS, article_steps
from monitor.settings import Address
from monitor.web.server import Health, WebServer
from tests.pages import ACCOUNT, Cases
from tests.test_alerts import HOUR, MINUTE, T0, ended, recording, verdict

FLOW = "FW" + "7" * 32
HOSTILE = "<script>alert(1)</script>\u202e\u2066" + "\U0001f399" * 10 + "x" * 10_000


class Asking:
    """A client of the pages. Redirects are not followed: where they lead is part of the answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self.url = session, url
        self.headers: dict[str, str] = {}

    async def get(self, path: str, status: int = 200) -> str:
        async with self._session.get(self.url + path, allow_redirects=False) as answer:
            assert answer.status == status, (path, answer.status, await answer.text())
            return answer.headers["Location"] if status == 303 else await answer.text()

    async def post(self, path: str, status: int, *, origin: str | None = "ours", **given: Any) -> str:
        headers = dict(given.pop("headers", {}))
        if origin is not None:
            headers["Origin"] = self.url if origin == "ours" else origin
        async with self._session.post(self.url + path, headers=headers, allow_redirects=False, **given) as answer:
            text = await answer.text()
            assert answer.status == status, (answer.status, text)
            return answer.headers["Location"] if status == 303 else text


def ask(cases: Cases, questions: Callable[[Asking], Awaitable[None]]) -> None:
    async def asked() -> None:
        health = Health(0.0, needs=())
        server = WebServer(Address("127.0.0.1", 0), Metrics(aliases={}).registry, health, cases.pages())
        await server.start()
        try:
            async with aiohttp.ClientSession() as session:
                await questions(Asking(session, server.url))
        finally:
            await server.stop()

    asyncio.run(asked())


def text_of(page: str) -> str:
    """What a person reads of a page."""
    parts: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            parts.append(data)

    Reader().feed(page)
    return " ".join(" ".join(parts).split())


@pytest.fixture
def cases(tmp_path: Path) -> Cases:
    made = Cases(tmp_path, actions=True)
    shown = (Shown("VW1", "step", "0:1", render_instant(T0), f"Studio execution of flow {FLOW} left a widget"),)
    made.take(verdict(1, conference_sid="CF" + "2" * 32, evidence=shown, missing=("flex_off_since",)))
    made.take(ended(2, cause="conference_twiml", evidence=shown, ruled_out=(RuledOut("sip_trunk", "the source"),)))
    made.take(ended(3, cause=None, outcome="undetermined", account_sid="AC" + "9" * 32), seen_ms=T0 + MINUTE)
    return made


def test_the_overview_leads_to_causes_accounts_cases_and_the_policy(cases):
    cases.unseen = ("It is behind: what it judges came 300 s ago.",)

    async def questions(client: Asking) -> None:
        page = await client.get("/")
        text = text_of(page)
        assert "dial_verb TwiML <Dial record> 1 1" in text
        assert "It is behind: what it judges came 300 s ago." in text
        assert "only-explicit-api , mode enforce" in text
        assert "0.0 % : 0 of 3 recordings were allowed." in text
        links = set(re.findall(r'href="(/[^"]*)"', page)) - {"/-/ready"}
        assert {"/causes/dial_verb", "/accounts/main", f"/cases/{recording(1)}", "/policy"} <= links
        for link in links:
            await client.get(link)

    ask(cases, questions)


def test_a_case_tells_what_why_and_what_to_do(cases):
    async def questions(client: Asking) -> None:
        text = text_of(await client.get(f"/cases/{recording(1)}"))
        for said in (
            f"Recording {recording(1)} in conference CF{'2' * 32} is not allowed: started by TwiML <Dial record>.",
            "recording now",
            "How we know: Twilio's source value says so.",
            STEPS["dial_verb"][0],
            "found TwiML has no recording in it.",
            "flex_off_since",
            "default decided",
            "explicit-api-start allowed false cause: false",
            f"{FLOW} is named in 1 other case",
        ):
            assert said in text, said
        assert "sip_trunk: the source" in text_of(await client.get(f"/cases/{recording(2)}"))
        await client.get(f"/cases/{recording(9)}", 404)
        picture = await client.get(f"/cases/{recording(1)}/timeline.svg")
        assert f"conference CF{'2' * 32}: from a start not seen" in picture

    ask(cases, questions)


def test_a_case_links_to_the_console_where_the_settings_say_where_that_is(tmp_path):
    cases = Cases(
        tmp_path,
        recording_url_template="https://console.example.com/{account_sid}/recordings/{recording_sid}",
        call_url_template="https://console.example.com/calls/{call_sid}",
    )
    cases.take(verdict(1))

    async def questions(client: Asking) -> None:
        page = await client.get(f"/cases/{recording(1)}")
        assert f'href="https://console.example.com/{ACCOUNT}/recordings/{recording(1)}"' in page
        assert f'href="https://console.example.com/calls/CA{"1" * 32}"' in page

    ask(cases, questions)


def test_the_link_of_an_alert_leads_to_its_case(cases):
    async def questions(client: Asking) -> None:
        links = Links(web=client.url)
        for link in (links.case(recording(1)), f"{links.web}/cases"):
            await client.get(link.removeprefix(client.url))

    ask(cases, questions)


def test_any_sid_that_a_verdict_names_finds_its_cases(cases):
    async def questions(client: Asking) -> None:
        assert await client.get(f"/cases?q={recording(2)}", 303) == f"/cases/{recording(2)}"
        for sid, found in (
            (FLOW, {1, 2}),
            ("CA" + "1" * 32, {1, 2, 3}),
            ("CF" + "2" * 32, {1}),
            ("AC" + "9" * 32, {3}),
            ("RE" + "f" * 32, set()),
        ):
            page = await client.get(f"/cases?q={sid}")
            shown = {number for number in (1, 2, 3) if f"/cases/{recording(number)}" in page}
            assert shown == found, sid

    ask(cases, questions)


def test_a_list_goes_on_over_the_next_page_at_an_address_that_stays(cases):
    cases.take(*[verdict(number) for number in range(100, 100 + PAGE_MAX)])

    async def questions(client: Asking) -> None:
        first = await client.get("/cases?state=all&account=main")
        more = re.search(r'href="(/cases\?[^"]*)" rel="next"', first)
        assert more is not None
        second = await client.get(more[1].replace("&amp;", "&"))
        shown = [re.findall(r'class="sid" href="/cases/(RE[0-9a-f]+)"', page) for page in (first, second)]
        assert (len(shown[0]), len(shown[1])) == (PAGE_MAX, 2)
        assert not set(shown[0]) & set(shown[1])
        assert "First page" in second

    ask(cases, questions)


def test_an_address_that_makes_no_sense_shows_a_list_all_the_same(cases):
    async def questions(client: Asking) -> None:
        for query in (
            "state=x&outcome=y&handled=z&after=0",
            "after=1-9-RE1'",
            "cause=%00&rule=%27%3B--",
            "q=%3Cscript%3E",
        ):
            assert "<script" not in await client.get(f"/cases?{query}")
        for path in ("/causes/nonsense", "/causes/Dial", "/cases/x", "/accounts/a%2Fb", "/static/nothing.css"):
            await client.get(path, 404)

    ask(cases, questions)


@pytest.mark.parametrize("cause", [*CAUSES, "unknown"])
def test_every_cause_has_its_page(cases, cause):
    async def questions(client: Asking) -> None:
        assert STEPS.get(cause, STEPS["unattributed"])[0] in text_of(await client.get(f"/causes/{cause}"))

    ask(cases, questions)


def test_what_outsiders_write_is_shown_and_never_obeyed(cases):
    event = {"id": HOSTILE, "data": {"friendly_name": HOSTILE}}
    cases.events = RawEvents(
        events=(RawEvent(position="0:1", arrived_at=render_instant(T0), value=msgspec.json.encode(event)),),
        why="<img src=x onerror=alert(1)>",
    )
    cases.take(verdict(4, reason=HOSTILE, evidence=(Shown(HOSTILE, HOSTILE, "0:1", render_instant(T0), HOSTILE),)))

    async def questions(client: Asking) -> None:
        await client.post(f"/cases/{recording(4)}/actions", 303, data={"kind": "comment", "text": HOSTILE[:1900]})
        for path in ("", "/events", "/timeline.svg"):
            page = await client.get(f"/cases/{recording(4)}{path}")
            assert "<script" not in page
            assert "<img src=x" not in page
        assert HOSTILE[:1000] in text_of(await client.get(f"/cases/{recording(4)}"))

    ask(cases, questions)


def test_the_policy_page_says_every_rule_in_words(cases):
    async def questions(client: Asking) -> None:
        text = text_of(await client.get("/policy"))
        assert "explicit-api-start allowed when its cause is api_call_recording" in text
        assert cases.policy.hash in text

    ask(cases, questions)


def test_a_case_that_another_policy_judged_says_so(cases):
    async def questions(client: Asking) -> None:
        says = "It was judged by another policy than the one in force"
        assert says in text_of(await client.get(f"/cases/{recording(1)}"))
        cases.take(verdict(1, at=2, policy=cases.policy.hash))
        assert says not in text_of(await client.get(f"/cases/{recording(1)}"))

    ask(cases, questions)


def test_the_share_of_expected_recordings_is_not_told_where_it_is_not_known(tmp_path):
    (tmp_path / "pages.sqlite3").mkdir()  # No place for a file: the view is kept in memory.
    cases = Cases(tmp_path)

    async def questions(client: Asking) -> None:
        text = text_of(await client.get("/"))
        assert "Not known while the case database is kept in memory." in text
        assert "No case is open." in text

    ask(cases, questions)


def test_pages_that_are_not_there_yet_say_so():
    async def asked() -> None:
        server = WebServer(Address("127.0.0.1", 0), Metrics(aliases={}).registry, Health(0.0))
        await server.start()
        async with aiohttp.ClientSession() as session:
            client = Asking(session, server.url)
            for path in ("/", "/cases", "/api/v1/cases"):
                assert await client.get(path, 503) == "503 The cases are not there yet\n"
            await client.get("/static/style.css")
        await server.stop()

    asyncio.run(asked())


# --- Actions


def test_each_action_is_written_and_shown(cases):
    path = f"/cases/{recording(1)}/actions"

    async def questions(client: Asking) -> None:
        for given in (
            {"kind": "acknowledge"},
            {"kind": "explain", "category": "accepted", "until": "2026-12-31", "text": "Until the migration."},
            {"kind": "comment", "text": "Asked the team."},
            {"kind": "close"},
            {"kind": "reopen"},
        ):
            assert await client.post(path, 303, data=given) == f"/cases/{recording(1)}"
        text = text_of(await client.get(f"/cases/{recording(1)}"))
        assert "explain : accepted: until 2026-12-31: Until the migration." in text
        assert "comment : Asked the team." in text

    ask(cases, questions)
    assert [done.kind for done in cases.acted] == ["acknowledge", "explain", "comment", "close", "reopen"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "Say what to do: one of acknowledge"),
        ({"kind": "told"}, "Say what to do: one of acknowledge"),
        ({"kind": "comment", "text": "  "}, "A comment needs a text."),
        ({"kind": "comment", "text": "x" * 2_001}, "at most 2000 characters"),
        ({"kind": "explain", "category": "boredom"}, "Say what explains it: one of configuration"),
        ({"kind": "explain", "category": "accepted"}, "Say until which day it is accepted"),
        ({"kind": "explain", "category": "accepted", "until": "tomorrow"}, "Say until which day"),
    ],
)
def test_an_action_that_makes_no_sense_is_refused_and_says_what_to_do(cases, given, says):
    async def questions(client: Asking) -> None:
        assert says in text_of(await client.post(f"/cases/{recording(1)}/actions", 400, data=given))
        assert says in await client.post(f"/api/v1/cases/{recording(1)}/actions", 400, json=given)

    ask(cases, questions)
    assert cases.acted == []


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example.com", "http://127.0.0.1:1"])
def test_a_form_that_another_site_sends_is_refused(cases, origin):
    async def questions(client: Asking) -> None:
        data = {"kind": "close"}
        await client.post(f"/cases/{recording(1)}/actions", 403, origin=origin, data=data)
        if origin is not None:
            await client.post(f"/api/v1/cases/{recording(1)}/actions", 403, origin=origin, json=data)
        # What a browser sends to another site without asking it first.
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            headers = {"Content-Type": kind}
            await client.post(
                f"/api/v1/cases/{recording(1)}/actions", 403, origin=origin, data='{"kind":"close"}', headers=headers
            )

    ask(cases, questions)
    assert cases.acted == []


def test_a_name_that_was_made_to_lead_here_is_not_believed(cases):
    async def questions(client: Asking) -> None:
        headers = {"Host": "rebound.example.com"}
        origin = "http://rebound.example.com"
        await client.post(f"/cases/{recording(1)}/actions", 403, origin=origin, data={"kind": "close"}, headers=headers)

    ask(cases, questions)


def test_behind_a_proxy_the_address_people_use_is_the_one_that_counts(tmp_path):
    cases = Cases(tmp_path, actions=True, external_url="https://monitor.example.com/")
    cases.take(verdict(1))

    async def questions(client: Asking) -> None:
        path, data = f"/cases/{recording(1)}/actions", {"kind": "close"}
        await client.post(path, 403, data=data)
        await client.post(path, 303, data=data, origin="https://monitor.example.com")

    ask(cases, questions)


def test_pages_are_read_only_unless_actions_are_switched_on(tmp_path):
    cases = Cases(tmp_path)
    cases.take(verdict(1))

    async def questions(client: Asking) -> None:
        assert "<form class" not in await client.get(f"/cases/{recording(1)}")
        page = await client.post(f"/cases/{recording(1)}/actions", 403, data={"kind": "close"})
        assert "web.actions is off" in page
        await client.post(f"/api/v1/cases/{recording(1)}/actions", 403, json={"kind": "close"})

    ask(cases, questions)
    assert cases.acted == []


@pytest.mark.parametrize(
    ("proxies", "headers", "by"),
    [
        (["127.0.0.0/8"], {"X-Forwarded-User": " ada "}, "ada"),
        (["127.0.0.0/8"], {}, None),
        (["127.0.0.0/8"], {"X-Forwarded-User": ""}, None),
        (["10.0.0.0/8"], {"X-Forwarded-User": "ada"}, None),
    ],
)
def test_who_acts_is_believed_from_a_trusted_proxy_alone(tmp_path, proxies, headers, by):
    cases = Cases(tmp_path, actions=True, user_header="X-Forwarded-User", trusted_proxies=proxies)
    cases.take(verdict(1))

    async def questions(client: Asking) -> None:
        status = 303 if by else 403
        await client.post(f"/cases/{recording(1)}/actions", status, data={"kind": "close"}, headers=headers)

    ask(cases, questions)
    assert [done.by for done in cases.acted] == ([by] if by else [])


def test_an_action_that_kafka_has_not_taken_says_so(cases):
    cases.reached = False

    async def questions(client: Asking) -> None:
        page = await client.post(f"/cases/{recording(1)}/actions", 503, data={"kind": "close"})
        assert "It may still come" in page

    ask(cases, questions)


def test_a_body_beyond_any_action_is_refused(cases):
    async def questions(client: Asking) -> None:
        await client.post(f"/cases/{recording(1)}/actions", 413, data={"kind": "comment", "text": "x" * 40_000})

    ask(cases, questions)


# --- The same as JSON


def test_the_api_says_what_the_pages_say(cases):
    async def questions(client: Asking) -> None:
        listed = msgspec.json.decode(await client.get("/api/v1/cases?state=all"))
        assert [one["key"] for one in listed["cases"]] == [recording(number) for number in (1, 3, 2)]
        assert listed["after"] is None
        told = msgspec.json.decode(await client.get(f"/api/v1/cases/{recording(1)}"))
        assert (told["open"], told["live"], told["verdict"]["cause"]) == (True, True, "dial_verb")
        done = await client.post(
            f"/api/v1/cases/{recording(1)}/actions", 201, origin=None, json={"kind": "acknowledge"}
        )
        assert msgspec.json.decode(done)["kind"] == "acknowledge"
        told = msgspec.json.decode(await client.get(f"/api/v1/cases/{recording(1)}"))
        assert told["handled"] == "acknowledged"
        await client.get(f"/api/v1/cases/{recording(9)}", 404)

    ask(cases, questions)


def test_the_api_says_what_the_stream_missed(cases):
    hours = ((T0 - 2 * HOUR, Tally(10, 10)), (T0 - HOUR, Tally(12, 9)))
    said = [Settled(ACCOUNT, T0, render_instant(T0), hours), Settled("AC" + "8" * 32, T0, "rubbish", hours)]
    cases.coverage = coverage_of(said, {ACCOUNT: "main", "AC" + "9" * 32: "never listed"}, T0 + 20 * MINUTE)

    async def questions(client: Asking) -> None:
        main, unknown, never = msgspec.json.decode(await client.get("/api/v1/coverage"))["accounts"]
        assert main == {
            "account_sid": ACCOUNT,
            "alias": "main",
            "known": 22,
            "seen": 19,
            "ratio": 19 / 22,
            "settled_to": render_instant(T0),
            "said_at": render_instant(T0),
            "gaps": [{"hour": render_instant(T0 - HOUR), "known": 12, "missed": 3}],
        }
        assert (unknown["alias"], unknown["known"], unknown["ratio"], unknown["gaps"]) == (
            None,
            None,
            None,
            main["gaps"],
        )
        assert (never["alias"], never["ratio"], never["settled_to"], never["gaps"]) == ("never listed", None, None, [])

    ask(cases, questions)
    [late, *_] = coverage_of(said, {}, T0 + 31 * MINUTE)
    assert (late.known, late.ratio) == (None, None)  # Nobody could ask: that is no 100 %.
    assert list(missed_of([late])) == []
    assert list(missed_of(cases.coverage)) == ["The stream did not tell of 3 of 22 recordings of main in the last day."]


def test_the_api_lists_every_case_once_over_its_pages(cases):
    cases.take(*[verdict(number) for number in range(100, 100 + 2 * PAGE_MAX)])

    async def questions(client: Asking) -> None:
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = msgspec.json.decode(await client.get(f"/api/v1/cases?state=all&after={after}"))
            seen += [one["key"] for one in page["cases"]]
            after = page["after"]
        assert (len(seen), len(set(seen))) == (2 * PAGE_MAX + 3, 2 * PAGE_MAX + 3)

    ask(cases, questions)


# --- Words


def test_a_step_of_the_article_is_found_ruled_out_or_still_to_check():
    told = verdict(1, cause="dial_verb", ruled_out=(RuledOut("sip_trunk", "the source"), RuledOut("flex_plugin", "x")))
    states = {step.says: step.state for step in article_steps(told)}

    assert states["TwiML has no recording in it."] == "found"
    assert states["SIP trunks are set to do-not-record."] == "ruled out"
    assert states["Plugins that record are turned off."] == "ruled out"
    assert states["Flex: call recording is turned off."] == "to check"


def test_every_cause_but_the_unknown_ones_is_in_a_step_of_the_article():
    assert set(CAUSES) - {cause for step in ARTICLE for cause in step.causes} == {"unknown_source", "unattributed"}
    assert set(STEPS) == set(CAUSES)
    assert "accepted" in CATEGORIES


def test_rules_that_ask_for_what_a_verdict_does_not_hold_are_open(cases):
    rules = (
        RuleDocument(name="numbers", outcome="allowed", when={"from": ("+1*",)}),
        RuleDocument(name="both", outcome="allowed", when={"from": ("+1*",), "cause": ("record_verb",)}),
    )
    cases.policy = compile_policy(PolicyDocument(rules=rules), b"")

    async def questions(client: Asking) -> None:
        text = text_of(await client.get(f"/cases/{recording(1)}"))
        assert "numbers allowed open from: asks the events" in text
        assert "both allowed false cause: false, from: asks the events" in text
        assert "+1" not in text

    ask(cases, questions)
