"""The dashboard Compliance: which recordings are as the policy expects, which are not, and how soon that was known."""

from __future__ import annotations

from typing import Final

from deploy.grafana.grafana import GREEN, RED, YELLOW, Annotation, Dashboard, Panel, Query, Row, quantiles_of

TARGET: Final = 0.99
"""The share of recordings that are to be as the policy expects. Yours is another? `make dashboards` afterwards."""

OF = 'account=~"$account"'
OF_RULE = 'account=~"$account",rule=~"$rule"'


def _share(span: str) -> str:
    """The share of recordings that are neither disallowed nor undetermined, over a span."""
    wrong = (
        f"sum(increase(recording_monitor_disallowed_recordings_total{{{OF}}}[{span}]))"
        f' + sum(increase(recording_monitor_recordings_total{{{OF},outcome="undetermined"}}[{span}]))'
    )
    return f"clamp_min(1 - ({wrong}) / sum(increase(recording_monitor_recordings_total{{{OF}}}[{span}])), 0)"


COMPLIANCE: Final = Dashboard(
    uid="recording-monitor-compliance",
    title="Recording Monitor: compliance",
    description="Which recordings are as the policy expects, which are not, and how soon that was known.",
    refresh="30s",
    since="now-24h",
    annotations=[
        Annotation(
            "Flex call recording changed",
            f"recording_monitor_flex_call_recording_changed_timestamp_seconds{{{OF}}} * 1000",
            "Flex call recording of {{account}} was switched on or off",
        )
    ],
    rows=[
        Row(
            "Now",
            [
                Panel(
                    "As expected",
                    "The share of recordings within the time chosen that the policy allows; the target is"
                    f" {TARGET:.0%}. Disallowed counts against it, and so does undetermined.",
                    "look below which account and rule the others are of, then open the cases.",
                    [Query(_share("$__range"))],
                    "percentunit",
                    "DisallowedRecording",
                    "stat",
                    4,
                    [(0, RED), (TARGET - 0.01, YELLOW), (TARGET, GREEN)],
                    decimals=2,
                ),
                Panel(
                    "Live now, not allowed",
                    "Recordings that are under way at this moment and are not allowed.",
                    "somebody is being recorded who should not be: stop it as the runbook of its cause says.",
                    [Query(f'sum(recording_monitor_recordings_in_progress{{{OF},outcome="disallowed"}})')],
                    "short",
                    "DisallowedRecording",
                    "stat",
                    4,
                    [(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Open cases, critical",
                    "Recordings whose alert is not over: still recording, or ended less than the hold ago.",
                    "somebody was paged. The page, or `recording-monitor policy explain`, says what started it.",
                    [Query(f'sum(recording_monitor:open_cases:max{{{OF_RULE},severity="critical"}})')],
                    "short",
                    "DisallowedRecording",
                    "stat",
                    4,
                    [(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Verdicts within 5 s",
                    "The share of the last hour's verdicts that were there within 5 s of the message that decided.",
                    "pages come late: see log time, lag and the brokers on the health dashboard.",
                    [Query("1 - recording_monitor:detection_slow:ratio_rate1h")],
                    "percentunit",
                    "RecordingMonitorDetectionSlow",
                    "stat",
                    4,
                    [(0, RED), (0.95, YELLOW), (0.99, GREEN)],
                    decimals=2,
                ),
                Panel(
                    "Undetermined",
                    "The share of recordings within the time chosen that could not be judged for want of evidence.",
                    "events are missing: which, the cases say under *missing*.",
                    [
                        Query(
                            f'sum(increase(recording_monitor_recordings_total{{{OF},outcome="undetermined"}}[$__range]))'
                            f" / sum(increase(recording_monitor_recordings_total{{{OF}}}[$__range]))"
                        )
                    ],
                    "percentunit",
                    "RecordingMonitorUndetermined",
                    "stat",
                    4,
                    [(0, GREEN), (0.01, YELLOW), (0.05, RED)],
                    decimals=2,
                ),
                Panel(
                    "Coverage",
                    "The share of the recordings Twilio lists that the stream told of: would we have seen one? Nothing"
                    " where Twilio cannot be asked about one of the accounts.",
                    "events do not reach us: `recording-monitor twilio check` says what is not subscribed.",
                    [
                        Query(
                            f"min(recording_monitor_coverage_ratio{{{OF}}})"
                            f" unless on () (min(recording_monitor_coverage_known{{{OF}}}) == 0)"
                        )
                    ],
                    "percentunit",
                    "RecordingMonitorCoverageGap",
                    "stat",
                    4,
                    [(0, RED), (0.99, YELLOW), (0.999, GREEN)],
                    decimals=2,
                ),
            ],
        ),
        Row(
            "Against the target",
            [
                Panel(
                    "As expected, over time",
                    "The share of recordings that the policy allows, hour by hour, and the target.",
                    "a step down is a change somebody made: compare its time with releases and with the marks of Flex.",
                    [Query(_share("1h"), "as expected"), Query(f"vector({TARGET})", "target")],
                    "percentunit",
                    "DisallowedRecording",
                    width=12,
                    steps=[(0, RED), (TARGET, GREEN)],
                ),
                Panel(
                    "Recordings by outcome",
                    "First verdicts a minute. What changed afterwards is on the right of the row below.",
                    "none at all where there are calls means that nothing is recorded, or that nothing reaches us.",
                    [
                        Query(
                            "60 * sum by (outcome) (rate("
                            f"recording_monitor_recordings_total{{{OF}}}[$__rate_interval]))",
                            "{{outcome}}",
                        )
                    ],
                    "short",
                    "DisallowedRecording",
                    width=12,
                    stacked=True,
                ),
            ],
        ),
        Row(
            "What is not allowed",
            [
                Panel(
                    "By account",
                    "Recordings that became disallowed, each once, an hour.",
                    "the account's owner knows what was changed there at the time of the step.",
                    [
                        Query(
                            "sum by (account) (increase("
                            f"recording_monitor_disallowed_recordings_total{{{OF_RULE}}}[1h]))",
                            "{{account}}",
                        )
                    ],
                    "short",
                    "DisallowedRecording",
                    stacked=True,
                ),
                Panel(
                    "By what started them",
                    "Recordings that became disallowed, an hour, by the policy's rule and Twilio's start source, which"
                    " is as near to the cause as a counter comes. The cause itself is in each case.",
                    "the runbook of the cause says how to end it; docs/causes.md tells which causes a source can have.",
                    [
                        Query(
                            "sum by (rule, start_source) (increase("
                            f"recording_monitor_disallowed_recordings_total{{{OF_RULE}}}[1h]))",
                            "{{rule}}, {{start_source}}",
                        )
                    ],
                    "short",
                    "DisallowedRecording",
                    stacked=True,
                ),
                Panel(
                    "Verdicts that changed",
                    "Verdicts that replaced another, an hour: what was known came to be known better.",
                    "many from disallowed to allowed: rules decide before their evidence is there. See docs/causes.md.",
                    [
                        Query(
                            "sum by (from, to) (increase(recording_monitor_verdict_revisions_total[1h])) > 0",
                            "{{from}} to {{to}}",
                        )
                    ],
                    "short",
                    "DisallowedRecording",
                ),
                Panel(
                    "Not allowed, in all",
                    "Every account, rule and start source with disallowed recordings within the time chosen.",
                    "begin with the first line.",
                    [
                        Query(
                            "sort_desc(sum by (account, rule, start_source) (increase("
                            f"recording_monitor_disallowed_recordings_total{{{OF_RULE}}}[$__range])) > 0)"
                        )
                    ],
                    "short",
                    "DisallowedRecording",
                    "table",
                    16,
                ),
                Panel(
                    "How long they ran",
                    "How long disallowed recordings went on, told once they have ended: half of them, nine of ten.",
                    "hours mean that nobody stops them when paged.",
                    quantiles_of("recording_monitor_disallowed_recording_duration_seconds", "6h", 0.5, 0.9),
                    "s",
                    "DisallowedRecording",
                ),
            ],
        ),
        Row(
            "How soon it was known",
            [
                Panel(
                    "Time to detect",
                    "From the arrival of the message that decided (or the end of the grace) to the written verdict.",
                    "more than 1 % over 5 s misses the objective: the health dashboard shows where the time goes.",
                    quantiles_of("recording_monitor_detection_latency_seconds", "$__rate_interval", 0.5, 0.95, 0.99),
                    "s",
                    "RecordingMonitorDetectionSlow",
                    width=12,
                    steps=[(0, GREEN), (5, RED)],
                ),
                Panel(
                    "Unseen at first",
                    "From the start of a recording to the first we saw of it. Callbacks asked for decide it.",
                    "a subscription that tells of recordings only when they have ended leaves them unseen till then.",
                    quantiles_of("recording_monitor_recording_unseen_seconds", "1h", 0.5, 0.95),
                    "s",
                    "sids-for-support",
                    width=12,
                ),
            ],
        ),
        Row(
            "Would we have seen one",
            [
                Panel(
                    "Coverage, over time",
                    "The share of the recordings Twilio lists that the stream told of, by account.",
                    "the account's subscription or its sink is broken: `recording-monitor twilio check`.",
                    [Query(f"min by (account) (recording_monitor_coverage_ratio{{{OF}}})", "{{account}}")],
                    "percentunit",
                    "RecordingMonitorCoverageGap",
                    steps=[(0, RED), (0.999, GREEN)],
                ),
                Panel(
                    "Listed and seen",
                    "Recordings of the last day that Twilio lists, and those of them that the stream told of.",
                    "the lower line is what we would have missed without asking.",
                    [
                        Query(f"sum(recording_monitor_listed_recordings{{{OF}}})", "listed by Twilio"),
                        Query(f"sum(recording_monitor_listed_recordings_seen{{{OF}}})", "told by the stream"),
                    ],
                    runbook="RecordingMonitorCoverageGap",
                ),
                Panel(
                    "Can be asked",
                    "1 where Twilio can be asked for an account's recordings: only there a gap would be noticed.",
                    "the account's token or key was refused, or Twilio is away.",
                    [Query(f"min by (account) (recording_monitor_coverage_known{{{OF}}})", "{{account}}")],
                    runbook="RecordingMonitorTwilioApiFailing",
                    steps=[(0, RED), (1, GREEN)],
                ),
                Panel(
                    "Found by asking alone",
                    "Recordings an hour that Twilio lists and the stream did not tell of; they are judged too.",
                    "each of them was told late, or never: the subscription lacks something.",
                    [
                        Query(
                            f"sum by (account) (increase(recording_monitor_recordings_missed_total{{{OF}}}[1h]))",
                            "{{account}}",
                        )
                    ],
                    runbook="RecordingMonitorCoverageGap",
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Flex call recording",
                    "1 where Flex call recording is on.",
                    "somebody switched it on: ask who, and see the marks for when.",
                    [Query(f"max by (account) (recording_monitor_flex_call_recording_enabled{{{OF}}})", "{{account}}")],
                    runbook="DisallowedRecording",
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Not as accepted",
                    "What in an account can start recordings and is not as in the audit that was accepted.",
                    "`recording-monitor audit` lists it: accept it, or undo it.",
                    [Query(f"sum by (account) (recording_monitor_audit_changes{{{OF}}})", "{{account}}")],
                    runbook="RecordingMonitorAuditDrift",
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Last audit",
                    "How long ago the account audited longest ago was audited whole.",
                    "what was changed since then is not known: the account cannot be read in full.",
                    [Query("time() - min(recording_monitor_audit_timestamp_seconds)", "last audit")],
                    "s",
                    "RecordingMonitorAuditStale",
                ),
            ],
        ),
    ],
)
