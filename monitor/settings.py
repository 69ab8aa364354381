"""Settings: one YAML file, the environment over it, secrets from files; typed, checked as a whole, all errors at once.

``load_settings`` is the one way in. Every key of the file may come from the environment instead, as
``RECORDING_MONITOR_`` and its path with two underscores between the parts: ``RECORDING_MONITOR_KAFKA__GROUP_ID``.
Lists and maps are given there as JSON or YAML; a variable that is set but empty counts as not set. Spans are written
``90s``, ``4h``, ``1h30m``, ``7d`` or as ISO 8601 (``PT4H``), sizes ``512KiB``, ``4MB`` or in bytes.

No value of a key that may hold a secret is ever part of an error, a warning or ``masked``: people do put a token where
the name of its file belongs.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from monitor.core.attribution import CAUSES
from monitor.errors import WrongInput
from monitor.yaml_lines import Document, YamlError, load, read

ENVIRONMENT_PREFIX: Final = "RECORDING_MONITOR_"
CONFIG_VARIABLE: Final = "RECORDING_MONITOR_CONFIG"
DEFAULT_FILE: Final = "monitor.yaml"
SECRET_BYTES_MAX: Final = 64 * 1024
ALERTMANAGERS_MAX: Final = 10
MASK: Final = "********"

# Kubernetes tells every container of a namespace about a Service named ``recording-monitor…`` in variables of these
# shapes. They are no settings, and refusing them would keep a pod from starting once such a Service exists.
_SERVICE_LINK: Final = re.compile(
    r"(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong: where it stands, which key, what is wrong and how to mend it.

    ``place`` is the file or the variable, ``line`` counts from 1 and is 0 in the environment; ``key`` may be empty.
    """

    place: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.place}:{self.line}" if self.line else self.place
        return ": ".join(part for part in (where, self.key, self.message) if part)


class SettingsError(WrongInput):
    """The settings cannot be used. ``str()`` is one line for each problem: ``monitor.yaml:12: key: what. Remedy``."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class _Wrong(Exception):
    """What is wrong with one value; the place is known to the caller."""


# --- How people write spans, sizes, addresses --------------------------------------------------------------------

_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,3})?(?:ms|[smhd]))+")
_SPAN_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])")
_ISO_SPAN: Final = re.compile(
    r"P(?:([0-9]{1,6})W)?(?:([0-9]{1,6})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,9})H)?(?:([0-9]{1,9})M)?(?:([0-9]{1,9}(?:\.[0-9]{1,3})?)S)?)?"
)
_SIZE: Final = re.compile(r"([0-9]{1,15})\s?([KMG]i?B|B)?")
_SIZES: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(text: str) -> timedelta:
    """Read a span: ``500ms``, ``90s``, ``1h30m``, ``7d``, ``PT4H``. Raises ``ValueError`` with the remedy."""
    if _SPAN.fullmatch(text):
        parts = _SPAN_PART.findall(text)
        units = [unit for _, unit in parts]
        if len(set(units)) == len(units):
            return timedelta(milliseconds=round(sum(float(number) * _UNITS[unit] for number, unit in parts)))
    match = _ISO_SPAN.fullmatch(text)
    if match and any(match.groups()):
        weeks, days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
        return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    hint = f". Did you mean '{text}s'?" if text.isdecimal() else ". Write it like 90s, 4h, 7d or PT4H"
    raise ValueError(f"{_shown(text)} is not a span{hint}")


def format_duration(span: timedelta) -> str:
    """Write a span as ``parse_duration`` reads it, in the largest units that hold it: ``1h30m``."""
    left = round(span / timedelta(milliseconds=1))
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Read a size in bytes: ``4096``, ``512KiB``, ``4MB``. Raises ``ValueError`` with the remedy."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shown(text)} is not a size. Write it like 512KiB, 4MB or 4096 (bytes)")
    return int(match[1]) * _SIZES[match[2] or "B"]


def format_size(size: int) -> str:
    """Write a size as ``parse_size`` reads it, in the largest unit that holds it exactly."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return str(size)


