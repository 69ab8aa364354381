"""Writes configuration.md from the types of the settings: `make docs`. A test compares it, and misses no key."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec

from monitor.settings import (
    ENVIRONMENT_PREFIX,
    SecretFile,
    Settings,
    _address,
    _api_url,
    _bare,
    _bootstrap_servers,
    _glob_url,
    _is_section,
    _keys,
    _network,
    _plain,
    _start_at,
    _url,
)

PAGE: Final = Path(__file__).parent / "configuration.md"

MEANS: Final[dict[str, str]] = {
    "kafka.bootstrap_servers": "The brokers to ask first, with commas between.",
    "kafka.group_id": "The consumer group; processes of one group share the partitions.",
    "kafka.start_at": "Where a group without a commit begins. Without it: a window ago.",
    "kafka.client": "Any property of librdkafka that the monitor does not set itself; one that is secret as `…_file`.",
    "topics.events": "Twilio's events, keyed by account SID.",
    "topics.verdicts": "What is known of each recording; as many partitions as the events topic.",
    "topics.case_actions": "Who was told of what, and what people did about cases.",
    "topics.account_settings": "What is known of accounts from outside the stream.",
    "topics.quarantine": "What could not be read.",
    "window": "How long a conversation is kept after its last event; events that come later are late.",
    "grace": "How long after a recording's first event is waited before what has not come counts as not there.",
    "policy": "The policy file. Without it only recordings started explicitly through the API are allowed.",
    "accounts": "Twilio's accounts.",
    "accounts[].alias": "Its name in metrics, alerts and rules of the policy.",
    "accounts[].sid": "Its SID.",
    "accounts[].auth_token_file": "Its auth token; while it is rotated, both, one a line.",
    "accounts[].shared_key_file": "A shared key that requests are signed with in place of the token.",
    "accounts[].api_key_sid": "An API key to ask Twilio with, in place of the token.",
    "accounts[].api_key_secret_file": "The key's secret.",
    "accounts[].region": "Twilio's region, where the account lives in another than the United States.",
    "accounts[].edge": "Twilio's edge to reach it by.",
    "accounts[].subaccounts": "`all`: its active subaccounts as well.",
    "twilio.timeout": "How long a question to Twilio may take, with its repetitions.",
    "twilio.api_url": "Asked in the place of all of Twilio's addresses: for a gateway, or a test.",
    "reconcile.enabled": "Whether recordings are listed from Twilio, so that one that left no event is judged as well.",
    "reconcile.every": "How often.",
    "reconcile.overlap": "How far each listing reaches back behind the newest recording of the one before.",
    "reconcile.backfill": "How far the first listing of an account reaches back.",
    "reconcile.enrich": "Whether Twilio is asked what the stream did not say about a recording that is not allowed.",
    "polling.enabled": "Whether Twilio is asked for what no event tells: Flex, Studio flows, agents' sessions.",
    "polling.every": "How often.",
    "starters": "Who may start recordings, by the callback address they ask for.",
    "starters[].callback_url": "The address; `*` stands for any text. Compared without its query.",
    "starters[].cause": "The cause that a match proves.",
    "starters[].name": "How it is called in verdicts.",
    "flex.session_max": "How long an agent's session may go on with the settings it loaded at its start.",
    "alertmanagers": "Every Alertmanager, none behind a balancer; a plain address, or an entry with these keys.",
    "alertmanagers[].url": "Its address. Of a name with several addresses each is told.",
    "alertmanagers[].username": "For HTTP's basic authentication.",
    "alertmanagers[].password_file": "The password that goes with it.",
    "alertmanagers[].bearer_token_file": "A bearer token, in place of user and password.",
    "alertmanagers[].ca_file": "The authority that signed its certificate.",
    "alertmanagers[].cert_file": "Our certificate for it.",
    "alertmanagers[].key_file": "The key of our certificate.",
    "alerts.runbooks_url": "Where the runbooks are: alerts link to `<this>/<alert>.md`.",
    "alerts.dashboard_url": "The dashboard that alerts link to.",
    "alerts.alertmanager_url": "Where people reach Alertmanager, to silence. Without it: the first of them.",
    "web.listen": "Where metrics, health and pages answer. `:9464` is every interface.",
    "web.external_url": "How people reach that, for the links in alerts.",
    "web.actions": "Whether pages may change something. Only behind a proxy that knows who people are.",
    "web.user_header": "The header in which your proxy says who somebody is; their actions carry that name.",
    "web.trusted_proxies": "Networks from which that header is believed.",
    "web.recording_url_template": "A link to a recording in Twilio's console; `{account_sid}` is known too.",
    "web.call_url_template": "The same for a call.",
    "web.conference_url_template": "The same for a conference.",
    "ingest.enabled": "Whether `run` has the webhook bridge inside.",
    "ingest.listen": "Where webhooks arrive, apart from metrics and pages.",
    "ingest.public_url": "What Twilio calls and signs.",
    "ingest.trusted_proxies": "Networks whose `X-Forwarded-…` is believed. None: `public_url` always holds.",
    "ingest.sources": "Networks that requests may come from. None: any.",
    "ingest.basic_auth_file": "`user:password` of the address given to Twilio, asked for beside the signature.",
    "ingest.require_body_hash": "Whether a JSON request without the hash of its body is refused.",
    "ingest.body_max": "The largest body that is taken.",
    "cases.database": "The case database, for this process alone. A cache: safe to delete.",
    "cases.retention": "How long closed cases are kept.",
    "cases.hold": "How long a case stays open after somebody could be told of it.",
    "cases.resolve_on": "When an alert is over: with the recording's end, or with its deletion.",
    "snapshots.directory": "Where the state of partitions is written, so that a restart takes seconds. A cache.",
    "snapshots.every": "How often.",
    "audit.baseline": "The audit that was accepted, against which `run` audits. Without it: it makes none.",
    "audit.every": "How often.",
    "log.format": "`json`, or lines for people; `auto` decides by whether a terminal is there.",
    "log.level": "The least important level that is logged.",
}
"""What each key does, in a sentence. What it must look like, and what holds without it, the types say."""

_KINDS: Final[dict[Any, str]] = {
    _bootstrap_servers: "`host:port`, several with commas between",
    _start_at: "`earliest`, `latest`, a span, or an instant",
    _address: "`host:port`",
    _url: "an address",
    _api_url: "an address (https)",
    _glob_url: "an address, with `*`",
    _network: "a network",
}


class Key(NamedTuple):
    """One key: its path, its type as annotated, and its default (``msgspec.NODEFAULT``: it has none)."""

    path: str
    kind: Any
    default: Any


def keys(kind: Any = Settings, prefix: str = "") -> Iterator[Key]:
    """Every key there is, sections themselves left out, in the order of the types."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    factories = {field.name: field.default_factory for field in msgspec.structs.fields(kind)}
    for name, annotated in _keys(kind).items():
        bare, default = _bare(annotated), defaults[name]
        if default is msgspec.NODEFAULT and factories[name] is not msgspec.NODEFAULT:
            default = factories[name]()
        if _is_section(bare):
            yield from keys(bare, f"{prefix}{name}.")
            continue
        yield Key(prefix + name, annotated, default)
        if get_origin(bare) is tuple and _is_section(get_args(bare)[0]):
            yield from keys(get_args(bare)[0], f"{prefix}{name}[].")


