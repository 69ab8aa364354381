"""The pages in a real Chromium: by clicks and by keys, on a telephone, and with what outsiders write in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from monitor.core.verdict import Shown, render_instant
from monitor.outputs.case_events import RawEvent, RawEvents
from monitor.outputs.cases import Wanted
from tests.browser import DESKTOP, PHONE, Browser
from tests.pages import Cases, Served, simulated
from tests.test_alerts import T0, recording, verdict
from tests.test_pages import HOSTILE

pytestmark = pytest.mark.browser


class Afternoon:
    """The cases of a simulated afternoon, served."""

    def __init__(self, cases: Cases, url: str) -> None:
        self.cases, self.url = cases, url
        self.cause = "conference_twiml"
        self.key = cases.view.page(Wanted(cause=self.cause, open=True), cases.now_ms)[0].key

    def pages(self) -> dict[str, str]:
        """One of every kind."""
        case = f"/cases/{self.key}"
        return {
            "overview": "/",
            "cases": "/cases?state=all",
            "case": case,
            "events": f"{case}/events",
            "cause": f"/causes/{self.cause}?state=all",
            "account": "/accounts/main?state=all",
            "policy": "/policy",
        }


@pytest.fixture(scope="module")
def afternoon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Afternoon]:
    cases = simulated(tmp_path_factory.mktemp("afternoon"), actions=True)
    with Served(cases) as served:
        yield Afternoon(cases, served.url)


@pytest.fixture(autouse=True)
def quiet(browser: Browser) -> Iterator[None]:
    """Every test begins on a desk, and none leaves the browser with a complaint."""
    browser.resize(DESKTOP)
    browser.complaints()
    yield
    assert browser.complaints() == []


def test_clicks_lead_from_the_overview_to_the_cause_and_the_case(browser: Browser, afternoon: Afternoon):
    browser.open(afternoon.url)
    browser.click(f'a[href="/causes/{afternoon.cause}"]')
    assert "What to do" in browser.text
    browser.click('a[href$="state=all"]')
    browser.click(f'a[href="/cases/{afternoon.key}"]')
    assert browser.path == f"/cases/{afternoon.key}"
    assert "is not allowed: started by TwiML with <Conference record>." in browser.find("h1").text
    assert browser.run("return document.querySelector('img.timeline').naturalWidth") > 0
    browser.click(f'a[href="/cases/{afternoon.key}/events"]')
    assert '"AccountSid"' in browser.text


def test_keys_alone_lead_from_the_overview_to_a_case_and_act_on_it(browser: Browser, afternoon: Afternoon):
    browser.open(afternoon.url)
    browser.tab_to(f'a[href="/causes/{afternoon.cause}"]')
    browser.enter()
    browser.tab_to('a[href$="state=all"]')
    browser.enter()
    browser.tab_to(f'a[href="/cases/{afternoon.key}"]')
    browser.enter()
    browser.tab_to("#text")
    browser.press("Asked the team that owns the TwiML.")
    browser.tab_to('button[value="comment"]')
    browser.enter()
    assert browser.path == f"/cases/{afternoon.key}"
    assert "comment: Asked the team that owns the TwiML." in browser.text


def test_a_search_finds_a_case_by_any_sid(browser: Browser, afternoon: Afternoon):
    browser.open(afternoon.url)
    browser.find("#search").click()
    browser.press(afternoon.key)
    browser.enter()
    assert browser.path == f"/cases/{afternoon.key}"


def test_every_action_is_done_by_its_button(browser: Browser, afternoon: Afternoon):
    browser.open(f"{afternoon.url}/cases/{afternoon.key}")
    for kind in ("acknowledge", "explain", "close", "reopen"):
        browser.click(f'button[value="{kind}"]')
        assert browser.path == f"/cases/{afternoon.key}"
    assert [done.kind for done in afternoon.cases.acted][-4:] == ["acknowledge", "explain", "close", "reopen"]


def test_no_page_keeps_anybody_out_or_is_wider_than_a_telephone(browser: Browser, afternoon: Afternoon):
    for name, path in afternoon.pages().items():
        browser.resize(DESKTOP)
        browser.open(afternoon.url + path)
        assert browser.overflow() == 0, name
        assert browser.barriers() == [], name
        browser.resize(PHONE)
        assert browser.overflow() == 0, name


def test_what_outsiders_write_does_nothing_but_stand_there(browser: Browser, tmp_path: Path):
    cases = Cases(tmp_path, actions=True)
    event = msgspec.json.encode({"id": HOSTILE, "data": {"conference": {HOSTILE: HOSTILE}}})
    cases.events = RawEvents(events=(RawEvent(position="0:1", arrived_at=render_instant(T0), value=event),))
    shown = (Shown(HOSTILE, HOSTILE, "0:1", render_instant(T0), HOSTILE),)
    cases.take(verdict(1, reason=HOSTILE, start_source=HOSTILE, rule=HOSTILE, evidence=shown, missing=(HOSTILE,)))
    browser.resize(PHONE)
    with Served(cases) as served:
        for path in ("/", "/cases", f"/cases/{recording(1)}", f"/cases/{recording(1)}/events"):
            browser.open(served.url + path)
            assert browser.overflow() == 0, path
            assert browser.run("return document.scripts.length") == 0
        assert "<script>alert(1)</script>" in browser.text
        # The text that turns directions ends where it ends.
        browser.open(f"{served.url}/cases/{recording(1)}")
        assert browser.find("footer").text.startswith("Recording Monitor")
