"""The log: JSON lines on stdout in UTC, or readable lines on a terminal; ours and the libraries' through one renderer.

``configure`` is called once, before anything is said. A line is ``{"at": …, "level": …, "event": …, …}``: ``event`` is
a constant phrase in the past tense, everything that varies is a key beside it. SIDs yes; telephone numbers, names and
secrets never: callers leave them out, and ``redact`` is the net below them, for what a library or an error may say.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from monitor import clock
from monitor.core.verdict import Verdict, render_instant

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]
VERDICT_REACHED: Final = "verdict_reached"
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
REDACTED: Final = "[redacted]"
TEXT_MAX: Final = 16_384  # Characters of one value: an error must not carry a ten-megabyte message into the log.
DEPTH_MAX: Final = 6
HELD_MAX: Final = 256  # Lines of verdicts that wait for the end of a batch; one more and they are written at once.

# --- The net -----------------------------------------------------------------------------------------------------

_NOT_IN_WORD: Final = r"(?<![0-9A-Za-z])"
_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # What an address carries: user and password, and the query (signatures, numbers, tokens travel there).
    (re.compile(r"(?<=://)[^\s/@'\"<>]+@"), f"{REDACTED}@"),
    (re.compile(r"(?<=[^\s?'\"])\?[^\s'\"<>?=&]{1,256}=[^\s'\"<>]*"), f"?{REDACTED}"),
    # Credentials by the word before them.
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.~=-]{8,}"), rf"\1 {REDACTED}"),
    (
        re.compile(
            r"(?i)((?:password|passphrase|passwd|secret|token|api[_-]?key|authorization|signature)['\"]?\s*[=:]\s*)"
            r"(?!\[redacted\])(?:'[^']*'|\"[^\"]*\"|[^\s,;&})\]]+)"
        ),
        rf"\1{REDACTED}",
    ),
    # Credentials by their shape: a JSON web token; 32 hexadecimal digits alone are a Twilio auth token, for a SID has
    # two letters before them and a SHA-256 twice as many.
    (re.compile(_NOT_IN_WORD + r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"), REDACTED),
    (re.compile(_NOT_IN_WORD + r"[0-9a-f]{32}(?![0-9A-Za-z])"), REDACTED),
    # Who is on the line: numbers as E.164 with or without the usual gaps, as escaped in addresses; SIP names.
    (re.compile(r"(?:(?<![0-9A-Za-z])\+|%2[Bb])[1-9](?:[ .()-]{0,2}[0-9]){6,14}(?![0-9])"), REDACTED),
    (re.compile(r"(?i)\b(sips?|tel|client|whatsapp):(?![\s/])[^\s'\"<>,;]+"), rf"\1:{REDACTED}"),
)
_SECRET_KEY: Final = re.compile(
    r"(?i)(?:.*[._-])?(?:password|passphrase|secret|token|authorization|signature|credentials?|cookie|twiml"
    r"|api_?key|caller|called|phone|phone_number|friendly_name|conference_name|worker_name)"
)


# Most of what is logged: a word, a SID, an instant, a position, a policy's hash. No pattern above finds anything in
# these, and to look costs ten times what the rest of the line does.
_HARMLESS: Final = re.compile(
    r"[A-Za-z_-]{1,31}|[A-Z]{2}[0-9a-f]{32}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
    r"|[0-9]{1,4}:[0-9]{1,15}|sha256:[0-9a-f]{64}"
)


def redact(text: str) -> str:
    """Put ``[redacted]`` for telephone numbers, secrets and query strings: a last net, not a licence to log them."""
    return text if _HARMLESS.fullmatch(text) else _redact_all(text)


def _redact_all(text: str) -> str:
    if len(text) > TEXT_MAX:
        text = f"{text[:TEXT_MAX]}… ({len(text)} characters)"
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def _redact_value(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"  # Bytes are somebody's message.
    if isinstance(value, datetime):
        return value.isoformat()
    if depth >= DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {
            redact(str(key)): REDACTED if _secret_key(str(key), inner) else _redact_value(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(element, depth + 1) for element in value]
    if isinstance(value, msgspec.Struct):
        return f"<{type(value).__name__}>"  # What it holds was never chosen for the log.
    return redact(str(value))


def _secret_key(key: str, value: Any) -> bool:
    return value is not None and not isinstance(value, bool) and _names_a_secret(key)


@lru_cache(maxsize=1_024)
def _names_a_secret(key: str) -> bool:
    return _SECRET_KEY.fullmatch(key) is not None


def _net(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact every value; the event's own phrase is a constant of ours and passes the net all the same."""
    redacted: EventDict = _redact_value(dict(event))
    return redacted


