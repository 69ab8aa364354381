"""The pages about cases, and the same as JSON: each a pure rendering of what the view holds at this moment.

A page is put together on a thread of its own, in one go: beside a judging thread every change of threads costs up to
5 ms. Everything that is shown is escaped by the templates, and there is no script on any page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monitor import __version__, clock
from monitor.core.policy import OUTCOMES
from monitor.core.verdict import render_instant
from monitor.outputs.alert_text import CAUSES, STRENGTHS, headline, started_by
from monitor.outputs.case_events import RawEvent, RawEvents, picture
from monitor.outputs.cases import (
    CATEGORIES,
    PAGE_MAX,
    Case,
    Listed,
    Share,
    ViewLost,
    Wanted,
    goes_on,
    handled,
    timeline,
    was_before,
)
from monitor.outputs.policy_text import answers, describe
from monitor.outputs.steps import ARTICLE_URL, article_steps, steps_of
from monitor.web.asked import (
    KEY,
    TEXT_MAX,
    UNKNOWN_CAUSE,
    Asked,
    WrongAction,
    place_after,
    read_action,
    read_asked,
)
from monitor.web.desk import Desk, NotAllowed, check_origin, who

HERE: Final = Path(__file__).parent
STATIC: Final[Mapping[str, str]] = {"style.css": "text/css", "icon.svg": "image/svg+xml"}
SHARE_HOURS: Final = 7 * 24
BAR_HOURS: Final = 6
RAW_SHOWN_MAX: Final = 16 * 1024
"""Of one message, so much is shown; the bundle has all of it."""

_T = TypeVar("_T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of the chart: how many recordings were judged from an instant on, and how many as expected."""

    start: str
    expected: int
    total: int