class Address(msgspec.Struct, frozen=True):
    """Where a server listens. ``host`` empty means every interface; ``port`` 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``host:port``, ``[::1]:9464`` or ``:9464`` (every interface). Raises ``ValueError`` with the remedy."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/@\[\]]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{_shown(text)} is not an address. Write it like 127.0.0.1:9464, [::1]:9464 or :9464")
    return Address(match[1] or match[2] or "", int(match[3]))


def _shown(text: str) -> str:
    """A value in an error: short, on one line, and telling nothing where it looks like more than a word."""
    return repr(text) if len(text) <= 24 and text.isprintable() else "this"


# --- What a value must be: one function each, raising _Wrong ---------------------------------------------------------

Check = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"must be text, and is {_kind(value)}" + (". Put it in quotes" if _is_scalar(value) else ""))
    if not value.strip():
        raise _Wrong("is empty. Leave the key out or give it a value")
    if not value.isprintable():
        raise _Wrong("holds a line break or a control character")
    return value


def _boolean(value: Any) -> bool:
    if value in ("true", "false"):  # As the environment gives it.
        return bool(value == "true")
    if not isinstance(value, bool):
        raise _Wrong("must be true or false" + (f", and is {_shown(value)}" if isinstance(value, str) else ""))
    return value


def _matching(pattern: str, what: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if compiled.fullmatch(_text(value)) is None:
            raise _Wrong(f"is not {what}")
        return str(value)

    return check


def _span(least: str, most: str) -> Check:
    low, high = parse_duration(least), parse_duration(most)

    def check(value: Any) -> timedelta:
        try:
            span = parse_duration(_number_as_text(value))
        except ValueError as error:
            raise _Wrong(str(error)) from None
        if not low <= span <= high:
            raise _Wrong(f"{format_duration(span)} is out of range. Give between {least} and {most}")
        return span

    return check


def _size(least: str, most: str) -> Check:
    low, high = parse_size(least), parse_size(most)

    def check(value: Any) -> int:
        try:
            size = parse_size(_number_as_text(value))
        except ValueError as error:
            raise _Wrong(str(error)) from None
        if not low <= size <= high:
            raise _Wrong(f"{format_size(size)} is out of range. Give between {least} and {most}")
        return size

    return check


def _number_as_text(value: Any) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _address(value: Any) -> Address:
    if isinstance(value, int) and not isinstance(value, bool):
        raise _Wrong(f"is a port alone. Write ':{value}' for every interface, or '127.0.0.1:{value}'")
    try:
        return parse_address(_text(value))
    except ValueError as error:
        raise _Wrong(str(error)) from None


def _url(value: Any) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not any(c.isspace() for c in text)
        _ = parts.port  # Raises where it is no number.
    except ValueError:
        good = False
        parts = urlsplit("")
    if not good:
        raise _Wrong("is not an address. Write it like https://host.example.com:9093")
    if parts.username is not None or parts.password is not None:
        raise _Wrong("carries a user name or password. Settings hold no secrets: leave them out of the address")
    if parts.query or parts.fragment:
        raise _Wrong("carries a query or fragment. Leave out what follows '?' or '#'")
    return text.rstrip("/")


def _api_url(value: Any) -> str:
    text = str(_url(value))
    parts = urlsplit(text)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise _Wrong("would send credentials in the clear. Begin it with https://; http is for this machine alone")
    return text


def _url_template(name: str) -> Check:
    """Check an address into which the SID ``name`` and that of the account are put."""

    def check(value: Any) -> str:
        text = _text(value)
        if f"{{{name}}}" not in text:
            raise _Wrong(f"names no {name.removesuffix('_sid')}. Put {{{name}}} where its SID belongs")
        unknown = set(re.findall(r"\{([^}]*)\}", text)) - {name, "account_sid"}
        if unknown:
            raise _Wrong(f"has other braces than {{{name}}} and {{account_sid}}")
        if not re.match(r"https?://[^/\s]", text):
            raise _Wrong("must begin with https:// (or http://)")
        return text

    return check


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(_text(value)))
    except ValueError:
        raise _Wrong("is not a network. Write it like 10.0.0.0/8 or 192.0.2.7") from None


def _bootstrap_servers(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(map(_text, value))
    servers = [server.strip() for server in _text(value).split(",")]
    for server in servers:
        # librdkafka takes `PLAINTEXT://host:9092` as well as `host:9092`, and supplies 9092 itself.
        if re.fullmatch(r"(?:[A-Za-z_]+://)?(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\],]+)(?::[0-9]{1,5})?", server) is None:
            raise _Wrong("must be addresses of brokers, with commas between. Write it like kafka-1:9092,kafka-2:9092")
    return ",".join(servers)


def _start_at(value: Any) -> StartAt:
    text = _text(value)
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        return parse_duration(text)
    except ValueError:
        pass
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None:
        raise _Wrong(
            f"{_shown(text)} says no place. Write earliest, latest, how long ago (4h), or when (2026-11-21T08:00:00Z)"
        )
    if instant.tzinfo is None:
        raise _Wrong(f"{_shown(text)} has no time zone. End it with Z for UTC")
    return instant.astimezone(UTC)


def _glob_url(value: Any) -> str:
    text = _text(value)
    if "?" in text:
        # The callback addresses it is held against are kept without their query.
        raise _Wrong("holds a query ('?'). Leave it out: callback addresses are compared without theirs")
    return text


StartAt = Literal["earliest", "latest"] | timedelta | datetime

Text = Annotated[str, _text]
Flag = Annotated[bool, _boolean]
Url = Annotated[str, _url]
Listen = Annotated[Address, _address]
TopicName = Annotated[str, _matching(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", "a name Kafka takes (A-Z a-z 0-9 . _ -)")]
AccountSid = Annotated[str, _matching("AC[0-9a-f]{32}", "an account SID: AC and 32 digits of 0-9 a-f")]
KeySid = Annotated[str, _matching("SK[0-9a-f]{32}", "an API key SID: SK and 32 digits of 0-9 a-f")]
Alias = Annotated[str, _matching("[a-z0-9][a-z0-9_-]{0,31}", "an alias: at most 32 of a-z 0-9 _ -, no SID")]
Place = Annotated[str, _matching("[a-z][a-z0-9-]{1,31}", "the name of a place, such as ie1 or dublin")]


class SecretFile(msgspec.Struct, frozen=True):
    """A file that holds one secret. Its content is read where it is used and kept nowhere."""

    path: Path

    def read(self) -> str:
        """Read the secret, without the line break most editors put at the end. Raises ``SecretError``."""
        try:
            with self.path.open("rb") as file:
                data = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            # Not the path: where somebody wrote the secret itself in place of its file, the path is the secret.
            raise SecretError(f"names a file that cannot be read ({error.strerror or 'not a path'})") from None
        except ValueError:
            raise SecretError("names a file that cannot be read (not a path)") from None
        if len(data) > SECRET_BYTES_MAX:
            raise SecretError("names a file too large to be a secret")
        try:
            secret = data.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise SecretError("names a file that is not text") from None
        if not secret.strip():
            raise SecretError("names a file that is empty")
        return secret

    def lines(self) -> tuple[str, ...]:
        """Read a file of several secrets, one a line: the present one first, then those on their way out."""
        return tuple(line.strip() for line in self.read().splitlines() if line.strip())


class SecretError(WrongInput):
    """A secret's file cannot be used; the message holds neither the secret nor the path."""


