"""``policy check``: is this policy sound, and what does it say in words. ``policy explain``: why this verdict."""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.commands.common import ConfigOption, PolicyOption, read_policy, read_settings, tuning_of
from monitor.commands.failure import EXIT_BUG
from monitor.commands.replay import Arrival, Replay, render_line, say_not_judged
from monitor.commands.stretch import SinceOption, UntilOption, stretch_of, wrong_usage
from monitor.core.attribution import Attribution
from monitor.core.pipeline import NotJudged, Publish, Told
from monitor.core.policy import (
    CONDITIONS,
    RULE_DEFAULT,
    SHADOW,
    Answer,
    Judgement,
    Policy,
    RuleDocument,
    Subject,
    Values,
    severity_of,
)
from monitor.core.verdict import Verdict
from monitor.inputs.files import Files
from monitor.inputs.policy_file import PolicyError, Problem, load_policy
from monitor.outputs.policy_text import describe

EXIT_NO: Final = 1
EXIT_WRONG: Final = 2

_SID: Final = re.compile(r"(?:RE|CF)[0-9A-Za-z]+")
_ANSWERS: Final[dict[bool | None, str]] = {True: "true", False: "false", None: "open"}


class Format(enum.StrEnum):
    """How a command prints what it found."""

    TEXT = "text"
    JSON = "json"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``check`` found in one file; ``name``, ``mode`` and ``hash`` are None where the file cannot be used."""

    path: str
    ok: bool
    name: str | None = None
    mode: str | None = None
    hash: str | None = None
    default: str | None = None
    when_open: str | None = None
    rules: tuple[dict[str, Any], ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Policy files.", show_default=False)],
    format_: Annotated[Format, typer.Option("--format", help="How to print what was found.")] = Format.TEXT,
) -> None:
    """Say what is wrong with policies, or what they say in words.

    Exit code 0: all can be used, perhaps with warnings; 2: at least one can't.

    Example: recording-monitor policy check policy.yaml
    """
    reports = [check_file(path, now=datetime.now(UTC)) for path in files]
    if format_ is Format.JSON:
        for report in reports:
            sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        for report in reports:
            print_report(report, Console(highlight=False), Console(stderr=True, highlight=False))
    if not all(report.ok for report in reports):
        raise typer.Exit(EXIT_WRONG)


def check_file(path: Path, *, now: datetime) -> Report:
    """Check one policy file. ``now`` tells which rules have expired."""
    try:
        loaded = load_policy(path, now=now)
    except PolicyError as error:
        return Report(path=str(path), ok=False, problems=error.problems, warnings=error.warnings)
    policy = loaded.policy
    return Report(
        path=str(path),
        ok=True,
        name=policy.name,
        mode=policy.mode,
        hash=policy.hash,
        default=policy.default,
        when_open=policy.when_open,
        rules=tuple(_rule_words(rule.document, rule.judgement.severity) for rule in policy.rules),
        warnings=loaded.warnings,
    )


def _rule_words(rule: RuleDocument, severity: str | None) -> dict[str, Any]:
    return {
        "name": rule.name,
        "outcome": rule.outcome,
        "severity": severity,
        "mode": rule.mode,
        "when": describe(rule),
    }


def print_report(report: Report, out: Console, err: Console) -> None:
    """Print what was found: what is wrong and doubtful as a line each on ``err``, the policy in words on ``out``."""
    for problem in report.problems:
        err.print(Text(str(problem)), soft_wrap=True)
    for warning in report.warnings:
        err.print(Text(f"warning: {warning}"), soft_wrap=True)
    if not report.ok:
        count = len(report.problems)
        err.print(Text(f"{report.path}: {count} problem{'s' if count > 1 else ''}; this policy can't be used"))
        return
    warned = f", {len(report.warnings)} warning{'s' if len(report.warnings) > 1 else ''}" if report.warnings else ""
    out.print(Text(f"{report.path}: OK{warned}"), soft_wrap=True)
    out.print(Text(f"policy {report.name}, mode {report.mode}, {report.hash}"), soft_wrap=True)
    table = Table()
    for column in ("rule", "outcome", "severity", "when"):
        table.add_column(column, overflow="fold", no_wrap=column == "rule")  # A name is there to be copied.
    for rule in report.rules:
        shadow = " (shadow)" if rule["mode"] == SHADOW else ""
        cells = (rule["name"] + shadow, rule["outcome"], rule["severity"] or "", rule["when"])
        table.add_row(*map(Text, cells))
    for name, outcome, when in (
        ("default", report.default or "", "what no rule settles"),
        ("when_open", report.when_open or "", "what is still open at the end"),
    ):
        table.add_row(*map(Text, (name, outcome, severity_of(outcome) or "", when)))
    out.print(table)


# --- explain ----------------------------------------------------------------------------------------------------------


class Explanation(msgspec.Struct, frozen=True):
    """Why a recording was judged as it was: what the policy saw of it, what each rule said, and what came of it.

    ``judgement`` is the policy's own; where it is open at the end, the verdict is what ``when_open`` says.
    """

    subject: Subject
    judgement: Judgement
    answers: tuple[Answer, ...]


def explanation(policy: Policy, subject: Subject) -> Explanation:
    """Ask every rule of a policy about a recording."""
    return Explanation(subject, policy.judge(subject), policy.explain(subject))


def explain(
    sids: Annotated[
        list[str],
        typer.Argument(metavar="SID…", help="Recordings (RE…) or suspected conferences (CF…).", show_default=False),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A file with events, in place of the topic; may be given several times. - reads stdin.",
        ),
    ] = None,
    config: ConfigOption = None,
    policy: PolicyOption = None,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    end: Annotated[
        bool | None,
        typer.Option(
            "--end/--no-end",
            help="Take time past every window at the end, as for files; or leave them as they are, as for the topic.",
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.TEXT,
) -> None:
    """Say why a recording got its verdict: rule by rule and condition by condition, with what was open.

    The events of its conversation are judged again, by the policy named or by that of the settings: those that are in
    the topic, or those of files. Exit code 1: one of the recordings is not there.

    Examples:
      recording-monitor policy explain RE…

      recording-monitor policy explain RE… --from events.jsonl --policy policy.yaml
    """
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    if not all(map(_SID.fullmatch, sids)):
        err.print(
            Text("that is not the SID of a recording or conference. Give --from before each file"), soft_wrap=True
        )
        raise typer.Exit(EXIT_WRONG)
    if files and (since is not None or until is not None):
        raise wrong_usage("--since" if until is None else "--until", "is for the topic: a file is read whole")
    settings = read_settings(config, secrets=not files)
    judging = read_policy(settings, policy).policy
    explained: dict[str, Explanation] = {}

    def watch(attribution: Attribution, subject: Subject) -> None:
        if attribution.recording_sid in sids:
            explained[attribution.recording_sid] = explanation(judging, subject)

    verdicts: dict[str, Verdict] = {}
    if files:
        where = "files"
        job = Replay(tuning_of(settings), judging, watch=watch)
        _last_verdicts(job.run(Files(files), end=end is not False), sids, verdicts)
    else:
        where = "topic"
        job = Replay(tuning_of(settings), judging, arrival=Arrival.TIME, watch=watch)
        with stretch_of(settings, sids, since=since, until=until) as stretch:
            _last_verdicts(job.run(stretch, end=end is True), sids, verdicts)
    missing = [sid for sid in sids if sid not in verdicts and sid not in explained]
    for sid in sids:
        if sid in missing:
            err.print(Text(f"{sid}: not in the {where}"), soft_wrap=True)
        elif format_ is Format.JSON:
            answer = _as_json(sid, verdicts.get(sid), explained.get(sid))
            sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        else:
            _print_explanation(verdicts.get(sid), explained.get(sid), out)
    if job.counts().not_judged:
        raise typer.Exit(EXIT_BUG)
    if missing:
        raise typer.Exit(EXIT_NO)


def _last_verdicts(told: Iterable[Told], sids: Sequence[str], verdicts: dict[str, Verdict]) -> None:
    """Note the last verdict of each of ``sids``."""
    for each in told:
        if isinstance(each, NotJudged):
            say_not_judged(each)
        if isinstance(each, Publish) and each.key in sids:
            if each.verdict is None:
                verdicts.pop(each.key, None)
            else:
                verdicts[each.key] = each.verdict


def _as_json(sid: str, verdict: Verdict | None, explained: Explanation | None) -> dict[str, Any]:
    rules = [
        {
            "rule": answer.rule,
            "outcome": answer.outcome,
            "mode": answer.mode,
            "answer": _ANSWERS[answer.answer],
            "conditions": {name: _ANSWERS[one] for name, one in answer.conditions},
        }
        for answer in (explained.answers if explained else ())
    ]
    return {
        "sid": sid,
        "verdict": verdict,
        "outcome": explained.judgement.outcome if explained else None,
        "rule": explained.judgement.rule if explained else None,
        "rules": rules,
    }


def _print_explanation(verdict: Verdict | None, explained: Explanation | None, out: Console) -> None:
    if verdict is None:
        out.print(Text("no verdict: it is open, or it started too long before it was first seen"), soft_wrap=True)
    else:
        out.print(Text(render_line(verdict)), soft_wrap=True)
        if verdict.missing:
            out.print(Text(f"missing: {', '.join(verdict.missing)}"), soft_wrap=True)
    if explained is None:
        out.print(Text("a suspicion: no recording of this conference was seen, so no rule was asked"), soft_wrap=True)
        return
    table = Table()
    for column in ("rule", "if true", "is", "conditions"):
        table.add_column(column, overflow="fold", no_wrap=column == "rule")  # A name is there to be copied.
    for answer in explained.answers:
        mode = " (shadow)" if answer.mode == SHADOW else ""
        conditions = "\n".join(_answer_words(name, explained.subject, answer=one) for name, one in answer.conditions)
        table.add_row(*map(Text, (answer.rule + mode, answer.outcome, _ANSWERS[answer.answer], conditions or "none")))
    out.print(table)
    out.print(Text(_decision_words(explained.judgement)), soft_wrap=True)


def _answer_words(name: str, subject: Subject, *, answer: bool | None) -> str:
    """Say what became of one condition; of closed words, SIDs and aliases also what the recording has."""
    words = f"{name}: {_ANSWERS[answer]}"
    condition = CONDITIONS.get(name)
    if condition is None:
        return words
    values: Values = condition.read(subject)
    if condition.words or condition.usual or condition.always:
        known = " or ".join(values.known) or "none"
    else:
        known = f"{len(values.known)} known" if values.known else "none"
    return f"{words} ({known}{'' if values.complete else ' yet'})"


def _decision_words(judgement: Judgement) -> str:
    if judgement.outcome is None:
        return "A rule that is open could still change the outcome; at the end when_open says what becomes of it."
    if judgement.rule == RULE_DEFAULT:
        return f"No rule can change it any more: default, {judgement.outcome}."
    return f"Rule {judgement.rule!r} decides: {judgement.outcome}."