class Pages:
    """The routes of the pages. ``open`` says what they are about; until then they answer 503."""

    def __init__(self, now_ms: Callable[[], int] = clock.now_ms) -> None:
        self._now_ms = now_ms
        self._desk: Desk | None = None
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(when=_when, started_by=started_by, pretty=_pretty)
        self._templates.globals.update(version=__version__, article_url=ARTICLE_URL)
        for name in self._templates.list_templates():
            self._templates.get_template(name)  # Compiled now, not while the first one waits.

    def open(self, desk: Desk) -> None:
        """The cases are there."""
        self._desk = desk

    def close(self) -> None:
        """The cases are not there any more."""
        self._desk = None

    def routes(self) -> list[web.RouteDef]:
        """What is answered."""
        case = f"/cases/{{key:{KEY}}}"
        return [
            web.get("/", self._page(self._overview)),
            web.get("/cases", self._page(self._cases)),
            web.get(case, self._page(self._case)),
            web.get(f"{case}/events", self._events),
            web.get(f"{case}/timeline.svg", self._timeline),
            web.get(f"{case}/bundle.zip", self._bundle),
            web.post(f"{case}/actions", self._act),
            web.get("/causes/{cause:[a-z_]{1,64}}", self._page(self._cause)),
            web.get("/accounts/{account:[A-Za-z0-9_-]{1,64}}", self._page(self._account)),
            web.get("/policy", self._page(self._policy)),
            web.get("/static/{name:[a-z.]{1,32}}", self._static),
            web.get("/api/v1/cases", self._json(self._api_cases)),
            web.get("/api/v1/coverage", self._json(self._api_coverage)),
            web.get(f"/api/v1{case}", self._json(self._api_case)),
            web.post(f"/api/v1{case}/actions", self._api_act),
        ]

    # The way of a request.

    def _page(self, render: Callable[[Desk, web.Request], str]) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            return _html(await self._within(render, request))

        return answer

    def _json(self, render: Callable[[Desk, web.Request], object]) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            return _document(await self._within(render, request))

        return answer

    async def _within(self, work: Callable[[Desk, web.Request], _T], request: web.Request) -> _T:
        desk = self._there()
        try:
            return await asyncio.to_thread(work, desk, request)
        except ViewLost:
            raise web.HTTPServiceUnavailable(reason="The cases are being read again") from None

    def _there(self) -> Desk:
        if self._desk is None:
            raise web.HTTPServiceUnavailable(reason="The cases are not there yet")
        return self._desk

    def _render(self, name: str, **values: object) -> str:
        return self._templates.get_template(name).render(now_ms=self._now_ms(), **values)

    # The pages.

    def _overview(self, desk: Desk, _request: web.Request) -> str:
        now_ms = self._now_ms()
        open_ = Wanted(open=True)
        since = render_instant(now_ms - SHARE_HOURS * 3_600_000)[:13]
        shares = desk.view.shares(since)
        return self._render(
            "overview.html",
            causes=desk.view.counts("cause", open_, now_ms),
            accounts=desk.view.counts("account", open_, now_ms),
            newest=desk.view.page(open_, now_ms, limit=10),
            aliases=desk.aliases(),
            bars=None if shares is None else _bars(shares, now_ms),
            unseen=desk.unseen(),
            policy=desk.policy(),
        )

    def _cases(self, desk: Desk, request: web.Request) -> str:
        asked = read_asked(request.query)
        found = self._found(desk, asked)
        if asked.q and len(found) == 1 and found[0].key == asked.q:
            raise web.HTTPSeeOther(f"/cases/{found[0].key}")
        aliases = desk.aliases()
        return self._render(
            "cases.html",
            asked=asked,
            outcomes=OUTCOMES,
            causes=[*CAUSES, UNKNOWN_CAUSE],
            aliases=aliases,
            **_list(asked, found),
        )

    def _case(self, desk: Desk, request: web.Request) -> str:
        case = _known(desk, request)
        verdict, now_ms = case.verdict, self._now_ms()
        aliases = desk.aliases()
        policy = desk.policy()
        web_settings = desk.settings.web
        given = {
            "recording_sid": verdict.recording_sid or "",
            "call_sid": verdict.call_sid or "",
            "conference_sid": verdict.conference_sid or "",
            "account_sid": verdict.account_sid,
        }
        templates = (
            ("recording", verdict.recording_sid, web_settings.recording_url_template),
            ("call", verdict.call_sid, web_settings.call_url_template),
            ("conference", verdict.conference_sid, web_settings.conference_url_template),
        )
        links = [(what, template.format(**given)) for what, sid, template in templates if sid and template]
        shown = answers(policy, verdict, aliases.get(verdict.account_sid))
        same_cause = Wanted(cause=verdict.cause or "", account=verdict.account_sid)
        return self._render(
            "case.html",
            case=case,
            verdict=verdict,
            headline=headline(verdict),
            strengths=STRENGTHS,
            alias=aliases.get(verdict.account_sid),
            is_open=desk.view.closes_ms(case) > now_ms,
            live=goes_on(case),
            handled=handled(case),
            lines=timeline(case),
            was=None if verdict.rejudged is None else was_before(verdict.rejudged),
            links=links,
            policy=policy,
            answers=shown,
            steps=steps_of(verdict.cause),
            article=article_steps(verdict),
            alike=desk.view.alike(case),
            elsewhere=[one for one in desk.view.page(same_cause, now_ms, limit=6) if one.key != case.key][:5],
            aliases=aliases,
            categories=CATEGORIES,
            text_max=TEXT_MAX,
            may_act=web_settings.actions,
            problem=None,
        )

    def _cause(self, desk: Desk, request: web.Request) -> str:
        cause = request.match_info["cause"]
        asked = msgspec.structs.replace(read_asked(request.query), cause=cause)
        if cause != UNKNOWN_CAUSE and cause not in CAUSES:
            raise web.HTTPNotFound
        words = None if cause == UNKNOWN_CAUSE else cause
        return self._render(
            "cause.html",
            cause=cause,
            what=started_by(words),
            steps=steps_of(words),
            accounts=desk.view.counts("account", Wanted(open=True, cause=words or ""), self._now_ms()),
            aliases=desk.aliases(),
            asked=asked,
            **_list(asked, self._found(desk, asked)),
        )

    def _account(self, desk: Desk, request: web.Request) -> str:
        named = request.match_info["account"]
        aliases = desk.aliases()
        sid = {alias: sid for sid, alias in aliases.items()}.get(named, named)
        asked = msgspec.structs.replace(read_asked(request.query), account=named)
        return self._render(
            "account.html",
            account_sid=sid,
            alias=aliases.get(sid),
            causes=desk.view.counts("cause", Wanted(open=True, account=sid), self._now_ms()),
            aliases=aliases,
            asked=asked,
            **_list(asked, self._found(desk, asked)),
        )

    def _policy(self, desk: Desk, _request: web.Request) -> str:
        policy = desk.policy()
        counts = desk.view.counts("rule", Wanted(open=True), self._now_ms())
        return self._render(
            "policy.html",
            policy=policy,
            rules=[(rule.document, rule.judgement.severity, describe(rule.document)) for rule in policy.rules],
            counts={one.name: one.count for one in counts},
        )

    # What needs Kafka, and so may take its time.

    async def _events(self, request: web.Request) -> web.StreamResponse:
        case = await self._within(_known, request)
        events = await self._read_events(case)
        return _html(self._render("events.html", case=case, events=events.events, why=events.why))

    async def _timeline(self, request: web.Request) -> web.StreamResponse:
        case = await self._within(_known, request)
        events = await self._read_events(case)
        drawn = picture(case, events.events, self._now_ms())
        return web.Response(
            text=self._render("timeline.svg", picture=drawn, key=case.key, why=events.why),
            content_type="image/svg+xml",
            charset="utf-8",
        )

    async def _read_events(self, case: Case) -> RawEvents:
        return await self._there().read_events(case.verdict)

    async def _bundle(self, request: web.Request) -> web.StreamResponse:
        case = await self._within(_known, request)
        packed = await self._there().make_bundle(case)
        named = f'attachment; filename="recording-{case.key}.zip"'
        return web.Response(body=packed, content_type="application/zip", headers={hdrs.CONTENT_DISPOSITION: named})

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        text = (HERE / "static" / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=STATIC[name], charset="utf-8")

    # Actions.

    async def _act(self, request: web.Request) -> web.StreamResponse:
        desk = self._there()
        try:
            check_origin(desk.settings, request.headers.get(hdrs.ORIGIN), request.headers.get(hdrs.HOST))
            by = self._by(desk, request)
        except NotAllowed as refused:
            return self._refuse(403, str(refused))
        case = await self._within(_known, request)
        form = await request.post()
        try:
            action = read_action(case.key, dict(form), by, self._now_ms())
        except WrongAction as wrong:
            return self._refuse(400, str(wrong))
        if not await desk.act(action):
            return self._refuse(503, "Kafka has not taken it in time. It may still come: look at the case again.")
        return web.Response(status=303, headers={hdrs.LOCATION: f"/cases/{case.key}"})

    def _refuse(self, status: int, says: str) -> web.Response:
        return _html(self._render("refused.html", says=says), status=status)

    @staticmethod
    def _by(desk: Desk, request: web.Request) -> str | None:
        header = desk.settings.web.user_header
        return who(desk.settings, request.headers.get(header) if header else None, request.remote)

    # The same as JSON.

    def _api_cases(self, desk: Desk, request: web.Request) -> object:
        asked = read_asked(request.query)
        found = self._found(desk, asked)
        more = place_after(found[PAGE_MAX - 1]) if len(found) > PAGE_MAX else None
        return {"cases": [msgspec.structs.asdict(one) for one in found[:PAGE_MAX]], "after": more}

    def _api_case(self, desk: Desk, request: web.Request) -> object:
        return case_document(_known(desk, request), desk.view.closes_ms, self._now_ms())

    def _api_coverage(self, desk: Desk, _request: web.Request) -> object:
        return {"accounts": desk.coverage()}

    async def _api_act(self, request: web.Request) -> web.StreamResponse:
        desk = self._there()
        try:
            if request.content_type != "application/json":
                # A page of another site can send a form without asking, and JSON not.
                raise NotAllowed("Send the action as application/json.")
            if hdrs.ORIGIN in request.headers:
                check_origin(desk.settings, request.headers[hdrs.ORIGIN], request.headers.get(hdrs.HOST))
            by = self._by(desk, request)
        except NotAllowed as refused:
            return _document({"error": str(refused)}, status=403)
        case = await self._within(_known, request)
        try:
            given = msgspec.json.decode(await request.read(), type=dict[str, Any])
            action = read_action(case.key, given, by, self._now_ms())
        except (WrongAction, msgspec.DecodeError) as wrong:
            return _document({"error": str(wrong)}, status=400)
        if not await desk.act(action):
            return _document({"error": "Kafka has not taken it in time. It may still come."}, status=503)
        return _document(action, status=201)

    # Lists.

    def _found(self, desk: Desk, asked: Asked) -> list[Listed]:
        accounts = {alias: sid for sid, alias in desk.aliases().items()}
        return desk.view.page(asked.wanted(accounts), self._now_ms(), after=asked.place(), limit=PAGE_MAX + 1)