# --- The tree ----------------------------------------------------------------------------------------------------


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """A group of keys. Each annotation carries the function that checks the value.

    ``shorthand`` names the key that a plain text in place of the group stands for, where there is one.
    """

    shorthand: ClassVar[str | None] = None


class Kafka(_Section, frozen=True, kw_only=True):
    """How to reach the broker. ``client`` takes any librdkafka property that the monitor does not set itself.

    ``start_at`` says where a group without a commit begins: ``earliest``, ``latest``, how long ago, or an instant;
    None means a window ago.
    """

    bootstrap_servers: Annotated[str | None, _bootstrap_servers] = None
    group_id: Text = "recording-monitor"
    start_at: Annotated[StartAt | None, _start_at] = None
    client: dict[str, str] = {}


class Topics(_Section, frozen=True, kw_only=True):
    """The names of the topics."""

    events: TopicName = "twilio-events"
    verdicts: TopicName = "recording-monitor.verdicts"
    case_actions: TopicName = "recording-monitor.case-actions"
    account_settings: TopicName = "recording-monitor.account-settings"
    quarantine: TopicName = "recording-monitor.quarantine"


class Account(_Section, frozen=True, kw_only=True):
    """A Twilio account: its alias in metrics and alerts, and how to ask Twilio about it.

    ``auth_token_file`` holds the present token in its first line; while a token is being rotated, the one before or the
    one to come in the next: signatures are checked against all of them.
    """

    alias: Alias
    sid: AccountSid
    auth_token_file: SecretFile | None = None
    shared_key_file: SecretFile | None = None
    api_key_sid: KeySid | None = None
    api_key_secret_file: SecretFile | None = None
    region: Place | None = None
    edge: Place | None = None
    subaccounts: Literal["none", "all"] = "none"


class TwilioApi(_Section, frozen=True, kw_only=True):
    """How Twilio's REST API is asked: how long a request may take with its repetitions, and where it goes.

    ``api_url`` None means Twilio's own addresses; it takes the place of all of them, for a gateway or a test.
    """

    timeout: Annotated[timedelta, _span("1s", "10m")] = timedelta(seconds=60)
    api_url: Annotated[str | None, _api_url] = None


class Reconcile(_Section, frozen=True, kw_only=True):
    """How recordings are listed from Twilio, so that one that left no event is judged as well.

    ``every`` is a cycle; each lists from the newest down to ``overlap`` before the newest of the cycle before. An
    account that was never listed is listed from ``backfill`` ago. ``enrich``: of a recording that is not allowed, ask
    Twilio what the stream did not say.
    """

    enabled: Flag = True
    every: Annotated[timedelta, _span("1s", "1h")] = timedelta(minutes=2)
    overlap: Annotated[timedelta, _span("1m", "4h")] = timedelta(minutes=15)
    backfill: Annotated[timedelta, _span("1m", "7d")] = timedelta(hours=24)
    enrich: Flag = True


class StarterSetting(_Section, frozen=True, kw_only=True):
    """Who may start recordings: a glob for the callback address they ask for, the cause it proves, a name to show."""

    callback_url: Annotated[str, _glob_url]
    cause: Literal[
        "flex_plugin",
        "studio_call_recording_widget",
        "api_call_recording",
        "conference_api",
        "conference_twiml",
        "flex_call_recording",
    ] = "flex_plugin"
    name: Text


class Flex(_Section, frozen=True, kw_only=True):
    """How long an agent's session may go on with what it loaded at its start."""

    session_max: Annotated[timedelta, _span("1m", "30d")] = timedelta(hours=24)


