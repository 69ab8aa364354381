"""The policy file: YAML that people write, checked until nothing in it can mean something else than they think.

All that is wrong is said at once, each with its line and what to do about it. A rule that can never decide is an
error too: its author believes in it. No message repeats a value that may be a telephone number or a person's name,
for messages reach logs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from monitor import yaml_lines
from monitor.core.attribution import START_SOURCES
from monitor.core.policy import (
    ALLOWED,
    BUILT_IN_POLICY,
    CONDITIONS,
    DISALLOWED,
    ENFORCE,
    HOURS,
    MINUTES_OF_DAY,
    OUTCOMES,
    POLICY_MODES,
    RESERVED_NAMES,
    RULE_MODES,
    SEVERITIES,
    SHADOW,
    UNDETERMINED,
    Hours,
    Policy,
    PolicyDocument,
    RuleDocument,
    compile_policy,
    covers,
    is_unconditional,
    matcher,
)
from monitor.errors import WrongInput
from monitor.yaml_lines import KeyPath, YamlError

BUILT_IN_PATH: Final = "built-in"

# Bounds. Judging asks each rule in turn, and each glob of a condition in turn; plain values cost the same however many.
RULES_MAX: Final = 300
VALUES_MAX: Final = 10_000
GLOBS_MAX: Final = 100
VALUE_LENGTH_MAX: Final = 500
TEXT_LENGTH_MAX: Final = 500
# Up to so many values of a condition are asked one by one whether different earlier rules take them.
SPLIT_MAX: Final = 50

_POLICY_KEYS: Final = ("policy", "mode", "default", "when_open", "rules")
_RULE_KEYS: Final = ("name", "outcome", "when", "severity", "reason", "team", "runbook_url", "expires", "mode")
_HOURS_KEYS: Final = ("days", "from", "to", "zone")
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_NAMES: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

# A rule's name and team become labels of metrics and alerts.
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_LONG_NUMBER: Final = re.compile(r"\d{9}")
_SHORT_NUMBER: Final = re.compile(r"\d{7}")
_TELEPHONE: Final = re.compile(r"(?:\+|\b00)[1-9][\d ()./-]{5,}\d")
# What a message may repeat: a word, a SID, a date; never a telephone number.
_HARMLESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:*/ -]{0,63}|\d{4}-\d\d-\d\d(?:T[\d:.]*)?|\d\d?:\d\d|\d{1,6}")
_SID: Final = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}")
_SID_PREFIXES: Final = {"account": "AC", "queue": "WQ", "worker": "WK"}
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:[Zz]|[+-]\d\d:?\d\d)?")
_TIME: Final = re.compile(r"(\d\d?):(\d\d)")
# ``localtime`` and ``posixrules`` depend on the machine, and the zones under ``right/`` count leap seconds.
_ZONE: Final = re.compile(r"[A-Z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*")

# What starts a recording of these causes is their start source itself. The others are told apart by more than that.
_SOURCE_OF_CAUSE: Final = {
    "dial_verb": "DialVerb",
    "record_verb": "RecordVerb",
    "sip_trunk": "Trunking",
    "outbound_call_api": "OutboundAPI",
    "start_recording_twiml": "StartCallRecordingTwiML",
    "conference_recording_api": "StartConferenceRecordingAPI",
}
_SOURCES_OF_OTHERS: Final = ("StartCallRecordingAPI", "Conference")
_CAUSE_OF_NO_SOURCE: Final = "unknown_source"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong or doubtful in a policy file, and what to do about it.

    ``line`` counts from 1 and is None where the file as a whole is meant; ``rule`` is None outside the rules.
    """

    path: str
    line: int | None
    rule: str | None
    problem: str
    remedy: str | None

    def __str__(self) -> str:
        """Give ``path:line: rule 'x': problem. Remedy``."""
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        rule = "" if self.rule is None else f"rule {self.rule!r}: "
        return f"{place}: {rule}{self.problem}" + (f". {self.remedy}" if self.remedy else "")


class PolicyError(WrongInput):
    """The policy cannot be used. ``problems`` holds all that is wrong, in the order of the file; ``str()`` a line each.

    ``warnings`` is what is only doubtful.
    """

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems: Final = tuple(problems)
        self.warnings: Final = tuple(warnings)


