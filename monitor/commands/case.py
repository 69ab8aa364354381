"""``case``: cases and what people say to them, from the command line; read from the topics, so no monitor has to run.

What is said goes into the topic of case actions, as from the pages. Whoever may write there may do this: the switch
``web.actions`` is for the pages.
"""

from __future__ import annotations

import contextlib
import enum
import getpass
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor import clock
from monitor.commands.common import ConfigOption, read_settings, writing_properties
from monitor.commands.paging import closing, pace_of, seen_in
from monitor.errors import OutputUnavailable, WrongInput
from monitor.inputs.scan import Scan
from monitor.outputs.alert_text import headline
from monitor.outputs.cases import (
    ACKNOWLEDGE,
    CLOSE,
    COMMENT,
    EXPLAIN,
    REOPEN,
    Case,
    CaseView,
    Seen,
    goes_on,
    handled,
    render_action,
    timeline,
)
from monitor.outputs.delivery import Delivery
from monitor.outputs.steps import steps_of
from monitor.settings import Settings, kafka_client
from monitor.web.asked import Asked, WrongAction, read_action
from monitor.web.pages import case_document

EXIT_NO: Final = 1
BATCH: Final = 2_000
WRITE_S: Final = 15.0

Written = tuple[str, str, bytes | None, int | None]
"""A message to write: topic, key, value (None takes back what stands under the key), partition (None: by the key)."""


class State(enum.StrEnum):
    """Which cases."""

    OPEN = "open"
    PAST = "past"
    ALL = "all"


class Format(enum.StrEnum):
    """How cases are printed."""

    TEXT = "text"
    JSON = "json"