class Web(_Section, frozen=True, kw_only=True):
    """The HTTP server. ``external_url`` is how people reach it; ``actions`` lets the pages change something.

    Who does it stands in ``user_header``, which a proxy sets that has asked for a password; it is believed from
    ``trusted_proxies`` alone. The templates are addresses in Twilio's console, none of which is documented.
    """

    listen: Listen = Address("127.0.0.1", 9464)
    external_url: Url | None = None
    actions: Flag = False
    user_header: Annotated[
        str | None, _matching(r"[A-Za-z][A-Za-z0-9-]{0,63}", "a header, such as X-Forwarded-User")
    ] = None
    trusted_proxies: tuple[Annotated[str, _network], ...] = ()
    recording_url_template: Annotated[str | None, _url_template("recording_sid")] = None
    call_url_template: Annotated[str | None, _url_template("call_sid")] = None
    conference_url_template: Annotated[str | None, _url_template("conference_sid")] = None


class Ingest(_Section, frozen=True, kw_only=True):
    """The webhook bridge. ``public_url`` is what Twilio calls and signs; ``trusted_proxies`` may say who called.

    ``sources`` are the networks Twilio calls from (empty: any); ``basic_auth_file`` holds ``user:password`` of the
    address given to Twilio. Both are checked beside the signature, never in its place.
    """

    enabled: Flag = False
    listen: Listen = Address("127.0.0.1", 8080)
    public_url: Url | None = None
    trusted_proxies: tuple[Annotated[str, _network], ...] = ()
    sources: tuple[Annotated[str, _network], ...] = ()
    basic_auth_file: SecretFile | None = None
    require_body_hash: Flag = True
    body_max: Annotated[int, _size("64KiB", "64MiB")] = 4 << 20


class Cases(_Section, frozen=True, kw_only=True):
    """The case database (a cache: safe to delete) and how long cases live."""

    database: Path = Path("cases.sqlite3")
    retention: Annotated[timedelta, _span("1d", "3650d")] = timedelta(days=400)
    hold: Annotated[timedelta, _span("0s", "7d")] = timedelta(minutes=15)
    resolve_on: Literal["ended", "deleted"] = "ended"


class Alertmanager(_Section, frozen=True, kw_only=True):
    """An Alertmanager: its address and how to be let in. Of a name with several addresses each is told.

    ``ca_file``, ``cert_file`` and ``key_file`` are for https; all files are read again when they change.
    """

    shorthand: ClassVar[str] = "url"

    url: Url
    username: Text | None = None
    password_file: SecretFile | None = None
    bearer_token_file: SecretFile | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: SecretFile | None = None

    @property
    def name(self) -> str:
        """How it is called in metrics and logs: host and port."""
        return urlsplit(self.url).netloc


class Alerts(_Section, frozen=True, kw_only=True):
    """Where alerts send people: ``runbooks_url/<alert>.md``, a dashboard, and the Alertmanager's own pages.

    ``alertmanager_url`` is for prefilled silences; without it, the first of ``alertmanagers`` is taken.
    """

    runbooks_url: Url | None = None
    dashboard_url: Url | None = None
    alertmanager_url: Url | None = None


class Snapshots(_Section, frozen=True, kw_only=True):
    """Where the state of partitions is written now and then, so that a restart need not read the window again.

    A cache: safe to delete. None: none is written.
    """

    directory: Path | None = None
    every: Annotated[timedelta, _span("1s", "1h")] = timedelta(minutes=2)


class Polling(_Section, frozen=True, kw_only=True):
    """How often Twilio is asked for what it sends no events about: Flex, Studio flows, agents' sessions."""

    enabled: Flag = True
    every: Annotated[timedelta, _span("1s", "1h")] = timedelta(minutes=1)


class Audit(_Section, frozen=True, kw_only=True):
    """The audits that ``run`` makes: against which saved one, and how often. None: it makes none."""

    baseline: Path | None = None
    every: Annotated[timedelta, _span("1m", "7d")] = timedelta(hours=24)