# --- Rendering ---------------------------------------------------------------------------------------------------

_json: Final = msgspec.json.Encoder(enc_hook=str)


def _stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put ``at``, ``level`` and ``event`` first; the rest keeps the order it was given in."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    level = {"warn": "warning", "exception": "error", "fatal": "critical"}.get(method, method)
    phrase = event.pop("event", "")
    return {"at": at, "level": level, "event": phrase, **{k: v for k, v in event.items() if k not in ("at", "level")}}


def _exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Turn ``exc_info`` into text without the values of variables: those are the customer's."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = "".join(traceback.format_exception(error)).rstrip()
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return _json.encode(event).decode()
    except UnicodeEncodeError:  # A lone surrogate, out of bytes that were no text.
        return _json.encode(_encodable(event)).decode()


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    return [_encodable(element) for element in value] if isinstance(value, list) else value


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _printable(value: Any) -> Any:
    """Escape what would move a terminal's cursor or reverse its text; outsiders choose some of what we log."""
    if isinstance(value, str):
        return _encodable(_CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), value))
    return value


def _for_terminal(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    trace = event.pop("exception", None)
    shown: EventDict = {_printable(key): _printable(value) for key, value in event.items()}
    if trace is not None:
        shown["exception"] = "\n".join(map(_printable, str(trace).split("\n")))
    return shown


class _Lines:
    """Writes whole lines to a stream, from any thread. A stream that is gone costs the line, never the monitor.

    A line may be held for the others of its batch, since a write of its own costs more than the line; whatever is said
    next comes behind it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._held: list[str] = []
        self.lost = 0

    def msg(self, line: str) -> None:
        with self._lock:
            self._held.append(line)
            self._write()

    def hold(self, line: str) -> None:
        """Write this line with the next one, or with ``release``."""
        with self._lock:
            self._held.append(line)
            if len(self._held) >= HELD_MAX:
                self._write()

    def release(self) -> None:
        """Write what is held."""
        if self._held:
            with self._lock:
                self._write()

    def _write(self) -> None:
        lines, self._held = self._held, []
        if not lines:
            return
        lines.append("")
        try:
            self._stream.write("\n".join(lines))
            self._stream.flush()
        except (OSError, ValueError):  # A full disk, a closed pipe, a closed stream.
            self.lost += len(lines) - 1

    debug = info = warn = warning = error = critical = fatal = exception = failure = err = log = msg


class _FromLibraries(logging.Handler):
    """Takes what libraries log through the standard library, and sends it the way of our own lines.

    Their text is the value of ``message``, for it is not constant; the event says only that a library spoke.
    """

    def __init__(self, processors: list[structlog.typing.Processor], lines: _Lines) -> None:
        super().__init__()
        self._processors = processors
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = next((name for name in reversed(LEVELS) if record.levelno >= _NUMBER[name]), "debug")
            told: Any = {"event": "library_logged", "logger": record.name, "message": record.getMessage()}
            if record.name == "py.warnings":
                told["event"] = "warning_raised"
            if record.exc_info:
                told["exc_info"] = record.exc_info
            for processor in self._processors:
                told = processor(None, level, told)
            self._lines.msg(str(told))
        except Exception:  # As the standard library does: what logs must not come down with its log.
            self.handleError(record)


_NUMBER: Final[dict[str, int]] = {name: getattr(logging, name.upper()) for name in LEVELS}

# Libraries that say on "info" what is news to their authors alone; their warnings pass.
_QUIET: Final = ("aiohttp.access", "asyncio", "urllib3", "twilio", "twilio.http_client")


def configure(
    style: Format = "auto",
    level: Level = "info",
    *,
    stream: TextIO | None = None,
    count: Callable[[str], None] | None = None,
) -> None:
    """Set up the log, ours and the libraries'; may be called again, and then everything changes at once.

    ``style`` ``auto`` is for people where ``stream`` (default stdout) is a terminal, JSON elsewhere. ``count`` is told
    the level of every line that is written (``log_messages_total``).
    """
    global _direct  # noqa: PLW0603 - the log is the process's, as structlog's own configuration is.
    flush_verdicts()
    target = sys.stdout if stream is None else stream
    console = style == "console" or (style == "auto" and target.isatty())
    lines = _Lines(target)

    def counted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if count is not None:
            count(event["level"])
        return event

    processors: list[structlog.typing.Processor] = [_stamp, _exception, _net, counted]
    if console:
        colors = target.isatty()
        processors += [
            _for_terminal,
            structlog.dev.ConsoleRenderer(
                colors=colors,
                timestamp_key="at",
                exception_formatter=structlog.dev.plain_traceback,
                sort_keys=False,
                pad_event_to=28,
            ),
        ]
    else:
        processors.append(_render_json)

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *processors],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBER[level]),
        logger_factory=lambda *_: lines,
        # A logger made before this call must follow it: modules make theirs when they are imported.
        cache_logger_on_first_use=False,
    )
    _direct = None if console else _Direct(lines, _NUMBER[level], count)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries(processors, lines))
    root.setLevel(_NUMBER[level])
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(_NUMBER[level], logging.WARNING))
    logging.captureWarnings(capture=True)


# --- The line of a verdict ---------------------------------------------------------------------------------------

_log: Final = structlog.get_logger()


class _VerdictLine(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """The one line that tells a verdict's whole story; spelled as on the verdict topic, in the order of the line.

    What on the topic is ``at`` is ``position`` here (``partition:offset`` of the message that decided), for ``at`` is
    when the line was written. What is not known is left out; ``previous`` null says that this verdict is the first.
    """

    at: str
    level: str
    event: str
    kind: str
    recording_sid: str | None = None
    outcome: str
    cause: str | None = None
    rule: str
    severity: str | None = None
    revision: int
    final: bool
    reason: str
    account_sid: str | None
    account: str | None = None
    start_source: str | None = None
    strength: str | None = None
    call_sid: str | None = None
    conference_sid: str | None = None
    recording_status: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    first_seen_at: str
    found_by: str | None = None
    decided_at: str
    disallowed_since: str | None = None
    mode: str
    policy: str
    backlog: bool
    missing: Sequence[str] | None = None
    evidence: list[str] | None = None
    generation: int
    position: str
    previous: str | msgspec.UnsetType | None = msgspec.UNSET
    latency_ms: int | None = None


class _Words(NamedTuple):
    """What of a verdict is said in the same words again and again: of a million verdicts, some hundred such tuples."""

    kind: str
    outcome: str
    cause: str | None
    rule: str
    severity: str | None
    reason: str
    account: str | None
    start_source: str | None
    strength: str | None
    recording_status: str | None
    found_by: str | None
    mode: str
    policy: str
    missing: Sequence[str]


@lru_cache(maxsize=1_024)
def _netted(words: _Words) -> _Words:
    """The words as the net leaves them: a rule's reason is somebody's text, a start source may be Twilio's newest."""
    return _Words(*map(_redact_value, words))


def _net_sid(sid: str | None) -> str | None:
    """A SID as it is; what has not its shape goes through the net.

    No pattern finds anything in letters and digits alone, but in 32 of them.
    """
    if sid is None or (len(sid) == 34 and sid.isalnum() and sid.isascii()):
        return sid
    return redact(sid)


def _line_of(
    verdict: Verdict,
    at: str,
    *,
    partition: int | None,
    previous: str | msgspec.UnsetType | None = msgspec.UNSET,
    latency_ms: int | None = None,
) -> _VerdictLine:
    """The line of a verdict; instants, numbers and positions are of our own making and need no net."""
    generation, offset = verdict.at
    words = _netted(
        _Words(
            verdict.kind,
            verdict.outcome,
            verdict.cause,
            verdict.rule,
            verdict.severity,
            verdict.reason,
            None if verdict.alert is None else verdict.alert.account,
            verdict.start_source,
            verdict.strength,
            verdict.recording_status,
            verdict.found_by,
            verdict.mode,
            verdict.policy,
            verdict.missing,
        )
    )
    return _VerdictLine(
        at=at,
        level=_level_of(verdict),
        event=VERDICT_REACHED,
        kind=words.kind,
        recording_sid=_net_sid(verdict.recording_sid),
        outcome=words.outcome,
        cause=words.cause,
        rule=words.rule,
        severity=words.severity,
        revision=verdict.revision,
        final=verdict.final,
        reason=words.reason,
        account_sid=_net_sid(verdict.account_sid),
        account=words.account,
        start_source=words.start_source,
        strength=words.strength,
        call_sid=_net_sid(verdict.call_sid),
        conference_sid=_net_sid(verdict.conference_sid),
        recording_status=words.recording_status,
        started_at=verdict.started_at,
        ended_at=verdict.ended_at,
        first_seen_at=verdict.first_seen_at,
        found_by=words.found_by,
        decided_at=verdict.decided_at,
        disallowed_since=verdict.disallowed_since,
        mode=words.mode,
        policy=words.policy,
        backlog=verdict.backlog,
        missing=words.missing or None,
        evidence=[shown.position for shown in verdict.evidence] or None,
        generation=generation,
        position=str(offset) if partition is None else f"{partition}:{offset}",
        previous=previous,
        latency_ms=latency_ms,
    )


def _level_of(verdict: Verdict) -> Level:
    return "warning" if verdict.outcome == "disallowed" else "info"


# The lines of a batch are written within milliseconds.
_instant: Final = lru_cache(maxsize=16)(render_instant)


class _Direct:
    """Writes the line of a verdict as JSON without the chain of processors, which costs ten times as much.

    In force while structlog is as ``configure`` left it.
    """

    def __init__(self, lines: _Lines, threshold: int, count: Callable[[str], None] | None) -> None:
        self._threshold = threshold
        self._count = count
        self._configured = structlog.get_config()
        self.lines = lines

    @property
    def in_force(self) -> bool:
        """Whether nobody has set up the log in another way since."""
        now, then = structlog.get_config(), self._configured
        return now["processors"] is then["processors"] and now["logger_factory"] is then["logger_factory"]

    def says(self, level: str) -> bool:
        """Whether lines of this level are written."""
        return _NUMBER[level] >= self._threshold

    def write(self, line: _VerdictLine) -> None:
        """Write a line with what follows it, at the latest with ``flush_verdicts``."""
        if self._count is not None:
            self._count(line.level)
        try:
            text = _json.encode(line).decode()
        except UnicodeEncodeError:
            text = _render_json(None, line.level, msgspec.to_builtins(line))
        self.lines.hold(text)


_direct: _Direct | None = None


def log_verdict(
    verdict: Verdict,
    *,
    partition: int | None = None,
    previous: str | msgspec.UnsetType | None = msgspec.UNSET,
    latency_ms: int | None = None,
) -> None:
    """Write the line of one verdict: a warning where the recording is disallowed, else information.

    ``previous`` is the outcome that this one replaces, None where it is the first. As JSON the line may be held back
    until anything else is logged or ``flush_verdicts`` is called.
    """
    level = _level_of(verdict)
    direct = _direct
    if direct is None or not direct.in_force:
        fields = verdict_fields(verdict, partition=partition, previous=previous, latency_ms=latency_ms)
        getattr(_log, level)(VERDICT_REACHED, **fields)
    elif direct.says(level):
        at = _instant(clock.now_ms())
        direct.write(_line_of(verdict, at, partition=partition, previous=previous, latency_ms=latency_ms))


def verdict_fields(verdict: Verdict, *, partition: int | None = None, **more: Any) -> dict[str, object]:
    """The keys of a verdict's line and their values, but those that begin every line."""
    fields: dict[str, object] = msgspec.to_builtins(_line_of(verdict, "", partition=partition, **more))
    for first in ("at", "level", "event"):
        del fields[first]
    return fields


def flush_verdicts() -> None:
    """Write the lines of verdicts that wait for others. To be called at the end of each batch."""
    if _direct is not None:
        _direct.lines.release()