SidsArgument = Annotated[
    list[str],
    typer.Argument(metavar="SID…", help="Recordings (RE…) or suspected conferences (CF…).", show_default=False),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print them.")]
ByOption = Annotated[
    str | None, typer.Option("--by", help="Who says so; without it your user name here.", metavar="NAME")
]
TextOption = Annotated[str, typer.Option("--text", "-t", help="What to say to it.", metavar="TEXT")]


def list_(
    *,
    config: ConfigOption = None,
    state: Annotated[State, typer.Option("--state", help="Which ones.")] = State.OPEN,
    account: Annotated[str, typer.Option(help="Of an account: its alias or SID.")] = "",
    cause: Annotated[str, typer.Option(help="Of a cause; `unknown` where there is none.")] = "",
    rule: Annotated[str, typer.Option(help="By a rule.")] = "",
    sid: Annotated[str, typer.Option(help="That name this SID: a call, a conference, a flow.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 50,
    format_: FormatOption = Format.TEXT,
) -> None:
    """List cases: those that go on first, then the last changed. Exit code 1: there is none.

    Examples:
      recording-monitor case list

      recording-monitor case list --state all --cause conference_twiml --format json
    """
    settings = read_settings(config)
    asked = Asked(state=state.value, account=account, cause=cause, rule=rule, q=sid)
    accounts = {one.alias: one.sid for one in settings.accounts}
    with cases_of(settings) as view:
        found = view.page(asked.wanted(accounts), clock.now_ms(), limit=limit)
    if format_ is Format.JSON:
        for one in found:
            sys.stdout.write(msgspec.json.encode(msgspec.structs.asdict(one)).decode() + "\n")
    else:
        aliases = {sid: alias for alias, sid in accounts.items()}
        table = Table()
        for column in ("state", "case", "started", "account", "cause", "rule", "handled"):
            table.add_column(column, overflow="fold", no_wrap=column == "case")
        for one in found:
            how = "past" if one.closes_ms <= clock.now_ms() else "recording now" if one.live else "open"
            named = aliases.get(one.account, one.account)
            cells = (how, one.key, one.started_at, named, one.cause or "not known", one.rule, one.handled)
            table.add_row(*map(Text, cells))
        Console(highlight=False).print(table)
    if not found:
        raise typer.Exit(EXIT_NO)


def show(sids: SidsArgument, config: ConfigOption = None, *, format_: FormatOption = Format.TEXT) -> None:
    """Show cases: what, why, what to do, and what people said. Exit code 1: there is no case of one of them.

    Example: recording-monitor case show RE…
    """
    settings = read_settings(config)
    with cases_of(settings, only=sids) as view:
        found = known(view, sids)
        for case in found:
            if format_ is Format.JSON:
                document = case_document(case, view.closes_ms, clock.now_ms())
                sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
            else:
                _print_case(case, is_open=view.closes_ms(case) > clock.now_ms())
    if len(found) < len(sids):
        raise typer.Exit(EXIT_NO)


def acknowledge(sids: SidsArgument, config: ConfigOption = None, *, text: TextOption = "", by: ByOption = None) -> None:
    """Say that somebody looks at cases. Exit code 1: one of them is not there, and nothing was said to any.

    Example: recording-monitor case acknowledge RE…
    """
    _act(config, sids, by, {"kind": ACKNOWLEDGE, "text": text})


def explain(
    sids: SidsArgument,
    config: ConfigOption = None,
    *,
    category: Annotated[
        str,
        typer.Option("--as", help="configuration, stale session, testing, maintenance, false positive or accepted."),
    ],
    until: Annotated[str, typer.Option("--until", help="Of accepted: until which day.", metavar="DAY")] = "",
    text: TextOption = "",
    by: ByOption = None,
) -> None:
    """Say what explains cases. It resolves no alert: `case close` does.

    Exit code 1: one of them is not there, and nothing was said to any.

    Examples:
      recording-monitor case explain RE… --as testing --text "Our own call."

      recording-monitor case explain RE… --as accepted --until 2026-12-31
    """
    _act(config, sids, by, {"kind": EXPLAIN, "text": text, "category": category, "until": until})


def comment(sids: SidsArgument, config: ConfigOption = None, *, text: TextOption, by: ByOption = None) -> None:
    """Say something to cases. Exit code 1: one of them is not there, and nothing was said to any.

    Example: recording-monitor case comment RE… --text "Asked the team that owns the flow."
    """
    _act(config, sids, by, {"kind": COMMENT, "text": text})


def close(sids: SidsArgument, config: ConfigOption = None, *, text: TextOption = "", by: ByOption = None) -> None:
    """Close cases: their alerts are resolved. Exit code 1: one of them is not there, and none was closed.

    Example: recording-monitor case close RE… --text "The recording was stopped."
    """
    _act(config, sids, by, {"kind": CLOSE, "text": text})


def reopen(sids: SidsArgument, config: ConfigOption = None, *, text: TextOption = "", by: ByOption = None) -> None:
    """Open cases again that somebody closed. Exit code 1: one of them is not there, and none was opened.

    Example: recording-monitor case reopen RE…
    """
    _act(config, sids, by, {"kind": REOPEN, "text": text})


@contextlib.contextmanager
def cases_of(settings: Settings, *, only: Collection[str] = ()) -> Iterator[CaseView]:
    """The cases as the topics have them now; where ``only`` names keys, those alone. Raises OutOfReach."""
    topics, pace = settings.topics, pace_of(settings)
    with tempfile.TemporaryDirectory(prefix="recording-monitor-") as directory:
        view = CaseView(
            Path(directory) / "cases.sqlite3",
            source="",
            retention_ms=round(settings.cases.retention.total_seconds() * 1000),
            closes_ms=closing(pace),
        )
        try:
            for topic in (topics.verdicts, topics.case_actions):
                scan = Scan(kafka_client(settings), settings.kafka.group_id, topic)
                batch: list[Seen] = []
                try:
                    for message in scan.read():
                        one = seen_in(message, topics.case_actions)
                        if one is not None and (not only or one.key.partition("/")[0] in only):
                            batch.append(one)
                        if len(batch) >= BATCH:
                            view.take(batch, {})
                            batch.clear()
                finally:
                    scan.close()
                view.take(batch, {})
            yield view
        finally:
            view.close()


def known(view: CaseView, sids: Collection[str]) -> list[Case]:
    """The cases of these SIDs; of each that has none a line goes to stderr."""
    found = []
    for sid in sids:
        case = view.case(sid)
        if case is None:
            typer.echo(f"{sid}: there is no case of it", err=True)
        else:
            found.append(case)
    return found


def _act(config: Path | None, sids: list[str], by: str | None, given: Mapping[str, object]) -> None:
    settings = read_settings(config)
    try:
        actions = [read_action(sid, given, by or getpass.getuser(), clock.now_ms()) for sid in sids]
    except WrongAction as wrong:
        raise WrongInput(str(wrong)) from None
    with cases_of(settings, only=sids) as view:
        if len(known(view, sids)) < len(sids):
            raise typer.Exit(EXIT_NO)
    rendered = [render_action(action, clock.now_ms()) for action in actions]
    write_all(settings, [(settings.topics.case_actions, key, value, None) for key, value in rendered])
    for action in actions:
        typer.echo(f"{action.recording_sid}: {action.kind}")


def write_all(settings: Settings, messages: Iterable[Written]) -> None:
    """Write messages, and wait until the brokers have all of them. Raises OutputUnavailable."""
    properties = writing_properties(kafka_client(settings))
    delivery = Delivery(properties, on_error=lambda _: None)  # Who waits is told in the end that nobody answered.
    lost: list[str] = []
    for topic, key, value, partition in messages:

        def done(place: int | None, key: str = key) -> None:
            if place is None:
                lost.append(key)

        delivery.send(topic, value, partition=partition, key=key, done=done)
    delivery.flush(WRITE_S)
    if lost:
        raise OutputUnavailable(f"not written: {', '.join(lost)}")


def _print_case(case: Case, *, is_open: bool) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    verdict = case.verdict
    state = "recording now" if is_open and goes_on(case) else "open" if is_open else "past"
    console.print(f"{headline(verdict)}\n")
    console.print(f"{state}{', ' + handled(case) if handled(case) else ''}; rule {verdict.rule}; {verdict.reason}\n")
    for line in timeline(case):
        at = datetime.fromisoformat(line.at).strftime("%Y-%m-%d %H:%M:%SZ")
        by = f" by {line.by}" if line.by else ""
        console.print(f"{at}  {line.what}{by}{': ' + line.says if line.says else ''}")
    for title, said in (
        ("Evidence", [f"{one.occurred_at}  {one.shows}  [{one.position}]" for one in verdict.evidence]),
        ("Ruled out", [f"{one.cause}: {one.by}" for one in verdict.ruled_out]),
        ("Missing", list(verdict.missing)),
        ("To do", [f"{number}. {step}" for number, step in enumerate(steps_of(verdict.cause), 1)]),
    ):
        if said:
            console.print(f"\n{title}")
            for one_line in said:
                console.print(f"  {one_line}")