class Log(_Section, frozen=True, kw_only=True):
    """What the log looks like: ``auto`` is lines for people on a terminal and JSON elsewhere."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section, frozen=True, kw_only=True):
    """Everything that can be set. ``policy`` None means the built-in policy.

    ``origins`` says where each key was given (``monitor.yaml:12``), ``warnings`` what to tell whoever starts us.
    """

    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    window: Annotated[timedelta, _span("1m", "24h")] = timedelta(hours=4)
    grace: Annotated[timedelta, _span("1s", "1h")] = timedelta(seconds=60)
    policy: Path | None = None
    accounts: tuple[Account, ...] = ()
    twilio: TwilioApi = TwilioApi()
    reconcile: Reconcile = Reconcile()
    starters: tuple[StarterSetting, ...] = ()
    flex: Flex = Flex()
    alertmanagers: tuple[Alertmanager, ...] = ()
    alerts: Alerts = Alerts()
    web: Web = Web()
    ingest: Ingest = Ingest()
    cases: Cases = Cases()
    snapshots: Snapshots = Snapshots()
    polling: Polling = Polling()
    audit: Audit = Audit()
    log: Log = Log()
    origins: Annotated[dict[str, str], None] = {}
    warnings: Annotated[tuple[str, ...], None] = ()

    def where(self, key: str) -> str:
        """Name a key for an error: ``monitor.yaml:12: policy``, or the key alone where it was not given."""
        origin = self.origins.get(key)
        return f"{origin}: {key}" if origin else key


# --- Loading -----------------------------------------------------------------------------------------------------


def load_settings(path: Path | None, environ: Mapping[str, str], *, secrets: bool = True) -> Settings:
    """Read the settings from ``path`` (None: ``RECORDING_MONITOR_CONFIG``, else ``monitor.yaml`` where there is one).

    Variables of ``environ`` win over the file. Relative paths count from the file they stand in, those of the
    environment from the working directory. ``secrets=False`` does not ask for the files of secrets, for commands that
    reach nobody. Raises ``SettingsError`` with everything that is wrong.
    """
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is None and Path(DEFAULT_FILE).is_file():
        path = Path(DEFAULT_FILE)
    loader = _Loader(secrets=secrets)
    if path is not None:
        loader.file(path)
    loader.environment(environ)
    return loader.settings()


class _Origin(msgspec.Struct, frozen=True):
    """Where a value was given: a place in a document, and the key there; ``base`` is what its paths count from."""

    document: Document | None
    path: tuple[str | int, ...]
    base: Path
    variable: str | None = None

    def inner(self, part: str | int) -> _Origin:
        return msgspec.structs.replace(self, path=(*self.path, part))

    def place(self) -> tuple[str, int]:
        if self.variable is not None:
            return self.variable, 0
        if self.document is None:
            return "settings", 0
        return self.document.path, self.document.line(self.path)

    def __str__(self) -> str:
        place, line = self.place()
        return f"{place}:{line}" if line else place


class _Tree:
    """The values before they are checked. A leaf is whatever YAML gave; a branch knows who gave each of its keys."""

    __slots__ = ("children", "origin")

    def __init__(self, origin: _Origin) -> None:
        self.origin = origin
        self.children: dict[str, _Tree | _Leaf] = {}


class _Leaf(msgspec.Struct, frozen=True):
    value: Any
    origin: _Origin


class _Loader:
    """One reading of the settings; gathers every problem before it raises."""

    def __init__(self, *, secrets: bool) -> None:
        self._secrets = secrets
        self._problems: list[Problem] = []
        self._warnings: list[str] = []
        self._origins: dict[str, str] = {}
        self._root = _Tree(_Origin(None, (), Path()))

    # What is given.

    def file(self, path: Path) -> None:
        try:
            document = read(path)
        except YamlError as error:
            raise SettingsError([Problem(error.path, error.line, "", error.message)]) from None
        except OSError as error:
            remedy = "Name an existing file with --config"
            raise SettingsError([Problem(str(path), 0, "", f"cannot be read: {error.strerror}. {remedy}")]) from None
        if document.value is None:
            return
        origin = _Origin(document, (), path.parent)
        if not isinstance(document.value, dict):
            self._wrong(origin, "", f"must be a map of keys, and is {_kind(document.value)}")
            return
        self._root.origin = origin
        self._graft(self._root, document.value, origin, Settings)

    def environment(self, environ: Mapping[str, str]) -> None:
        for name in sorted(environ):
            if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_VARIABLE or not environ[name]:
                continue
            rest = name.removeprefix(ENVIRONMENT_PREFIX)
            if "__" not in rest and _SERVICE_LINK.fullmatch(rest):
                continue
            self._variable(name, rest.split("__"), environ[name])

    def _variable(self, name: str, parts: list[str], text: str) -> None:
        origin = _Origin(None, (), Path(), name)
        tree = self._root
        kind: Any = None
        path: list[str] = []
        for position, part in enumerate(parts):
            owner: Any = Settings if position == 0 else kind
            if owner == dict[str, str]:
                key, kind = _property_name(part), Text
            else:
                key = part.lower()
                if key not in _keys(owner):
                    self._unknown(origin, path, key, owner)
                    return
                kind = _keys(owner)[key]
            path.append(key)
            if position == len(parts) - 1:
                self._plant(tree, key, text, kind, origin, ".".join(path))
                return
            if not (_is_section(kind) or kind == dict[str, str]):
                self._wrong(origin, ".".join(path), "holds no keys. Give it as one value, lists as JSON or YAML")
                return
            below = tree.children.get(key)
            if not isinstance(below, _Tree):
                below = tree.children[key] = _Tree(origin)
            tree = below

    def _plant(self, tree: _Tree, key: str, text: str, kind: Any, origin: _Origin, path: str) -> None:
        """Put the value of a variable at its place, over what the file says."""
        if not _is_collection(kind):
            tree.children[key] = _Leaf(text, origin)
            return
        try:
            value = load(text, origin.variable or "").value
        except YamlError as error:
            self._wrong(origin, path, f"{error.message}. Give it as JSON or YAML")
            return
        if isinstance(value, dict) and (_is_section(kind) or kind == dict[str, str]):
            below = tree.children.get(key)
            if not isinstance(below, _Tree):
                below = tree.children[key] = _Tree(origin)
            self._graft(below, value, origin, kind)
        else:
            tree.children[key] = _Leaf(value, origin)

    def _graft(self, tree: _Tree, values: Mapping[str, Any], origin: _Origin, kind: Any) -> None:
        """Lay a map over the tree, key by key: what it does not name stays."""
        for key, value in values.items():
            inner = origin.inner(key)
            inner_kind = _keys(kind).get(key) if _is_section(kind) else None
            if isinstance(value, dict) and (_is_section(inner_kind) or inner_kind == dict[str, str]):
                below = tree.children.get(key)
                if not isinstance(below, _Tree):
                    below = tree.children[key] = _Tree(inner)
                self._graft(below, value, inner, inner_kind)
            else:
                tree.children[key] = _Leaf(value, inner)

    # What it means.

    def settings(self) -> Settings:
        fields = self._section(self._root, Settings, ())
        settings: Settings | None = None
        if not self._problems:
            settings = Settings(**fields, origins=self._origins, warnings=tuple(self._warnings))
            self._check_whole(settings)
        if self._problems:
            raise SettingsError(sorted(self._problems))
        assert settings is not None
        return settings

    def _section(self, tree: _Tree, kind: Any, path: tuple[str, ...]) -> dict[str, Any]:
        keys = _keys(kind)
        fields: dict[str, Any] = {}
        for key, node in tree.children.items():
            if key not in keys:
                self._unknown(node.origin, path, key, kind)
                continue
            if isinstance(node, _Leaf) and node.value is None:
                continue  # `policy:` with nothing behind it is the default, as everybody who writes it means.
            name = ".".join((*path, key))
            self._origins[name] = str(node.origin)
            try:
                fields[key] = self._value(node, keys[key], (*path, key))
            except _Wrong as wrong:
                self._wrong(node.origin, name, str(wrong))
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in tree.children:
                self._wrong(tree.origin, ".".join((*path, field.name)), "missing. It has no default")
        return fields

    def _value(self, node: _Tree | _Leaf, kind: Any, path: tuple[str, ...]) -> Any:
        if kind == dict[str, str]:
            if not isinstance(node, _Tree):
                raise _Wrong(f"must be a map of librdkafka properties, and is {_kind(node.value)}")
            return self._client(node, path)
        if _is_section(kind):
            if not isinstance(node, _Tree):
                raise _Wrong(f"must be a map of keys, and is {_kind(node.value)}")
            before = len(self._problems)
            fields = self._section(node, kind, path)
            return kind(**fields) if len(self._problems) == before else None
        if isinstance(node, _Tree):
            raise _Wrong("must be a single value, and is a map")
        value, kind = node.value, _bare(kind)
        if get_origin(kind) is Annotated:
            return _checked(get_args(kind)[1], value)
        if get_origin(kind) is tuple:
            return self._list(node, get_args(kind)[0], path)
        if get_origin(kind) is Literal:
            return _choice(value, get_args(kind))
        if kind is Path:
            return node.origin.base / _text(value)
        assert kind is SecretFile
        secret = SecretFile(node.origin.base / _text(value))
        if self._secrets:
            self._ask(secret)
        return secret

    def _list(self, node: _Leaf, kind: Any, path: tuple[str, ...]) -> tuple[Any, ...]:
        if not isinstance(node.value, list):
            raise _Wrong(f"must be a list, and is {_kind(node.value)}. Write it like ['…', '…']")
        values = []
        for index, value in enumerate(node.value):
            origin = node.origin.inner(index)
            inner = (*path[:-1], f"{path[-1]}[{index}]")
            branch: _Tree | _Leaf = _Leaf(value, origin)
            if isinstance(value, str) and _is_section(kind) and kind.shorthand is not None:
                value = {kind.shorthand: value}
            if isinstance(value, dict) and _is_section(kind):
                branch = _Tree(origin)
                self._graft(branch, value, origin, kind)
            self._origins[".".join(inner)] = str(origin)
            try:
                values.append(self._value(branch, kind, inner))
            except _Wrong as wrong:
                self._wrong(origin, ".".join(inner), str(wrong))
        return tuple(values)

    def _client(self, tree: _Tree, path: tuple[str, ...]) -> dict[str, str]:
        """Check librdkafka properties: text or numbers; none that the monitor sets; secrets from files."""
        properties: dict[str, str] = {}
        for key, node in tree.children.items():
            name = f"{'.'.join(path)}.{key}"
            value = node.value if isinstance(node, _Leaf) else {}
            self._origins[name] = str(node.origin)
            base = key.removesuffix("_file")
            if key in _OURS:
                self._wrong(node.origin, name, _OURS[key])
            elif key != base and not is_secret_property(base):
                self._wrong(node.origin, name, f"only secrets are read from files. Write '{base}' and its value")
            elif key != base and base in tree.children:
                self._wrong(node.origin, name, f"stands beside '{base}'. Keep one of the two")
            elif not _is_scalar(value) or value is None:
                self._wrong(node.origin, name, f"must be text, a number, true or false, and is {_kind(value)}")
            elif key != base:
                secret = SecretFile(node.origin.base / str(value))
                properties[key] = str(secret.path)
                try:
                    if self._secrets:
                        self._ask(secret)
                except _Wrong as wrong:
                    self._wrong(node.origin, name, str(wrong))
            else:
                if is_secret_property(key):
                    self._warnings.append(
                        f"{node.origin}: {name}: a secret in plain text. Put it into a file and name it by {key}_file"
                    )
                properties[key] = str(value).lower() if isinstance(value, bool) else str(value)
        return properties

    def _check_whole(self, settings: Settings) -> None:
        """What no single value shows."""
        if settings.grace >= settings.window:
            self._wrong_key("grace", f"must be less than the window ({format_duration(settings.window)})")
        names: dict[str, str] = {}
        for field in msgspec.structs.fields(Topics):
            name = getattr(settings.topics, field.name)
            if name in names:
                key = f"topics.{field.name}"
                if key not in self._origins:
                    key = f"topics.{names[name]}"
                self._wrong_key(key, f"is also the name of topics.{names[name]}. Each topic needs its own")
            names[name] = field.name
        seen: dict[str, int] = {}
        for index, account in enumerate(settings.accounts):
            key = f"accounts[{index}]"
            for value, part in ((account.alias, "alias"), (account.sid, "sid")):
                if value in seen:
                    self._wrong_key(f"{key}.{part}", f"is that of accounts[{seen[value]}] already")
                seen.setdefault(value, index)
            if account.alias == "other":
                self._wrong_key(f"{key}.alias", "'other' stands for all accounts without an alias. Choose another")
            if (account.api_key_sid is None) != (account.api_key_secret_file is None):
                self._wrong_key(key, "needs both of api_key_sid and api_key_secret_file, or neither")
        self._check_alertmanagers(settings.alertmanagers)
        if settings.web.user_header is not None and not settings.web.trusted_proxies:
            self._wrong_key("web.user_header", "needs web.trusted_proxies: anybody can send a header")
        if settings.ingest.enabled and settings.ingest.public_url is None:
            self._wrong_key("ingest.enabled", "needs ingest.public_url: the address that Twilio calls and signs")

    def _check_alertmanagers(self, alertmanagers: Sequence[Alertmanager]) -> None:
        if len({alertmanager.url for alertmanager in alertmanagers}) < len(alertmanagers):
            self._wrong_key("alertmanagers", "names one of them twice")
        if len(alertmanagers) > ALERTMANAGERS_MAX:
            self._wrong_key("alertmanagers", f"are more than {ALERTMANAGERS_MAX}: each is told everything")
        for index, one in enumerate(alertmanagers):
            key = f"alertmanagers[{index}]"
            if (one.username is None) != (one.password_file is None):
                self._wrong_key(key, "needs both of username and password_file, or neither")
            if one.username is not None and one.bearer_token_file is not None:
                self._wrong_key(key, "has a password and a bearer token. Keep one of the two")
            if one.key_file is not None and one.cert_file is None:
                self._wrong_key(key, "has a key_file and no cert_file")
            for name in ("ca_file", "cert_file"):
                path = getattr(one, name)
                if path is not None and one.url.startswith("http:"):
                    self._wrong_key(f"{key}.{name}", "is for https, and the address is http")
                elif path is not None and self._secrets and not path.is_file():
                    self._wrong_key(f"{key}.{name}", "names a file that is not there")

    @staticmethod
    def _ask(secret: SecretFile) -> None:
        try:
            secret.read()
        except SecretError as error:
            raise _Wrong(f"{error}. Give the path of a file that holds the secret") from None

    # What is wrong.

    def _wrong(self, origin: _Origin, key: str, message: str) -> None:
        place, line = origin.place()
        self._problems.append(Problem(place, line, key, message))

    def _wrong_key(self, key: str, message: str) -> None:
        place, _, line = self._origins.get(key, "settings").rpartition(":")
        if line.isdecimal():
            self._problems.append(Problem(place, int(line), key, message))
        else:
            self._problems.append(Problem(self._origins.get(key, "settings"), 0, key, message))

    def _unknown(self, origin: _Origin, path: Sequence[str], key: str, kind: Any) -> None:
        key = key if len(key) <= 64 and key.isprintable() else "…"  # What stands for a key may be anything at all.
        name = ".".join((*path, key))
        if f"{key}_file" in _keys(kind):
            message = f"secrets come from files. Put it into one and name that by '{key}_file'"
        else:
            meant = difflib.get_close_matches(key, _keys(kind), n=1)
            elsewhere = [other for other in _all_keys() if other.rpartition(".")[2] == key and other != name]
            if meant:
                guess: str | None = meant[0]
                if origin.variable is not None:
                    guess = ENVIRONMENT_PREFIX + "__".join((*path, meant[0])).upper()
            else:
                guess = elsewhere[0] if elsewhere else None
            known = ", ".join(_keys(kind))
            message = "unknown key. " + (f"Did you mean '{guess}'?" if guess else f"Known here: {known}")
        self._wrong(origin, name, message)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a map"}
    return words[type(value)]


def _checked(check: Check, value: Any) -> Any:
    return check(value)


def _choice(value: Any, words: tuple[str, ...]) -> str:
    if value in words:
        return str(value)
    meant = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    hint = f" Did you mean '{meant[0]}'?" if meant else ""
    raise _Wrong(f"must be one of {', '.join(words)}.{hint}")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, _Section)


def _is_collection(kind: Any) -> bool:
    return _is_section(kind) or kind == dict[str, str] or get_origin(_bare(kind)) is tuple


def _bare(kind: Any) -> Any:
    """A type without ``| None``: an optional key is left out, never given as nothing."""
    if get_origin(kind) is Annotated:
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    if type(None) in get_args(kind) and len(members) == 1:
        return members[0]
    return kind


_KEYS: Final[dict[Any, dict[str, Any]]] = {}


def _keys(kind: Any) -> dict[str, Any]:
    """The keys of a section and their annotated types, without those that are not settings but about them."""
    if not _is_section(kind):
        return {}
    if kind not in _KEYS:
        hints = get_type_hints(kind, include_extras=True)
        _KEYS[kind] = {
            field.name: hints[field.name]
            for field in msgspec.structs.fields(kind)
            if not (get_origin(hints[field.name]) is Annotated and get_args(hints[field.name])[1] is None)
        }
    return _KEYS[kind]


def _all_keys(kind: Any = None, prefix: str = "") -> Iterator[str]:
    """Every key there is, with its path: ``kafka.group_id``, ``accounts[].alias``."""
    for key, inner in _keys(kind or Settings).items():
        yield prefix + key
        bare = _bare(inner)
        if get_origin(bare) is tuple:
            yield from _all_keys(get_args(bare)[0], f"{prefix}{key}[].") if _is_section(get_args(bare)[0]) else ()
        elif _is_section(bare):
            yield from _all_keys(bare, f"{prefix}{key}.")


# --- librdkafka's properties -------------------------------------------------------------------------------------

_SECRET_PROPERTY: Final = re.compile(
    r"(?:.*[._-])?(?:password|passphrase|secret|credentials?|jaas\.config)|ssl\.key\.pem|sasl\.oauthbearer\.config"
    r"|sasl\.oauthbearer\.assertion\.private\.key\.(?:pem|passphrase)|.*token"
)
_BY_MONITOR: Final = "is set by the monitor, which rests on it. Leave it out"
_OURS: Final[dict[str, str]] = {
    "bootstrap.servers": "belongs into kafka.bootstrap_servers",
    "metadata.broker.list": "belongs into kafka.bootstrap_servers",
    "group.id": "belongs into kafka.group_id",
    **dict.fromkeys(
        (
            "auto.offset.reset",
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "enable.partition.eof",
            "enable.idempotence",
            "acks",
            "request.required.acks",
            "isolation.level",
            "transactional.id",
            "plugin.library.paths",
            "offset.store.method",
        ),
        _BY_MONITOR,
    ),
}


def is_secret_property(name: str) -> bool:
    """Say whether a librdkafka property holds a secret: read from a file, and shown to nobody."""
    return _SECRET_PROPERTY.fullmatch(name) is not None


def _property_name(part: str) -> str:
    """A librdkafka property from a variable's name: ``SASL_PASSWORD_FILE`` is ``sasl.password_file``."""
    name = part.lower().replace("_", ".")
    base = name.removesuffix(".file")
    return f"{base}_file" if base != name and is_secret_property(base) else name


