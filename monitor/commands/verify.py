"""``verify``: a session of test calls, watched on the topics, and what it proves about the monitor that runs.

It reads what everybody can read, events and verdicts, beside the monitor and without a group; it judges nothing. What
counts is thought out in ``monitor/proof``, which is pure; here is the way there: Kafka, Twilio, clock and terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self

import msgspec
import typer
from confluent_kafka import KafkaError, Message
from rich.console import Console
from rich.status import Status

from monitor import __version__, clock
from monitor.audit.report import mask_number
from monitor.commands.common import ConfigOption, read_settings
from monitor.commands.failure import EXIT_OUT_OF_REACH
from monitor.commands.stretch import wrong_usage
from monitor.core.values import span_ms
from monitor.errors import OutOfReach, WrongInput
from monitor.inputs import calls, recordings
from monitor.inputs.reader import Questions, Reader, headers_of, key_of, reader_properties
from monitor.inputs.rest_work import RestWork
from monitor.log import redact
from monitor.proof.findings import Needs, Proof, awaited, hopeless, late, reasons
from monitor.proof.report import Report, as_json, as_markdown, news
from monitor.proof.session import EARLY_MS, Listed, ListedCall, ListedRecording, Picture, Scope, Session
from monitor.settings import Settings, format_duration, kafka_client, parse_duration
from monitor.twilio.accounts import Twilio, TwilioAccount

FOR_MAX: Final = timedelta(hours=24)
WAIT_MAX: Final = timedelta(hours=4)
LOOK_S: Final = 0.5
"""How often it is looked what has changed."""
READ_MESSAGES_MAX: Final = 2_000
READ_S: Final = 0.2
IDLE_S: Final = 0.05
_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_TAG: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{6,64}")


class Pace(NamedTuple):
    """How long the monitor and the brokers have, after the last test call, for what they do by themselves.

    ``settle_ms``: for a tick and verdicts, however short the wait for late events is. ``commit_s``: to commit what came
    before the end; an idle monitor commits every ten seconds. ``ask_s``: to answer one question.
    """

    settle_ms: int = 60_000
    commit_s: float = 60.0
    ask_s: float = 10.0


def verify(
    *,
    config: ConfigOption = None,
    for_: Annotated[
        str, typer.Option("--for", help="How long to watch for test calls, at most.", metavar="SPAN")
    ] = "30m",
    calls_needed: Annotated[
        int | None,
        typer.Option(
            "--calls", help="End watching once so many test calls were seen whole; fewer are not enough.", min=1
        ),
    ] = None,
    number: Annotated[
        list[str] | None,
        typer.Option("--number", help="Calls from or to this number are test calls. Repeatable.", metavar="+49…"),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(
            "--tag",
            help="Calls of which an event holds this word are test calls: part of a conference's name, a participant's "
            "label, a task's attributes, a callback's address.",
            metavar="WORD",
        ),
    ] = None,
    wait: Annotated[
        str,
        typer.Option("--wait", help="How long to wait, after that, for what Voice Insights says late.", metavar="SPAN"),
    ] = "30m",
    without_rest: Annotated[
        bool, typer.Option("--without-rest", help="Knowingly do without Twilio's own lists of calls and recordings.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the report (Markdown) there; else to stdout.")
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="Write the report as JSON there, too; `-`: to stdout, instead.")
    ] = None,
) -> None:
    """Watch test calls and prove that they are not recorded: "test and monitor" of Twilio's help article.

    Start it beside a running monitor, then make calls of each kind that was recorded. It tells what is seen as it
    comes, and passes only if the monitor shows that it could see: it ticked in every partition all the time and judged
    all that came; of the test calls, call and conference events were seen, from beginning to end; Twilio's own lists
    name no call and no recording that no event told of. And no recording of them is disallowed or undetermined, nor
    suspected by what Voice Insights says up to half an hour later.

    With neither --number nor --tag every call is a test call. Without --calls one is enough, and watching lasts as
    long as --for says. Ctrl-C ends it with a report; that is no pass.

    Exit code 1: not passed; the report says why. 3: Kafka is out of reach.

    Examples:
      recording-monitor verify --calls 3 --number +4930123456

      recording-monitor verify --for 1h --tag release-2026-11 --output report.md --json report.json

      recording-monitor verify --calls 1 --wait 1h --without-rest
    """
    settings = read_settings(config)
    scope = Scope(frozenset(_checked_number(each) for each in number or ()), _checked_tag(tag))
    needs = Needs(calls_needed or 1, rest=not without_rest)
    lasts, waits = _span("--for", for_, FOR_MAX), _span("--wait", wait, WAIT_MAX)
    for path in (output, json_):
        if path is not None and str(path) != "-":
            path.touch()  # An hour later it would be too late to say that it cannot be written.
    if needs.rest:
        _try_twilio(settings, scope)
    # A service manager's stop is an interrupt like any other: it ends with a report.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with watching(settings, scope, needs) as watch:
        report = watch.run(lasts, waits, ends_early=calls_needed is not None)
    _write(report, output, json_)
    if report.proof.kafka is not None:
        raise typer.Exit(EXIT_OUT_OF_REACH)
    if not report.passed:
        raise typer.Exit(1)


def _checked_number(text: str) -> str:
    if _NUMBER.fullmatch(text) is None:
        # The number itself is not said: it would stand in somebody's log.
        raise wrong_usage("--number", "is no number in E.164. Write + and the country's code first, without spaces")
    return text


def _checked_tag(text: str | None) -> str | None:
    if text is not None and _TAG.fullmatch(text) is None:
        raise wrong_usage("--tag", "must be 6 to 64 letters, digits, dots, dashes or underscores, a letter among them")
    return text


def _span(option: str, text: str, longest: timedelta) -> timedelta:
    try:
        span = parse_duration(text)
    except ValueError as error:
        raise wrong_usage(option, str(error)) from None
    if span > longest:
        raise wrong_usage(option, f"is longer than {format_duration(longest)}")
    return span


def _try_twilio(settings: Settings, scope: Scope) -> None:
    """What is wrong with credentials is better known now than in an hour. Raises WrongInput."""
    with contextlib.suppress(OutOfReach):  # It may be back by then.
        if not asyncio.run(_ask(settings, scope, clock.now_ms())).accounts:
            typer.echo("warning: no account has credentials, so this cannot pass but for --without-rest", err=True)


@contextlib.contextmanager
def watching(settings: Settings, scope: Scope, needs: Needs, pace: Pace = Pace()) -> Iterator[Watch]:  # noqa: B008
    """A session that is open from now on. Raises OutOfReach."""
    properties = reader_properties(kafka_client(settings), settings.kafka.group_id)
    questions, reader = Questions(properties, timeout_s=pace.ask_s), Reader(properties, on_error=lambda _: None)
    try:
        with _Teller() as teller:
            yield Watch(settings, scope, needs, pace, questions, reader, teller)
    finally:
        reader.close()
        questions.close()


class _Followed:
    """One partition: what has arrived is told, and how far that is."""

    def __init__(self, start: int, tell: Callable[[Message], None]) -> None:
        self.start: Final = start
        self.next_offset = start
        self.gone: str | None = None
        self._tell = tell

    def messages(self, run: list[Message]) -> None:
        """See ``Follower``."""
        for message in run:
            self._tell(message)
            self.next_offset = (message.offset() or 0) + 1

    def ended(self) -> None:
        """See ``Follower``: an end is nothing, more will come."""

    def failed(self, error: KafkaError) -> None:
        """See ``Follower``."""
        self.gone = error.name()


class _Teller:
    """Says on stderr what is seen; on a terminal also what it is waiting for."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._status: Status | None = None
        self._before: Picture | None = None
        self._doing = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("opening the session")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, line: str) -> None:
        """Say something, and when."""
        self._console.print(f"{datetime.now(UTC):%H:%M:%S} {line}")

    def tell(self, picture: Picture | None, doing: str, left: str = "") -> None:
        """Say what is new in a picture, a line each, and what is done now; ``left`` changes all the time."""
        if picture is not None:
            for line in news(self._before, picture):
                self.say(line)
            self._before = picture
        if self._status is not None:
            self._status.update(f"{doing}{left}")
        elif doing != self._doing:
            self.say(doing)
        self._doing = doing