def looks_like(kind: Any) -> str:
    """What a value must look like."""
    kind = _bare(kind)
    if get_origin(kind) is Annotated:
        base, check = get_args(kind)[:2]
        given = inspect.getclosurevars(check).nonlocals
        if "least" in given:
            return f"{given['least']} to {given['most']}"
        if "what" in given:
            return str(given["what"])
        if "name" in given:
            return f"an address with `{{{given['name']}}}`"
        return _KINDS.get(check) or ("true or false" if base is bool else "text")
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return "a list" if _is_section(inner) else f"a list: {looks_like(inner)}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if kind is SecretFile:
        return "the path of a file that holds the secret"
    return "a map" if kind == dict[str, str] else "a path"


def default_of(key: Key) -> str:
    """What holds where the key is left out."""
    if key.default is msgspec.NODEFAULT:
        return "*must be given*"
    if key.default is None or key.default in ((), {}):
        return "–"
    shown = _plain(key.default)
    if key.path.endswith("body_max"):
        shown = "4MiB"
    return f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def variable_of(path: str) -> str:
    """The variable of the environment that gives the key; entries of lists have none of their own."""
    return "" if "[]" in path else f"`{ENVIRONMENT_PREFIX}{path.upper().replace('.', '__')}`"


def render() -> str:
    """The page."""
    rows: dict[str, list[str]] = {}
    for key in keys():
        section = key.path.partition("[")[0] if "[" in key.path else key.path.rpartition(".")[0]
        if key.path in ("accounts", "starters", "alertmanagers"):
            section = key.path
        line = f"| `{key.path}` | {MEANS[key.path]} | {looks_like(key.kind)} | {default_of(key)} |"
        rows.setdefault(section, []).append(line)
    parts = [_HEAD]
    for section in sorted(rows, key=lambda name: (name != "", list(rows).index(name))):
        parts.append(
            f"## {section or 'At the top'}\n\n| key | what it does | looks like | without it |\n|---|---|---|---|"
        )
        parts[-1] += "\n" + "\n".join(rows[section])
    parts.append(_VARIABLES + "\n".join(f"    {variable_of(key.path)[1:-1]}" for key in keys() if "[]" not in key.path))
    return "\n\n".join(parts) + "\n"


_HEAD: Final = """\
# Configuration

Every key of `monitor.yaml`. `make docs` writes this page from the types of the settings; do not change it by hand.

`recording-monitor config print` shows what holds, with secrets masked; what is wrong is named with file, line and
remedy, all of it at once, and ends with exit code 2. Spans are written `90s`, `4h`, `7d` or `PT4H`, sizes `512KiB` or
`4MB`. Paths count from the file they stand in. Secrets are files, never values. The policy and secrets are read again
when they change; [the rest needs a restart](upgrade-and-rollback.md#what-needs-a-restart)."""

_VARIABLES: Final = """\
## The same from the environment

A variable wins over the file; lists and maps are given as JSON or YAML. A property of librdkafka is spelt with
underscores (`RECORDING_MONITOR_KAFKA__CLIENT__SECURITY_PROTOCOL`). `RECORDING_MONITOR_CONFIG` names the file.

"""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