def kafka_client(settings: Settings) -> dict[str, object]:
    """Properties of librdkafka for any client of ours: the broker and ``kafka.client``, its secrets read from files.

    Raises ``SettingsError`` where no broker is named or a secret cannot be read.
    """
    if settings.kafka.bootstrap_servers is None:
        variable = f"{ENVIRONMENT_PREFIX}KAFKA__BOOTSTRAP_SERVERS"
        message = f"missing. Name your brokers in {DEFAULT_FILE} or in {variable}"
        raise SettingsError([Problem("settings", 0, "kafka.bootstrap_servers", message)])
    properties: dict[str, object] = {"bootstrap.servers": settings.kafka.bootstrap_servers}
    for key, value in settings.kafka.client.items():
        base = key.removesuffix("_file")
        if base == key:
            properties[key] = value
            continue
        try:
            properties[base] = SecretFile(Path(value)).read()
        except SecretError as error:
            origin = settings.origins.get(f"kafka.client.{key}", "settings")
            raise SettingsError([Problem(origin, 0, f"kafka.client.{key}", str(error))]) from None
    return properties


def masked(settings: Settings) -> dict[str, Any]:
    """The settings as plain values for people: the same keys as in the file, defaults filled in, secrets masked."""
    plain: dict[str, Any] = _plain(settings)
    client = plain["kafka"]["client"]
    for key in client:
        if is_secret_property(key):
            client[key] = MASK
        elif key.endswith("_file"):
            client[key] = _file_shown(Path(client[key]))
    return plain


def _file_shown(path: Path) -> str:
    """The path of a secret's file; masked where no such file is, for then it may be the secret itself."""
    try:
        return str(path) if path.is_file() else MASK
    except (OSError, ValueError):
        return MASK


def _plain(value: Any) -> Any:
    if isinstance(value, _Section):
        sizes = {"body_max"}
        return {
            key: format_size(getattr(value, key)) if key in sizes else _plain(getattr(value, key))
            for key in _keys(type(value))
        }
    if isinstance(value, SecretFile):
        return _file_shown(value.path)
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, Path | Address):
        return os.fspath(value) if isinstance(value, Path) else str(value)
    return value


assert set(CAUSES) >= set(get_args(_keys(StarterSetting)["cause"])), "A starter proves a cause that nobody knows."
