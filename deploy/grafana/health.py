"""The dashboard Health: whether everything that enters is read, judged and told, and in time."""

from __future__ import annotations

from typing import Final

from deploy.grafana.grafana import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row, quantiles_of

HEALTH: Final = Dashboard(
    uid="recording-monitor-health",
    title="Recording Monitor: health",
    description="Whether everything that enters is read, judged and told, and in time.",
    refresh="15s",
    since="now-3h",
    annotations=[],
    rows=[
        Row(
            "Now",
            [
                Panel(
                    "Processes",
                    "Processes of the monitor that Prometheus reaches.",
                    "no recording is judged. Start one; what happens meanwhile is in Kafka.",
                    [Query('sum(up{job="recording-monitor"})')],
                    runbook="RecordingMonitorDown",
                    kind="stat",
                    width=4,
                    steps=[(0, RED), (1, GREEN)],
                ),
                Panel(
                    "Ready",
                    "Processes that have restored everything they need.",
                    "`/-/ready` of the others says, a line each, what they wait for.",
                    [Query("sum(recording_monitor_ready)")],
                    runbook="RecordingMonitorDown",
                    kind="stat",
                    width=4,
                    steps=[(0, RED), (1, GREEN)],
                ),
                Panel(
                    "Alerts about the monitor",
                    "Alerts of Prometheus that fire now, without the two that always do.",
                    "each has a runbook; begin with those that are critical.",
                    [Query('count(ALERTS{alertname=~"RecordingMonitor.+",alertstate="firing"}) or vector(0)')],
                    kind="stat",
                    width=4,
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Behind",
                    "How old the log time of the partition furthest behind is. A tick moves it every 10 s.",
                    "verdicts and pages come as late as this says.",
                    [Query("time() - min(max by (partition) (recording_monitor_watermark_timestamp_seconds))")],
                    "s",
                    "RecordingMonitorBehind",
                    "stat",
                    4,
                    [(0, GREEN), (30, YELLOW), (120, RED)],
                ),
                Panel(
                    "Alert last accepted",
                    "How long ago an Alertmanager last took something from us; the heartbeat is sent every minute.",
                    "nobody would be paged by us; Prometheus' own rule takes over.",
                    [Query("time() - max(recording_monitor_alert_last_success_timestamp_seconds)")],
                    "s",
                    "RecordingMonitorAlertDeliveryFailing",
                    "stat",
                    4,
                    [(0, GREEN), (120, YELLOW), (180, RED)],
                ),
                Panel(
                    "Policy",
                    "Whether the policy file that is there now is the one in force, in the process worst off.",
                    "the file was refused: the log says which line; the last good policy is in force.",
                    [Query("min(recording_monitor_policy_last_reload_successful)")],
                    "bool_yes_no",
                    "RecordingMonitorPolicyReloadFailed",
                    "stat",
                    4,
                    [(0, RED), (1, GREEN)],
                ),
            ],
        ),
        Row(
            "Reading",
            [
                Panel(
                    "Lag",
                    "Messages that wait to be judged, by partition.",
                    "a line that only grows is a process that does not keep up, or does not read.",
                    [Query("max by (partition) (recording_monitor_kafka_lag_messages)", "partition {{partition}}")],
                    runbook="RecordingMonitorBehind",
                ),
                Panel(
                    "Log time",
                    "How old the log time of each partition is.",
                    "with lag, judging is behind; without, the tick is lost.",
                    [
                        Query(
                            "time() - max by (partition) (recording_monitor_watermark_timestamp_seconds)",
                            "partition {{partition}}",
                        )
                    ],
                    "s",
                    "RecordingMonitorBehind",
                    steps=[(0, GREEN), (120, RED)],
                ),
                Panel(
                    "Ticks",
                    "How long ago the newest tick that came back was sent: the proof of the way through Kafka.",
                    "what we write does not come back: topics, ACLs or a broker.",
                    [
                        Query(
                            "time() - max by (partition) (recording_monitor_tick_timestamp_seconds)",
                            "partition {{partition}}",
                        )
                    ],
                    "s",
                    "RecordingMonitorTickLost",
                    steps=[(0, GREEN), (180, RED)],
                ),
                Panel(
                    "Events by type",
                    "Events read, a second.",
                    "a type that ends where calls go on is a subscription that was changed.",
                    [Query("sum by (type) (rate(recording_monitor_events_total[$__rate_interval])) > 0", "{{type}}")],
                    "eps",
                    "RecordingMonitorNoEvents",
                    stacked=True,
                ),
                Panel(
                    "Entries that are no events",
                    "Ignored, malformed, duplicate and late entries, a second.",
                    "malformed: see the quarantine. Late: something holds messages back longer than the window.",
                    [Query("sum by (kind) (rate(recording_monitor_notices_total[$__rate_interval]))", "{{kind}}")],
                    "eps",
                    "RecordingMonitorMalformed",
                ),
                Panel(
                    "Entries unaccounted for",
                    "Entries less events less notices: always 0, for nothing is dropped silently.",
                    "a bug of the monitor: report it.",
                    [
                        Query(
                            "sum(recording_monitor_entries_total) - sum(recording_monitor_events_total)"
                            " - sum(recording_monitor_notices_total)",
                            "unaccounted for",
                        )
                    ],
                    runbook="RecordingMonitorMalformed",
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Age of events",
                    "From the occurrence of an event to its arrival in Kafka, 95 of 100, by type.",
                    "Twilio or the bridge is late; nothing of it is ours.",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (type, le) (rate("
                            "recording_monitor_event_age_seconds_bucket[$__rate_interval])))",
                            "{{type}}",
                        )
                    ],
                    "s",
                    "RecordingMonitorNoEvents",
                ),
                Panel(
                    "Set aside",
                    "Messages and entries that went to the quarantine topic, an hour, by reason.",
                    "`recording-monitor quarantine list` shows them. `core-error` is a bug of the monitor.",
                    [Query("sum by (reason) (increase(recording_monitor_quarantined_total[1h]))", "{{reason}}")],
                    runbook="RecordingMonitorQuarantineGrowing",
                    steps=[(0, GREEN), (10, RED)],
                ),
                Panel(
                    "Types nobody knows",
                    "Entries of types that the monitor does not know, an hour: a type that was renamed turns up here.",
                    "compare it with the types of which no more came since; report it.",
                    [Query("sum by (type) (increase(recording_monitor_unknown_events_total[1h]))", "{{type}}")],
                    runbook="RecordingMonitorTypeSilent",
                ),
                Panel(
                    "Loop",
                    "How long ago the Kafka loop of each process last turned.",
                    "it hangs: the process is alive and reads nothing. Its health asks for a restart.",
                    [
                        Query(
                            "time() - max by (instance) (recording_monitor_last_poll_timestamp_seconds)", "{{instance}}"
                        )
                    ],
                    "s",
                    "RecordingMonitorStalled",
                    steps=[(0, GREEN), (60, RED)],
                ),
                Panel(
                    "Newest event",
                    "How long ago the newest event of a type occurred.",
                    "longer than ever at this time of the week: see whether the sink still sends.",
                    [Query("time() - max by (type) (recording_monitor_last_event_timestamp_seconds)", "{{type}}")],
                    "s",
                    "RecordingMonitorNoEvents",
                ),
            ],
        ),
        Row(
            "Judging",
            [
                Panel(
                    "Time to detect",
                    "From the arrival of the message that decided to the acknowledged verdict.",
                    "lag above: too slow. No lag: the brokers acknowledge late.",
                    quantiles_of("recording_monitor_detection_latency_seconds", "$__rate_interval", 0.5, 0.99),
                    "s",
                    "RecordingMonitorDetectionSlow",
                    steps=[(0, GREEN), (5, RED)],
                ),
                Panel(
                    "Window",
                    "What the windows hold: open conversations and open recordings.",
                    "growing without end: events that close conversations are missing, and memory follows.",
                    [Query("sum by (kind) (recording_monitor_window_entries)", "{{kind}}")],
                    runbook="RecordingMonitorTruncated",
                ),
                Panel(
                    "Evidence let go",
                    "Conversations closed early or cut at a bound, an hour: what would be needed is not kept.",
                    "recordings in them are never allowed by elimination; find the call that ties everything together.",
                    [
                        Query('sum(increase(recording_monitor_window_closed_total{reason="cut"}[1h]))', "closed early"),
                        Query("sum(increase(recording_monitor_truncated_conversations_total[1h]))", "truncated"),
                    ],
                    runbook="RecordingMonitorTruncated",
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Not judged",
                    "Times judging a conversation failed, and recordings too old to be judged, an hour.",
                    "the first is a bug of the monitor: the log names the place. All else is judged.",
                    [
                        Query("sum(increase(recording_monitor_conversations_not_judged_total[1h]))", "failed"),
                        Query("sum(increase(recording_monitor_recordings_too_old_total[1h]))", "too old"),
                    ],
                    runbook="RecordingMonitorUndetermined",
                    steps=[(0, GREEN), (1, RED)],
                ),
            ],
        ),
        Row(
            "The group",
            [
                Panel(
                    "Partitions",
                    "Partitions of the events topic that each process owns.",
                    "fewer in all than the topic has: nobody judges the others.",
                    [Query("sum by (instance) (recording_monitor_kafka_assigned_partitions)", "{{instance}}")],
                    runbook="RecordingMonitorPartitionUnowned",
                    stacked=True,
                ),
                Panel(
                    "Rebalances",
                    "Changes of the assignment, in 10 min. A roll-out has one or two a process.",
                    "over and over: a process that is thrown out (memory, CPU, network) and comes back.",
                    [
                        Query(
                            "sum by (instance, event) (increase(recording_monitor_kafka_rebalances_total[10m]))",
                            "{{instance}} {{event}}",
                        )
                    ],
                    runbook="RecordingMonitorPartitionUnowned",
                ),
                Panel(
                    "Checkpoints",
                    "Commits a minute, by what became of them. Refused ones are normal while the assignment changes.",
                    "failed ones: a restart would read further back; nothing is lost.",
                    [Query("sum by (result) (rate(recording_monitor_offset_commits_total[5m])) * 60", "{{result}}")],
                    runbook="RecordingMonitorStalled",
                ),
                Panel(
                    "Last rebuild",
                    "How long each process took to rebuild its last partition.",
                    "minutes: set `snapshots.directory`, or shorten the window (docs/sizing.md).",
                    [Query("max by (instance) (recording_monitor_restore_duration_seconds)", "{{instance}}")],
                    "s",
                    "RecordingMonitorBehind",
                ),
                Panel(
                    "Blind or split",
                    "Takeovers that found messages gone, and accounts found in two partitions, an hour.",
                    "recordings may have been missed: the runbooks say which and what to do.",
                    [
                        Query("sum(increase(recording_monitor_blind_intervals_total[1h]))", "messages gone"),
                        Query("sum(increase(recording_monitor_account_splits_total[1h]))", "accounts split"),
                    ],
                    runbook="RecordingMonitorBlindInterval",
                    steps=[(0, GREEN), (1, RED)],
                ),
                Panel(
                    "Errors of Kafka's client",
                    "Errors the Kafka client reported, a minute, by kind.",
                    "`_all_brokers_down` and the like: the brokers, or the way to them.",
                    [
                        Query(
                            "sum by (kind) (rate(recording_monitor_kafka_errors_total[$__rate_interval])) * 60",
                            "{{kind}}",
                        )
                    ],
                    runbook="RecordingMonitorStalled",
                ),
            ],
        ),
        Row(
            "Paging",
            [
                Panel(
                    "Firing",
                    "Alerts that the monitor holds as firing, by name.",
                    "what fires is on the compliance dashboard; here it is only whether it can be told.",
                    [Query("max by (alertname) (recording_monitor_alerts_firing)", "{{alertname}}")],
                    runbook="DisallowedRecording",
                ),
                Panel(
                    "Alerts sent",
                    "Alerts sent, a minute, by Alertmanager and what became of them.",
                    "failed: that Alertmanager is away. Refused: the log says which alert and why.",
                    [
                        Query(
                            "sum by (alertmanager, result) (rate("
                            "recording_monitor_alert_sends_total[$__rate_interval])) * 60",
                            "{{alertmanager}} {{result}}",
                        )
                    ],
                    runbook="RecordingMonitorAlertDeliveryFailing",
                ),
                Panel(
                    "Answers of Alertmanager",
                    "How long 99 of 100 batches took to be answered.",
                    "after 5 s a batch counts as failed and is sent again.",
                    [
                        Query(
                            "histogram_quantile(0.99, sum by (alertmanager, le) (rate("
                            "recording_monitor_alert_send_duration_seconds_bucket[5m])))",
                            "{{alertmanager}}",
                        )
                    ],
                    "s",
                    "RecordingMonitorAlertDeliveryFailing",
                    steps=[(0, GREEN), (5, RED)],
                ),
                Panel(
                    "Case database on disk",
                    "1 where cases are kept on disk, 0 where the disk gave out and they are in memory.",
                    "judging and paging go on; free the disk before the next restart.",
                    [Query("min by (instance) (recording_monitor_case_database_on_disk)", "{{instance}}")],
                    runbook="RecordingMonitorCasesInMemory",
                    steps=[(0, RED), (1, GREEN)],
                ),
            ],
        ),
        Row(
            "The webhook bridge",
            [
                Panel(
                    "Requests",
                    "Requests of Twilio, a second, by what they came to.",
                    "`unverified`: a token was rotated without us. `forbidden` beside accepted ones is nobody's.",
                    [
                        Query(
                            "sum by (outcome) (rate(recording_monitor_ingest_requests_total[$__rate_interval])) > 0",
                            "{{outcome}}",
                        )
                    ],
                    "reqps",
                    "RecordingMonitorSignatureFailing",
                    stacked=True,
                ),
                Panel(
                    "Events taken",
                    "Events that the brokers have acknowledged to the bridge, a second.",
                    "none while requests come: Kafka is in the way, and Twilio repeats for four hours.",
                    [Query("sum(rate(recording_monitor_ingest_events_total[$__rate_interval]))", "events")],
                    "eps",
                    "RecordingMonitorNoEvents",
                ),
                Panel(
                    "Acknowledged within",
                    "From handing events to Kafka's client until all were acknowledged, 99 of 100 requests.",
                    "above 4 s they are answered 503, and Twilio sends them again.",
                    [
                        Query(
                            "histogram_quantile(0.99, sum by (le) (rate("
                            "recording_monitor_ingest_produce_duration_seconds_bucket[$__rate_interval])))",
                            "99 %",
                        )
                    ],
                    "s",
                    "RecordingMonitorSignatureFailing",
                    steps=[(0, GREEN), (4, RED)],
                ),
                Panel(
                    "Last valid signature",
                    "How long ago each bridge last had a request that was shown to be Twilio's.",
                    "with requests that are `unverified` beside it: a token was rotated without us.",
                    [
                        Query(
                            "time() - max by (instance) ("
                            "recording_monitor_ingest_last_valid_signature_timestamp_seconds > 0)",
                            "{{instance}}",
                        )
                    ],
                    "s",
                    "RecordingMonitorSignatureFailing",
                ),
                Panel(
                    "On their way",
                    "Requests not answered yet, and messages not acknowledged yet.",
                    "at their bounds (1,000 connections, 120,000 messages) the answer is 503.",
                    [
                        Query("sum(recording_monitor_ingest_in_flight_requests)", "requests"),
                        Query("sum(recording_monitor_ingest_in_flight_messages)", "messages"),
                    ],
                    runbook="RecordingMonitorNoEvents",
                ),
            ],
        ),
        Row(
            "Twilio's REST API",
            [
                Panel(
                    "Enrichment",
                    "What came of asking Twilio about recordings that are not allowed, an hour.",
                    "refused: the token may not ask. Dropped: too many at once; their verdicts know less.",
                    [
                        Query(
                            "sum by (result) (increase(recording_monitor_enrichments_total[1h]))",
                            "{{result}}",
                        )
                    ],
                    runbook="RecordingMonitorTwilioApiFailing",
                    width=12,
                ),
                Panel(
                    "Requests to Twilio",
                    "Requests, a minute, by Twilio's answer.",
                    "401: a token was rotated. 429: too many ask with this account. 5xx: status.twilio.com.",
                    [
                        Query(
                            "sum by (code) (rate(recording_monitor_twilio_requests_total[$__rate_interval])) * 60",
                            "{{code}}",
                        )
                    ],
                    stacked=True,
                    width=12,
                ),
                Panel(
                    "Answers of Twilio",
                    "How long 95 of 100 requests took, by API.",
                    "listings come late, and with them what they would have found.",
                    [
                        Query(
                            "histogram_quantile(0.95, sum by (api, le) (rate("
                            "recording_monitor_twilio_request_duration_seconds_bucket[5m])))",
                            "{{api}}",
                        )
                    ],
                    "s",
                    width=12,
                ),
                Panel(
                    "Last listing",
                    "How long ago the recordings of an account were last listed to the end.",
                    "what the stream did not tell of is not found.",
                    [Query("time() - min by (account) (recording_monitor_listing_timestamp_seconds)", "{{account}}")],
                    "s",
                    "RecordingMonitorTwilioApiFailing",
                    width=12,
                ),
            ],
        ),
        Row(
            "The processes",
            [
                Panel(
                    "Processor",
                    "Cores in use, by process. One process is one core.",
                    "at 1 it does not keep up: see lag, then docs/scaling-out.md.",
                    [Query('rate(process_cpu_seconds_total{job=~"recording-monitor.*"}[5m])', "{{instance}}")],
                    runbook="RecordingMonitorBehind",
                    steps=[(0, GREEN), (0.9, RED)],
                ),
                Panel(
                    "Memory",
                    "Resident memory, by process.",
                    "near its limit the kernel kills it, and another one reads its window: see docs/sizing.md.",
                    [Query('process_resident_memory_bytes{job=~"recording-monitor.*"}', "{{instance}}")],
                    "bytes",
                    "RecordingMonitorDown",
                ),
                Panel(
                    "Warnings and errors logged",
                    "Lines logged, a minute, of the levels that somebody should read.",
                    "read them: each says what to do.",
                    [
                        Query(
                            'sum by (level) (rate(recording_monitor_log_messages_total{level=~"warning|error|critical"}'
                            "[$__rate_interval])) * 60",
                            "{{level}}",
                        )
                    ],
                    runbook="sids-for-support",
                ),
                Panel(
                    "What runs",
                    "Version, commit and Python of every process.",
                    "more than one version outside a roll-out: one process was left behind.",
                    [Query("sum by (instance, version, revision, python) (recording_monitor_build_info)")],
                    runbook="RecordingMonitorProcessDown",
                    kind="table",
                    width=16,
                ),
                Panel(
                    "Folded into other",
                    "Times a bound of the metrics was reached, an hour; accounts without an alias count too.",
                    "name the account in the settings; the verdicts themselves are whole.",
                    [
                        Query("sum(increase(recording_monitor_series_overflow_total[1h]))", "beyond a bound"),
                        Query("sum(increase(recording_monitor_account_overflow_total[1h]))", "accounts not named"),
                    ],
                    runbook="sids-for-support",
                ),
            ],
        ),
    ],
)
