"""A report as people file it (Markdown) and as programs read it (JSON): one struct, two spellings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final

import msgspec

from monitor.core.policy import DISALLOWED, UNDETERMINED
from monitor.markdown import escaped, markdown_table
from monitor.outputs.cases import ACCEPTED
from monitor.outputs.report import (
    CLEARED,
    SUSPECTED,
    Coverage,
    Handling,
    Origin,
    Report,
    ReportedCase,
    Spread,
    Tally,
)


def as_json(report: Report) -> str:
    """All of it, for programs; docs/report.md has the fields."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def as_markdown(report: Report) -> str:
    """All of it as a document: what cannot be said stands before what is said."""
    parts = [
        _head(report),
        _limits(report),
        _totals(report),
        *_lists(report),
        _counts(report),
        _timing(report),
        _coverage(report),
        _unseen(report),
        _exceptions(report),
        _rests_on(report),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


# --------------------------------------------------------------------------- the parts


def _head(report: Report) -> list[str]:
    accounts = [
        one.account if one.account == one.account_sid else f"{one.account} ({one.account_sid})"
        for one in report.accounts
    ]
    of = "all accounts" if report.all_accounts else "these accounts"
    return [
        "# Recordings, and whether they were allowed",
        "",
        f"Recordings that began from **{_instant(report.since)}** on and before **{_instant(report.until)}**.",
        f"Of {of}: {_listing(map(escaped, accounts)) or 'none is known'}.",
        f"All times are UTC. Made at {_instant(report.made_at)}.",
        "",
    ]


def _limits(report: Report) -> list[str]:
    if not report.limits:
        return []
    return [
        "## What this report cannot say",
        "",
        *(f"- **{each.what}**: {escaped(each.says)}" for each in report.limits),
        "",
    ]


def _totals(report: Report) -> list[str]:
    totals = report.totals
    least = "at least " if totals.allowed_since > report.since else ""
    expected = (
        "not known"
        if totals.as_expected is None
        else f"{_share(totals.as_expected)} of {totals.as_expected_of} since {_instant(totals.allowed_since)}"
    )
    rows = [
        ("recordings", f"{least}{totals.recordings}"),
        ("allowed", f"{least}{totals.allowed}"),
        ("of these, cleared by what came later", f"{totals.cleared}"),
        (f"**{DISALLOWED}**", f"**{totals.disallowed}**"),
        (UNDETERMINED, f"{totals.undetermined}"),
        ("suspected (conferences, no recording of which is known)", f"{totals.suspected}"),
        ("verdicts that may still change", f"{totals.open}"),
        ("as expected", expected),
    ]
    policies = [
        (
            escaped(each.name or "not at hand"),
            each.mode,
            f"`{each.policy}`",
            f"{each.recordings}",
            f"{each.disallowed}",
            _instant(each.first),
            _instant(each.last),
        )
        for each in report.policies
    ]
    return [
        "## Totals",
        "",
        *markdown_table(("", "number"), rows),
        "Judged by:",
        "",
        *markdown_table(("policy", "mode", "hash", "recordings", "disallowed", "first began", "last began"), policies),
    ]


def _lists(report: Report) -> Iterable[list[str]]:
    for state, title, none in (
        (DISALLOWED, "Disallowed recordings", "None is known."),
        (UNDETERMINED, "Undetermined recordings", "None."),
        (SUSPECTED, "Suspected conferences", "None."),
        (CLEARED, "Cleared by what came later", "None."),
    ):
        found = [case for case in report.cases if case.state == state]
        head, row = _COLUMNS[state]
        yield [f"## {title}", "", *(markdown_table(head, map(row, found)) if found else [none, ""])]
    if report.cases_left_out:
        yield [f"{report.cases_left_out} more are counted, and not told one by one.", ""]


def _disallowed(case: ReportedCase) -> tuple[str, ...]:
    return (
        case.sid,
        _instant(case.started_at),
        escaped(case.account),
        case.conference_sid or "-",
        f"{case.cause or 'not known'} ({case.strength})" if case.strength else case.cause or "not known",
        _origin(case),
        escaped(case.rule) + (f" ({case.mode})" if case.mode != "enforce" else ""),
        "end not seen" if case.lasted_s is None else _span(case.lasted_s),
        _span(case.unseen_s),
        _span(case.detected_s),
        "not told" if case.told_at is None else _instant(case.told_at),
        _handling(case.handling),
    )


def _undetermined(case: ReportedCase) -> tuple[str, ...]:
    return (
        case.sid,
        _instant(case.started_at),
        escaped(case.account),
        case.conference_sid or "-",
        case.cause or "not known",
        _listing(map(escaped, case.missing)) or "-",
        _handling(case.handling),
    )


def _cleared(case: ReportedCase) -> tuple[str, ...]:
    return (
        case.sid,
        _instant(case.started_at),
        escaped(case.account),
        case.cause or "not known",
        escaped(case.rule),
        _handling(case.handling),
    )


_UNDETERMINED_HEAD: Final = ("SID", "began", "account", "conference", "cause", "missing", "people")
_COLUMNS: Final[dict[str, tuple[tuple[str, ...], Callable[[ReportedCase], tuple[str, ...]]]]] = {
    DISALLOWED: (
        (
            "recording",
            "began",
            "account",
            "conference",
            "cause (how that is known)",
            "started by",
            "rule",
            "lasted",
            "seen after",
            "judged after",
            "told at",
            "people",
        ),
        _disallowed,
    ),
    UNDETERMINED: (_UNDETERMINED_HEAD, _undetermined),
    SUSPECTED: (_UNDETERMINED_HEAD, _undetermined),
    CLEARED: (("recording", "began", "account", "cause", "rule", "people"), _cleared),
}


def _counts(report: Report) -> list[str]:
    lines = ["## Counted", ""]
    for title, tallies in (
        ("cause", report.by_cause),
        ("account", report.by_account),
        ("start source", report.by_start_source),
        ("rule", report.by_rule),
    ):
        lines += markdown_table((title, DISALLOWED, UNDETERMINED, SUSPECTED, "allowed"), map(_tally, tallies))
    if report.by_origin:
        lines += markdown_table(
            ("what started disallowed ones", "recordings"),
            [(_origin(each), f"{each.recordings}") for each in report.by_origin],
        )
    return lines


def _tally(each: Tally) -> tuple[str, ...]:
    numbers = (each.disallowed, each.undetermined, each.suspected, each.allowed)
    return escaped(each.name), *map(str, numbers)


def _timing(report: Report) -> list[str]:
    timing = report.timing
    rows = [
        ("start of a recording to the first that was seen of it", *_spread(timing.unseen)),
        ("start of a recording to its disallowed verdict", *_spread(timing.detected)),
        ("disallowed verdict to the first Alertmanager that took its alert", *_spread(timing.told)),
    ]
    return [
        "## How soon",
        "",
        *markdown_table(("from", "recordings", "median", "99 %", "longest"), rows),
        f"Of the disallowed recordings under a policy that pages, {timing.not_told} were told to no Alertmanager by",
        "themselves: none is set up, none answered, or they were told as some of many.",
        "",
    ]


def _coverage(report: Report) -> list[str]:
    rows = []
    for each in report.coverage:
        counted = each.counted
        rows.append(
            (
                escaped(each.account),
                _ratio(each),
                *_listed(each),
                "-"
                if counted is None
                else f"{counted.seen} of {counted.listed}, {_instant(counted.since)} to {_instant(counted.until)}",
                f"{each.found_by_listing}",
            )
        )
    return [
        "## Coverage: what Twilio lists, against what the stream told of",
        "",
        *markdown_table(
            (
                "account",
                "coverage",
                "listed",
                "seen",
                "missed",
                "too fresh",
                "no verdict any more",
                "counted by the monitor",
                "judged, though the stream told nothing",
            ),
            rows,
        ),
    ]


def _ratio(coverage: Coverage) -> str:
    if coverage.listed is None:
        return "**unknown**"
    return "unknown: nothing to compare" if coverage.ratio is None else _share(coverage.ratio)


def _listed(coverage: Coverage) -> tuple[str, ...]:
    listed = coverage.listed
    if listed is None:
        return ("-",) * 5
    return tuple(map(str, (listed.listed, listed.seen, listed.missed, listed.fresh, listed.old)))


def _unseen(report: Report) -> list[str]:
    unseen = report.unseen
    lines = ["## What could not be seen", "", "### Blind intervals", ""]
    if unseen.blind_intervals:
        lines += markdown_table(
            ("partition", "from", "to", "messages gone", "never judged", "found out"),
            [
                (
                    f"{escaped(each.topic)} {each.partition}",
                    _instant(each.since),
                    _instant(each.until),
                    f"{each.messages}",
                    f"{each.unjudged}",
                    _instant(each.found_at),
                )
                for each in unseen.blind_intervals
            ],
        )
    else:
        lines += ["None is known: no message of the events was gone before it was judged.", ""]
    lines += ["### How far it is judged", ""]
    lines += markdown_table(
        ("partition", "judged to", "messages that wait"),
        [
            (
                f"{each.partition}",
                "never" if each.waiting is None else "the end" if each.to is None else _instant(each.to),
                "all" if each.waiting is None else f"{each.waiting}",
            )
            for each in unseen.judged
        ],
    )
    lines += ["### Times without a tick", ""]
    if unseen.silences is None:
        lines += ["Not looked for.", ""]
    elif unseen.silences:
        lines += [
            "Nothing proves that a partition was watched then. What reached it meanwhile is judged by its next owner.",
            "",
            *markdown_table(
                ("partition", "from", "to", "lasted"),
                [
                    (f"{each.partition}", _instant(each.since), _instant(each.until), _span(each.lasted_s))
                    for each in unseen.silences
                ],
            ),
        ]
        if unseen.silences_left_out:
            lines += [f"{unseen.silences_left_out} shorter ones are left out.", ""]
    else:
        lines += ["None longer than a minute, in what the topic holds.", ""]
    lines += ["### What could not be read", ""]
    if unseen.set_aside:
        lines += markdown_table(
            ("why", "entries", "first", "last"),
            [
                (escaped(one.reason), f"{one.count}", _instant(one.first), _instant(one.last))
                for one in unseen.set_aside
            ],
        )
    else:
        lines += ["Nothing was set aside, in what the topic holds.", ""]
    if unseen.lacks:
        lines += ["### What undetermined recordings lack", ""]
        lines += markdown_table(
            ("missing", "recordings"), [(escaped(one.missing), f"{one.recordings}") for one in unseen.lacks]
        )
    lines += ["### Types of events that never came", ""]
    if unseen.missing_types is None:
        lines += ["Not looked for.", ""]
    elif unseen.missing_types:
        lines += markdown_table(
            ("type", "without it"),
            [
                (one.type, one.blind if one.required else f"{one.blind} (Verdicts are right all the same.)")
                for one in unseen.missing_types
            ],
        )
    else:
        lines += ["Every type that the monitor reads came.", ""]
    return lines


def _exceptions(report: Report) -> list[str]:
    rules, accepted = report.exceptions.rules, report.exceptions.accepted
    lines = ["## Exceptions", ""]
    if rules:
        lines += markdown_table(
            ("rule that expires", "on", "recordings it allowed", "policy"),
            [(escaped(one.rule), _instant(one.expires), f"{one.recordings}", f"`{one.policy}`") for one in rules],
        )
    if accepted:
        lines += markdown_table(
            ("case that is accepted", "account", "until", "said at", "by"),
            [
                (
                    one.sid,
                    escaped(one.account),
                    escaped(one.until or "-"),
                    _instant(one.at),
                    escaped(one.by or "not shown"),
                )
                for one in accepted
            ],
        )
    return lines if rules or accepted else [*lines, "No rule of a policy at hand expires, and no case is accepted.", ""]


def _rests_on(report: Report) -> list[str]:
    return [
        "## What this rests on",
        "",
        *markdown_table(
            ("topic", "messages read", "holds"),
            [
                (
                    escaped(one.topic),
                    f"{one.messages}",
                    "all that was written and still holds"
                    if one.held_since is None
                    else f"what came since {_instant(one.held_since)}",
                )
                for one in report.topics
            ],
        ),
        "Each line can be checked: `recording-monitor case show SID` shows a verdict with its evidence,",
        "`recording-monitor policy explain SID` asks the policy again rule by rule, and the JSON form of this report",
        "names the events of Twilio's that each case rests on.",
        "",
    ]


# --------------------------------------------------------------------------- small answers


def _listing(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _instant(instant: str | None) -> str:
    """To the second."""
    return "not known" if instant is None else f"{instant[:10]} {instant[11:19]}Z"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _share(ratio: float) -> str:
    """Never rounded up to all of it."""
    return f"{int(ratio * 10_000) / 100:.2f} %"


def _spread(spread: Spread) -> tuple[str, ...]:
    spans = (spread.p50_s, spread.p99_s, spread.max_s)
    return f"{spread.count}", *("-" if seconds is None else _span(seconds) for seconds in spans)


def _origin(of: ReportedCase | Origin) -> str:
    if of.widget is not None:
        return f"flow {of.flow_sid or 'not known any more'}, widget {escaped(of.widget)}"
    return "-" if of.starter is None else f"starter {escaped(of.starter)}"


def _handling(handling: Handling) -> str:
    said = []
    if handling.acknowledged_at is not None:
        said.append(f"acknowledged {_instant(handling.acknowledged_at)}")
    if handling.explained is not None:
        until = f" until {escaped(handling.accepted_until or '-')}" if handling.explained == ACCEPTED else ""
        said.append(escaped(handling.explained) + until)
    if handling.closed_at is not None:
        said.append(f"closed {_instant(handling.closed_at)}")
    if handling.comments:
        said.append(f"comments: {handling.comments}")
    if handling.by:
        said.append(f"by {_listing(map(escaped, handling.by))}")
    return "; ".join(said) or "nothing"