class LoadedPolicy(msgspec.Struct, frozen=True):
    """A policy ready for use. ``warnings`` are in the order of the file; ``path`` is None for the built-in one."""

    policy: Policy
    warnings: tuple[Problem, ...]
    path: Path | None


def load_policy(path: Path | None, *, now: datetime | None = None) -> LoadedPolicy:
    """Read, check and compile a policy file; None is the built-in policy.

    ``now`` is only for saying which rules have expired (default: the clock's). Raises ``PolicyError``.
    """
    now = datetime.now(UTC) if now is None else now
    if path is None:
        return _loaded(BUILT_IN_POLICY.encode(), BUILT_IN_PATH, None, now)
    try:
        with path.open("rb") as file:
            data = file.read(yaml_lines.BYTES_MAX + 1)  # One more than the bound, so that it is seen to be exceeded.
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PolicyError([_whole(str(path), f"cannot be read: {reason}", "Check the path and its rights")]) from None
    return _loaded(data, str(path), path, now)


def parse_policy(data: bytes, path: str, *, now: datetime) -> tuple[PolicyDocument, tuple[Problem, ...]]:
    """Check a policy and give it as plain values, with what is doubtful in it. ``path`` is the name messages give.

    Raises ``PolicyError`` with all that is wrong.
    """
    if len(data) > yaml_lines.BYTES_MAX:
        raise PolicyError([_whole(path, f"larger than {yaml_lines.BYTES_MAX} bytes", "Is it the right file?")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(path=path, line=line, rule=None, problem="not UTF-8 text", remedy="Save the file as UTF-8")
        raise PolicyError([problem]) from None
    try:
        document = yaml_lines.load(text, path)
    except YamlError as error:
        problem = Problem(path=path, line=error.line, rule=None, problem=error.message, remedy=None)
        raise PolicyError([problem]) from None
    reader = _Reader(document, now)
    policy = reader.policy()
    if reader.problems:
        raise PolicyError(_in_order(reader.problems), _in_order(reader.warnings))
    return policy, tuple(_in_order(reader.warnings))


def _loaded(data: bytes, name: str, path: Path | None, now: datetime) -> LoadedPolicy:
    document, warnings = parse_policy(data, name, now=now)
    return LoadedPolicy(compile_policy(document, data), warnings, path)


def _whole(path: str, problem: str, remedy: str) -> Problem:
    return Problem(path=path, line=None, rule=None, problem=problem, remedy=remedy)


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.line or 0)


class _Reader:
    """Walks a document once. What is wrong is noted and read as if it were absent, so that the walk goes on."""

    def __init__(self, document: yaml_lines.Document, now: datetime) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._document = document
        self._now_ms = int(now.timestamp() * 1000)
        self._rule: str | None = None

    def wrong(self, at: KeyPath, problem: str, remedy: str) -> None:
        self.problems.append(self._problem(at, problem, remedy))

    def doubtful(self, at: KeyPath, problem: str, remedy: str) -> None:
        self.warnings.append(self._problem(at, problem, remedy))

    def _problem(self, at: KeyPath, problem: str, remedy: str) -> Problem:
        return Problem(
            path=self._document.path, line=self._document.line(at), rule=self._rule, problem=problem, remedy=remedy
        )

    # --- The policy ---------------------------------------------------------------------------------------------------

    def policy(self) -> PolicyDocument:
        value = self._document.value
        if value is None:
            self.wrong((), "the file is empty", "Write a policy, or name no file: then the built-in one holds")
            return PolicyDocument()
        if not isinstance(value, dict):
            self.wrong((), f"a policy is a mapping, not {_kind(value)}", f"Begin with the keys {_list(_POLICY_KEYS)}")
            return PolicyDocument()
        self._keys(value, (), _POLICY_KEYS)
        name = self._text(value, (), "policy")
        mode = self._word(value, (), "mode", POLICY_MODES)
        default = self._word(value, (), "default", OUTCOMES)
        when_open = self._word(value, (), "when_open", OUTCOMES)
        rules = self._rules(value)
        return PolicyDocument(
            name=name or "policy",
            mode=mode or ENFORCE,
            default=default or DISALLOWED,
            when_open=when_open or UNDETERMINED,
            rules=rules,
        )

    def _rules(self, policy: Mapping[str, Any]) -> tuple[RuleDocument, ...]:
        rules = policy.get("rules")
        if "rules" not in policy:
            return ()
        if not isinstance(rules, list):
            self.wrong(("rules",), f"'rules' is a list, not {_kind(rules)}", "Begin each rule with '- name: …'")
            return ()
        if len(rules) > RULES_MAX:
            self.wrong(("rules",), f"{len(rules)} rules, at most {RULES_MAX}", "Join rules: a list means any of")
            return ()
        lines: dict[str, int] = {}
        read: list[tuple[int, RuleDocument]] = []
        for index, value in enumerate(rules):
            self._rule = None
            rule = self._one_rule(value, ("rules", index), lines)
            if rule is not None:
                read.append((index, rule))
        self._reach(read)
        self._rule = None
        return tuple(rule for _, rule in read)

    def _one_rule(self, value: Any, at: KeyPath, lines: dict[str, int]) -> RuleDocument | None:
        """Read one rule; None where it cannot be compared with others, which has been said then."""
        before = len(self.problems)
        if not isinstance(value, dict):
            self.wrong(at, f"a rule is a mapping, not {_kind(value)}", "Begin it with '- name: …'")
            return None
        name = self._name(value, at, lines)
        self._rule = name or f"number {int(at[-1]) + 1}"
        self._keys(value, at, _RULE_KEYS, elsewhere=(*CONDITIONS, HOURS), under="when")
        outcome = self._word(value, at, "outcome", OUTCOMES)
        if "outcome" not in value:
            self.wrong(at, "it has no outcome", f"Add 'outcome:' with one of {_list(OUTCOMES)}")
        when, hours = self._when(value, at)
        severity = self._word(value, at, "severity", SEVERITIES)
        if severity is not None and outcome in (ALLOWED, UNDETERMINED):
            effect = "has none" if outcome == ALLOWED else "is always a warning"
            self.doubtful((*at, "severity"), f"what is {outcome} {effect}", "Remove 'severity'")
            severity = None
        rule = RuleDocument(
            name=name or "",
            outcome=outcome or DISALLOWED,
            when=when,
            hours=hours,
            severity=severity,
            reason=self._text(value, at, "reason"),
            team=self._label(value, at, "team"),
            runbook_url=self._url(value, at, "runbook_url"),
            expires_ms=self._expires(value, at),
            mode=self._word(value, at, "mode", RULE_MODES) or ENFORCE,
        )
        return rule if len(self.problems) == before else None

    def _name(self, rule: Mapping[str, Any], at: KeyPath, lines: dict[str, int]) -> str | None:
        if "name" not in rule:
            self._rule = f"number {int(at[-1]) + 1}"
            self.wrong(at, "it has no name", "Add 'name:'; verdicts, metrics and alerts show it")
            return None
        name = self._label(rule, at, "name")
        if name is None:
            return None
        self._rule = name
        here = (*at, "name")
        if name in RESERVED_NAMES:
            self.wrong(here, "the name is taken by the monitor itself", "Choose another")
        elif name in lines:
            self.wrong(here, f"the rule on line {lines[name]} has the same name", "Give each rule its own")
        lines.setdefault(name, self._document.line(here))
        return name

    # --- Conditions ---------------------------------------------------------------------------------------------------

    def _when(self, rule: Mapping[str, Any], at: KeyPath) -> tuple[dict[str, tuple[str, ...]], tuple[Hours, ...]]:
        when: dict[str, tuple[str, ...]] = {}
        hours: tuple[Hours, ...] = ()
        if "when" not in rule:
            return when, hours
        value = rule["when"]
        at = (*at, "when")
        if not isinstance(value, dict):
            self.wrong(at, f"'when' is a mapping of conditions, not {_kind(value)}", "Write for example {cause: …}")
            return when, hours
        self._keys(value, at, (*CONDITIONS, HOURS), elsewhere=_RULE_KEYS, under="the rule itself")
        for name in CONDITIONS:
            if name in value:
                values = self._values(value[name], (*at, name), name)
                if values:
                    when[name] = values
        if HOURS in value:
            hours = self._hours(value[HOURS], (*at, HOURS))
        self._contradiction(when, at, outcome=rule.get("outcome"))
        return when, hours

    def _values(self, value: Any, at: KeyPath, name: str) -> tuple[str, ...]:
        listed = value if isinstance(value, list) else [value]
        if not listed:
            self.wrong(at, f"'{name}' is an empty list, which matches nothing", "Name values, or leave the key out")
        if len(listed) > VALUES_MAX:
            self.wrong(at, f"'{name}' has {len(listed)} values, at most {VALUES_MAX}", "Use '*' for what they share")
            return ()
        values: dict[str, KeyPath] = {}
        for index, one in enumerate(listed):
            here = (*at, index) if listed is value else at
            text = self._value(one, here, name)
            if text is None:
                continue
            if text in values:
                self.doubtful(here, f"'{name}' names the same value twice", "Remove one")
            values[text] = here
        globs = 0 if CONDITIONS[name].words else sum("*" in text for text in values)
        if globs > GLOBS_MAX:
            self.wrong(at, f"'{name}' has {globs} patterns with '*', at most {GLOBS_MAX}", "Join them")
        return tuple(values)

    def _value(self, value: Any, at: KeyPath, name: str) -> str | None:
        """Read one value of a condition; None where it is wrong, which has been said then."""
        condition = CONDITIONS[name]
        if isinstance(value, int) and not isinstance(value, bool) and not condition.words:
            value = str(value)  # A room called 1234, a short number: the digits are the text.
        if not isinstance(value, str):
            self.wrong(at, f"'{name}' takes text, not {_kind(value)}", _quote_it(value))
            return None
        if not value:
            self.wrong(at, f"'{name}' has an empty value, which matches nothing", "Leave the key out to match anything")
            return None
        if len(value) > VALUE_LENGTH_MAX or not value.isprintable():
            self.wrong(
                at, f"'{name}' has a value with more than {VALUE_LENGTH_MAX} or unprintable characters", "Mend it"
            )
            return None
        if condition.words:
            return self._closed_word(value, at, name, condition.words)
        if condition.url:
            return self._callback_url(value, at)
        prefix = _SID_PREFIXES.get(name)
        if prefix is not None and not self._sid(value, at, name, prefix):
            return None
        if condition.usual:
            self._usual(value, at, name, condition.usual)
        if name in ("from", "to"):
            self._telephone(value, at, name)
        return value

    def _closed_word(self, value: str, at: KeyPath, name: str, words: Sequence[str]) -> str | None:
        if value in words:
            return value
        if "*" in value:
            some = [word for word in words if matcher("conference_name", [value])(word)]
            remedy = f"Write [{', '.join(some)}]" if some else f"Known are {_list(words)}"
            self.wrong(at, f"'{name}' takes words, not patterns", remedy)
        else:
            self.wrong(at, f"{_shown(value)} is no known {name}", _did_you_mean(value, words))
        return None

    def _usual(self, value: str, at: KeyPath, name: str, usual: Sequence[str]) -> None:
        if not any(map(matcher(name, [value]), usual)):
            problem = f"no {name} seen so far fits {_shown(value)}"
            self.doubtful(at, problem, _did_you_mean(value, usual))

    def _sid(self, value: str, at: KeyPath, name: str, prefix: str) -> bool:
        if _SID.fullmatch(value):
            if value.startswith(prefix):
                return True
            self.wrong(at, f"{_shown(value)} is no {name}", f"The SID of a {name} begins with {prefix}")
            return False
        if re.fullmatch(prefix + r"[0-9a-fA-F]{12,}", value):
            count = len(value) - len(prefix)
            self.wrong(at, f"the SID is not whole: {count} digits after {prefix}", "It has 32. Copy it again")
            return False
        return True

    def _callback_url(self, value: str, at: KeyPath) -> str | None:
        start, star, _ = value.partition("*")
        start = start.lower()
        if not any(
            start.startswith(scheme) or (star and scheme.startswith(start)) for scheme in ("http://", "https://")
        ):
            self.wrong(at, "'callback_url' can never match: a URL begins with http:// or https://", "Write it in full")
            return None
        return value

    def _telephone(self, value: str, at: KeyPath, name: str) -> None:
        if re.fullmatch(r"\+?[\d ()./*-]+", value) and re.search(r"[ ()./-]", value):
            self.doubtful(at, f"'{name}' has a number with separators, and Twilio's have none", "Write +, then digits")
        elif re.fullmatch(r"\d{8,}\*?", value):
            self.doubtful(at, f"'{name}' has a number without its leading '+', and Twilio's have it", "Begin with '+'")

    def _contradiction(self, when: Mapping[str, tuple[str, ...]], at: KeyPath, *, outcome: Any) -> None:
        causes, sources = when.get("cause"), when.get("start_source")
        if causes and sources and not any(_goes_with(cause, sources) for cause in causes):
            remedy = "The cause says it all: leave 'start_source' out"
            self.wrong((*at, "start_source"), "it can never apply: no cause of it has such a start source", remedy)
        for index, url in enumerate(when.get("callback_url", ())):
            _, separator, rest = url.partition("://")
            if outcome == ALLOWED and separator and rest.strip("*") and rest.endswith("*") and "/" not in rest:
                remedy = "Write a '/' after the host"
                self.doubtful((*at, "callback_url", index), "the host may go on where the '*' stands", remedy)

    # --- Times --------------------------------------------------------------------------------------------------------

    def _hours(self, value: Any, at: KeyPath) -> tuple[Hours, ...]:
        listed = value if isinstance(value, list) else [value]
        if not listed:
            self.wrong(at, "'hours' is an empty list, which matches nothing", "Name hours, or leave the key out")
        read = [self._span(one, (*at, index) if listed is value else at) for index, one in enumerate(listed)]
        return tuple(span for span in read if span is not None)

    def _span(self, value: Any, at: KeyPath) -> Hours | None:
        example = 'Write for example {days: [mon-fri], from: "08:00", to: "18:00", zone: Europe/Vienna}'
        if not isinstance(value, dict):
            self.wrong(at, f"'hours' is a mapping, not {_kind(value)}", example)
            return None
        before = len(self.problems)
        self._keys(value, at, _HOURS_KEYS)
        if not {"days", "from", "to"} & value.keys():
            self.wrong(at, "'hours' names neither days nor times", example)
        days = self._days(value["days"], (*at, "days")) if "days" in value else tuple(range(7))
        begin = self._time(value["from"], (*at, "from")) if "from" in value else 0
        end = self._time(value["to"], (*at, "to")) if "to" in value else MINUTES_OF_DAY
        zone = self._zone(value, at)
        if begin is not None and begin == end:
            self.wrong((*at, "to"), "'hours' end when they begin", "Leave 'from' and 'to' out for the whole day")
        if begin == MINUTES_OF_DAY:
            self.wrong((*at, "from"), "'hours' cannot begin at 24:00", 'Write "00:00" and the next day')
        if len(self.problems) > before or begin is None or end is None or zone is None:
            return None
        return Hours(days, begin, end, zone)

    def _days(self, value: Any, at: KeyPath) -> tuple[int, ...]:
        listed = value if isinstance(value, list) else [value]
        if not listed:
            self.wrong(at, "'days' is an empty list, which matches nothing", "Name days, or leave the key out")
        days: set[int] = set()
        for index, one in enumerate(listed):
            here = (*at, index) if listed is value else at
            ends = [_day(part) for part in one.split("-")] if isinstance(one, str) else []
            if len(ends) not in (1, 2) or None in ends:
                remedy = f"Days are {_list(_DAYS)}, and ranges of them such as mon-fri"
                self.wrong(here, f"{_shown(one)} is no day", remedy)
                continue
            first, last = ends[0], ends[-1]
            assert first is not None
            assert last is not None
            days.update((first + step) % 7 for step in range((last - first) % 7 + 1))
        return tuple(sorted(days))

    def _time(self, value: Any, at: KeyPath) -> int | None:
        """Read a time of day as minutes from its beginning, at most 1440."""
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            hour, minute = int(match[1]), int(match[2])
            if minute < 60 and hour * 60 + minute <= MINUTES_OF_DAY:
                return hour * 60 + minute
        self.wrong(at, f"{_shown(value)} is no time of day", 'Write hours and minutes, from "00:00" to "24:00"')
        return None

    def _zone(self, span: Mapping[str, Any], at: KeyPath) -> ZoneInfo | None:
        if "zone" not in span:
            self.wrong(at, "'hours' have no time zone", "Add 'zone:', such as Europe/Vienna or UTC")
            return None
        value = span["zone"]
        if isinstance(value, str) and _ZONE.fullmatch(value):
            try:
                return ZoneInfo(value)
            except (KeyError, ValueError, OSError):
                pass  # Not a zone, not a zone's file, or a folder of zones such as ``Europe``.
        names = [name for name in available_timezones() if _ZONE.fullmatch(name)]
        remedy = _did_you_mean(value, names, otherwise="Zones are named like Europe/Vienna or UTC")
        self.wrong((*at, "zone"), f"{_shown(value)} is no time zone", remedy)
        return None

    def _expires(self, rule: Mapping[str, Any], at: KeyPath) -> int | None:
        """Read ``expires`` as the first instant it no longer covers; a date counts to its end, in UTC."""
        if "expires" not in rule:
            return None
        value = rule["expires"]
        at = (*at, "expires")
        remedy = "Write a date such as 2026-12-31, or an instant such as 2026-12-31T18:00:00Z"
        try:
            if isinstance(value, str) and _DATE.fullmatch(value):
                day = date.fromisoformat(value) + timedelta(days=1)
                end = datetime(day.year, day.month, day.day, tzinfo=UTC)
            elif isinstance(value, str) and _INSTANT.fullmatch(value):
                end = datetime.fromisoformat(value)
            else:
                raise ValueError
        except (ValueError, OverflowError):
            self.wrong(at, f"{_shown(value)} is no date", remedy)
            return None
        if end.tzinfo is None:
            self.wrong(at, "the instant has no offset from UTC", "Add Z, or an offset such as +01:00")
            return None
        expires_ms = int(end.timestamp() * 1000)
        if expires_ms <= self._now_ms:
            problem = "it has expired and no longer applies to new recordings"
            self.doubtful(at, problem, "Remove the rule, or give it a later date")
        return expires_ms

    # --- Which rule leaves nothing to which ---------------------------------------------------------------------------

    def _reach(self, rules: Sequence[tuple[int, RuleDocument]]) -> None:
        """Say which rules can never decide. Rules in shadow mode take nothing, and lose nothing: they are counted."""
        earlier: list[RuleDocument] = []
        for index, rule in rules:
            if rule.mode == SHADOW:
                continue
            takers = _takers(earlier, rule)
            self._rule = rule.name
            at: KeyPath = ("rules", index, "name")
            if len(takers) == 1:
                [taker] = takers
                what = "all" if is_unconditional(taker) else "all that it matches"
                remedy = f"Move it before {taker.name!r}, or remove it"
                self.wrong(at, f"it can never apply: {taker.name!r} already matches {what}", remedy)
            elif takers:
                names = _list([repr(taker.name) for taker in takers], "and")
                problem = f"it can never apply: {names} together already match all that it matches"
                self.wrong(at, problem, "Move it before them, or remove it")
            else:
                earlier.append(rule)  # One that is taken whole takes nothing its taker does not.

    # --- Values in general --------------------------------------------------------------------------------------------

    def _keys(
        self,
        value: Mapping[str, Any],
        at: KeyPath,
        known: Sequence[str],
        *,
        elsewhere: Sequence[str] = (),
        under: str = "",
    ) -> None:
        for key in value:
            if key in known:
                continue
            if key in elsewhere:
                remedy = f"It belongs under {under!r}" if under == "when" else f"It belongs to {under}"
            else:
                remedy = _did_you_mean(key, known)
            self.wrong((*at, key), f"unknown key {_shown(key)}", remedy)

    def _word(self, value: Mapping[str, Any], at: KeyPath, key: str, words: Sequence[str]) -> str | None:
        if key not in value:
            return None
        word = value[key]
        if isinstance(word, str) and word in words:
            return word
        self.wrong((*at, key), f"'{key}' cannot be {_shown(word)}", _did_you_mean(word, words))
        return None

    def _text(self, value: Mapping[str, Any], at: KeyPath, key: str) -> str | None:
        if key not in value:
            return None
        text = value[key]
        if not isinstance(text, str):
            self.wrong((*at, key), f"'{key}' takes text, not {_kind(text)}", _quote_it(text))
            return None
        text = " ".join(text.split())  # A text folded over lines is one sentence.
        if not text or len(text) > TEXT_LENGTH_MAX or not text.isprintable():
            self.wrong((*at, key), f"'{key}' is not 1 to {TEXT_LENGTH_MAX} printable characters", "Mend it")
            return None
        if _TELEPHONE.search(text):
            self.wrong((*at, key), f"'{key}' holds a telephone number, and goes into verdicts and logs", "Leave it out")
            return None
        return text

    def _label(self, value: Mapping[str, Any], at: KeyPath, key: str) -> str | None:
        """Read a text that becomes a label of metrics and alerts."""
        if key not in value:
            return None
        text = value[key]
        if not isinstance(text, str) or not _LABEL.fullmatch(text):
            remedy = "Use up to 64 letters, digits, '.', '_' and '-', with a letter or digit at both ends"
            self.wrong((*at, key), f"'{key}' is not fit for a label of metrics and alerts", remedy)
            return None
        if _LONG_NUMBER.search(text):
            remedy = "Leave the number out"
            self.wrong((*at, key), f"'{key}' holds a long number, and goes into metrics and alerts", remedy)
            return None
        return text

    def _url(self, value: Mapping[str, Any], at: KeyPath, key: str) -> str | None:
        url = self._text(value, at, key)
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        except ValueError:
            fit = False
        if not fit or " " in url:
            remedy = "Write http:// or https://, a host, a path; no user or password"
            self.wrong((*at, key), f"'{key}' is no address a person on call can open", remedy)
            return None
        return url


def _goes_with(cause: str, sources: Sequence[str]) -> bool:
    """Say whether a recording of this cause can have one of these start sources."""
    matches = matcher("start_source", sources)
    if cause == _CAUSE_OF_NO_SOURCE:
        # A glob, or a spelling nobody has seen, may be the unknown one.
        return any(
            "*" in source or not any(map(matcher("start_source", [source]), START_SOURCES)) for source in sources
        )
    own = _SOURCE_OF_CAUSE.get(cause)
    return any(map(matches, _SOURCES_OF_OTHERS if own is None else (own,)))


def _takers(earlier: Sequence[RuleDocument], rule: RuleDocument) -> tuple[RuleDocument, ...]:
    """Find the rule, or the rules together, that leave nothing to ``rule``; empty where something is left, or unsure.

    Together: each value that one condition lists goes to some earlier rule.
    """
    for one in earlier:
        if covers(one, rule):
            return (one,)
    for name, values in rule.when.items():
        if not 1 < len(values) <= SPLIT_MAX:
            continue
        takers: list[RuleDocument] = []
        for value in values:
            narrowed = msgspec.structs.replace(rule, when={**rule.when, name: (value,)})
            taker = next((one for one in earlier if covers(one, narrowed)), None)
            if taker is None:
                break
            if taker not in takers:
                takers.append(taker)
        else:
            return tuple(takers)
    return ()


def _day(text: str) -> int | None:
    text = text.strip().lower()
    for names in (_DAYS, _DAY_NAMES):
        if text in names:
            return names.index(text)
    return None


def _kind(value: Any) -> str:
    """Name the type of a YAML value in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    for kind, words in ((int, "a number"), (float, "a number"), (str, "text"), (list, "a list"), (dict, "a mapping")):
        if isinstance(value, kind):
            return words
    raise AssertionError(type(value))


def _quote_it(value: Any) -> str:
    return "Put it in quotes" if isinstance(value, bool | int | float) else "Write one value, or a flat list of them"


def _shown(value: Any) -> str:
    """Repeat a value in a message if it can be no more than a word; else say only what it is."""
    if isinstance(value, str):
        if _SID.fullmatch(value) or (_HARMLESS.fullmatch(value) and not _SHORT_NUMBER.search(value)):
            return repr(value)
        return "this text"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1_000_000:
        return repr(value)
    return _kind(value)


def _did_you_mean(value: Any, words: Sequence[str], *, otherwise: str | None = None) -> str:
    if isinstance(value, str):
        folded = {word.lower().replace("-", "_"): word for word in words}
        close = difflib.get_close_matches(value.lower().replace("-", "_")[:100], folded, n=1)
        if close:
            return f"Did you mean {folded[close[0]]!r}?"
    return otherwise or f"Known are {_list(words)}"


def _list(words: Sequence[str], conjunction: str = "and") -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last