def _list(asked: Asked, found: list[Listed]) -> dict[str, Any]:
    """What a list shows, and the queries of the next and of the first page."""
    shown = found[:PAGE_MAX]
    more = asked.query(after=place_after(shown[-1])) if len(found) > PAGE_MAX else None
    return {"found": shown, "more": more, "first": asked.query(after="") if asked.after else None}


def case_document(case: Case, closes_ms: Callable[[Case], int], now_ms: int) -> dict[str, object]:
    """A case as the API and the command line give it."""
    return {
        "key": case.key,
        "headline": headline(case.verdict),
        "open": closes_ms(case) > now_ms,
        "live": goes_on(case),
        "handled": handled(case),
        "verdict": case.verdict,
        "timeline": timeline(case),
        "steps": steps_of(case.verdict.cause),
    }


def _known(desk: Desk, request: web.Request) -> Case:
    case = desk.view.case(request.match_info["key"])
    if case is None:
        raise web.HTTPNotFound(reason="There is no case of this SID")
    return case


def _html(text: str, *, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")


def _document(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _bars(shares: list[Share], now_ms: int) -> list[Bar]:
    """The last seven days in bars of some hours each, the oldest first."""
    counted = {share.hour: share for share in shares}
    bars = []
    span_ms = BAR_HOURS * 3_600_000
    last_ms = now_ms // span_ms * span_ms
    for start_ms in range(last_ms - (SHARE_HOURS // BAR_HOURS - 1) * span_ms, last_ms + 1, span_ms):
        hours = [render_instant(start_ms + hour * 3_600_000)[:13] for hour in range(BAR_HOURS)]
        within = [counted[hour] for hour in hours if hour in counted]
        expected = sum(share.allowed for share in within)
        total = expected + sum(share.disallowed + share.undetermined for share in within)
        bars.append(Bar(start=render_instant(start_ms), expected=expected, total=total))
    return bars


def _when(instant: str | int | None) -> str:
    """An instant as people read it: to the second, in UTC."""
    if instant is None:
        return ""
    text = render_instant(instant) if isinstance(instant, int) else instant
    return f"{text[:10]} {text[11:19]}"  # As `render_instant` writes all of them.


def _pretty(raw: RawEvent) -> str:
    """A message as people read it, as much of it as a page bears."""
    if raw.value is None:
        return "This message is no JSON, and is not shown."
    try:
        text = msgspec.json.format(raw.value, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = raw.value.decode(errors="replace")
    return text if len(text) <= RAW_SHOWN_MAX else text[:RAW_SHOWN_MAX] + "\n… the bundle has all of it"