class Watch:
    """The session: two topics followed from now on. Raises OutOfReach."""

    def __init__(
        self,
        settings: Settings,
        scope: Scope,
        needs: Needs,
        pace: Pace,
        questions: Questions,
        reader: Reader,
        teller: _Teller,
    ) -> None:
        self._settings = settings
        self._scope = scope
        self._needs = needs
        self._pace = pace
        self._questions = questions
        self._reader = reader
        self._teller = teller
        self._opened_ms = clock.now_ms()
        self._events = self._follow(settings.topics.events, self._take_event)
        self._verdicts = self._follow(settings.topics.verdicts, self._take_verdict)
        self._session = Session(scope, self._events, self._opened_ms)

    def run(self, lasts: timedelta, waits: timedelta, *, ends_early: bool) -> Report:
        """Watch, wait, and find out what that proves."""
        over_ms: int | None = None
        ended_ms: int | None = None
        self._teller.say(f"the session is open; make test calls {'; '.join(_in_words(self._scope))}")
        try:
            self._watch(self._opened_ms + span_ms(lasts), ends_early=ends_early)
            over_ms = clock.now_ms()
            self._wait(over_ms, over_ms + span_ms(waits))
            proof = self._judged(over_ms)
            ended_ms = clock.now_ms()  # However long Twilio takes, nobody looks for ticks meanwhile.
            if self._needs.rest and proof.kafka is None:
                proof = self._compared(proof)
        except KeyboardInterrupt:
            proof = Proof(over_ms=over_ms or clock.now_ms(), interrupted=True)
        ended_ms = ended_ms or clock.now_ms()
        picture = self._session.picture(ended_ms, proof.over_ms)
        return Report(
            version=__version__,
            opened_ms=self._opened_ms,
            ended_ms=ended_ms,
            scope=_in_words(self._scope),
            needs=self._needs,
            picture=picture,
            proof=proof,
            reasons=reasons(picture, self._needs, proof),
        )

    # Reading.

    def _follow(self, topic: str, tell: Callable[[Message], None]) -> dict[int, _Followed]:
        """Begin at the present end of every partition."""
        followed = {}
        for partition in self._questions.describe(topic)[1]:
            _, end = self._questions.bounds(topic, partition)
            followed[partition] = _Followed(end, tell)
            self._reader.follow(topic, partition, end, followed[partition])
        return followed

    def _take_event(self, message: Message) -> None:
        self._session.event(message.partition() or 0, message.timestamp()[1], message.value(), headers_of(message))

    def _take_verdict(self, message: Message) -> None:
        key = key_of(message)
        if key is not None:
            self._session.verdict(key, message.value())

    def _read(self, for_s: float) -> None:
        until = time.monotonic() + for_s
        while (left_s := until - time.monotonic()) > 0:
            if not self._reader.read(READ_MESSAGES_MAX, READ_S):
                time.sleep(min(IDLE_S, left_s))

    # The course of a session.

    def _watch(self, until_ms: int, *, ends_early: bool) -> None:
        """Until the time is up, so many calls were seen whole, or nothing can be proved any more."""
        while (now_ms := clock.now_ms()) < until_ms:
            self._read(LOOK_S)
            picture = self._session.picture(clock.now_ms())
            seen = f"{picture.whole} of {self._needs.calls} test calls seen whole"
            self._teller.tell(picture, seen, f"; {(until_ms - now_ms) // 1000} s left")
            if hopeless(picture) or (ends_early and picture.whole >= self._needs.calls):
                return

    def _wait(self, over_ms: int, until_ms: int) -> None:
        """For what has to come, and for what comes late as long as it may be waited for."""
        at_least_ms = min(until_ms, over_ms + span_ms(self._settings.grace))
        while True:
            self._read(LOOK_S)
            now_ms = clock.now_ms()
            picture = self._session.picture(now_ms, over_ms)
            must, may = list(awaited(picture, over_ms)), list(late(picture)) if now_ms < until_ms else []
            self._teller.tell(picture, f"waiting for {', '.join([*must, *may][:3]) or 'the last events'}")
            given_up = hopeless(picture) or now_ms >= max(until_ms, over_ms + self._pace.settle_ms)
            if given_up or (not must and not may and now_ms >= at_least_ms):
                return

    def _judged(self, over_ms: int) -> Proof:
        """What the brokers know beside the messages: how far the monitor has judged, and what of the topic is gone."""
        until = time.monotonic() + self._pace.commit_s
        while True:
            try:
                behind, deleted = self._judged_to_end()
                return Proof(over_ms=over_ms, behind=behind, deleted=deleted)
            except OutOfReach as error:
                if time.monotonic() >= until:
                    return Proof(over_ms=over_ms, kafka=redact(str(error)))
                self._teller.tell(None, "waiting for the brokers")
                self._read(LOOK_S)

    def _compared(self, proof: Proof) -> Proof:
        """What Twilio lists, and what of that no event told of."""
        self._teller.tell(None, "asking Twilio")
        try:
            listed = asyncio.run(_ask(self._settings, self._scope, self._opened_ms - EARLY_MS))
        except (OutOfReach, WrongInput) as error:
            return msgspec.structs.replace(proof, refused=redact(str(error)))
        return msgspec.structs.replace(proof, listed=listed, missed=self._session.missed(listed, proof.over_ms))

    def _judged_to_end(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Wait until the group has committed all that is in the topic now, and read the verdicts that this made.

        The partitions where it did not, and those that lost messages of the session. Raises OutOfReach.
        """
        topics, ask = self._settings.topics, self._questions
        bounds = {partition: ask.bounds(topics.events, partition) for partition in self._events}
        lost = [
            partition
            for partition, followed in self._events.items()
            if followed.gone is not None or not bounds[partition][0] <= followed.start <= bounds[partition][1]
        ]
        in_vain = hopeless(self._session.picture(clock.now_ms()))
        until = time.monotonic() + (0.0 if in_vain else self._pace.commit_s)
        behind = sorted(self._events)
        while True:
            behind = [partition for partition in behind if self._committed(partition) < bounds[partition][1]]
            if not behind or time.monotonic() >= until:
                break
            self._teller.tell(None, f"waiting for the monitor to judge partition {behind[0]} to the end")
            self._read(LOOK_S)
        # What is committed is published: the verdicts up to here are all there are.
        ends = {partition: ask.bounds(topics.verdicts, partition)[1] for partition in self._verdicts}
        while any(self._verdicts[partition].next_offset < end for partition, end in ends.items()) or any(
            self._events[partition].next_offset < bounds[partition][1] for partition in self._events
        ):
            if time.monotonic() > until + self._pace.commit_s:
                raise OutOfReach("the topics could not be read to their ends")
            self._read(IDLE_S)
        return tuple(behind), tuple(sorted(lost))

    def _committed(self, partition: int) -> int:
        found = self._questions.committed(self._settings.topics.events, partition)
        return -1 if found is None else found[0]


async def _ask(settings: Settings, scope: Scope, since_ms: int) -> Listed:
    """What Twilio lists since then, of all accounts that have credentials. Raises what asking it can come to."""
    accounts: list[TwilioAccount] = []
    made: list[ListedCall] = []
    recorded: list[ListedRecording] = []
    filters = [{key: number} for number in sorted(scope.numbers) for key in ("from_", "to")]
    if scope.everything:
        filters = [{}]
    async with Twilio(settings) as twilio:
        for alias in RestWork.aliases(settings):
            accounts += await twilio.accounts(alias=alias)
        for account in accounts:
            async for page in recordings.pages(account, since_ms):
                recorded += [
                    ListedRecording(account.sid, one.sid, one.call_sid, one.conference_sid, one.created_ms)
                    for one in page
                ]
            for only in filters:
                async for some in calls.pages(account, since_ms, **only):
                    made += [ListedCall(account.sid, one.sid, one.created_ms) for one in some]
    return Listed(
        {account.sid: account.alias for account in accounts},
        tuple(dict.fromkeys(made)) if filters else None,
        tuple(dict.fromkeys(recorded)),
    )


def _in_words(scope: Scope) -> tuple[str, ...]:
    words = [f"from or to {mask_number(number)}" for number in sorted(scope.numbers)]
    words += [] if scope.tag is None else [f"of which an event holds {scope.tag!r}"]
    return tuple(words) or ("every call",)


def _write(report: Report, output: Path | None, json_: Path | None) -> None:
    to_stdout = str(json_) == "-"
    if to_stdout:
        typer.echo(as_json(report), nl=False)
    elif json_ is not None:
        json_.write_text(as_json(report), encoding="utf-8")
    if output is not None:
        output.write_text(as_markdown(report), encoding="utf-8")
    elif not to_stdout:
        typer.echo(as_markdown(report), nl=False)
