"""What a dashboard is to us, and the form in which Grafana wants it.

A panel is a line of data in `compliance.py` or `health.py`: what it shows, what to do when it is red, and its queries.
Everything else (places, numbers, units, links) follows here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

RUNBOOKS: Final = "https://runbooks.example.com/recording-monitor"

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
WIDTH: Final = 24
STAT_HEIGHT, GRAPH_HEIGHT = 5, 8


class Query(NamedTuple):
    """One line of a panel: what Prometheus is asked, and how it is called there."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel. ``steps`` are its colours, each from a value on; a graph shows them as lines."""

    title: str
    shows: str
    when_red: str
    queries: Sequence[Query]
    unit: str = "short"
    runbook: str = "README"
    kind: str = "timeseries"
    width: int = 8
    steps: Sequence[tuple[float, str]] = ()
    stacked: bool = False
    decimals: int | None = None


class Row(NamedTuple):
    """A heading, and the panels below it from left to right."""

    title: str
    panels: Sequence[Panel]


class Annotation(NamedTuple):
    """A mark in every graph: instants, in milliseconds since 1970, are the values of ``expr``."""

    name: str
    expr: str
    text: str


class Dashboard(NamedTuple):
    """One dashboard; its ``uid`` is part of its address, to which alerts link."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    annotations: Sequence[Annotation]
    refresh: str
    since: str


def quantiles_of(histogram: str, span: str, *quantiles: float) -> list[Query]:
    """Below which values so many of what a histogram counted over a span are."""
    return [
        Query(
            f"histogram_quantile({quantile}, sum by (le) (rate({histogram}_bucket[{span}])))", f"{quantile * 100:g} %"
        )
        for quantile in quantiles
    ]


# ---- Grafana's own form ----------------------------------------------------------------------------------------------

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana reads it: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/."""
    variables = [_source_variable()]
    if "$account" in repr(dashboard.rows):
        variables.append(_label_variable("account", "recording_monitor_recordings_total"))
        variables.append(_label_variable("rule", "recording_monitor_disallowed_recordings_total"))
    return _json(
        {
            "uid": dashboard.uid,
            "title": dashboard.title,
            "description": dashboard.description,
            "tags": ["recording-monitor"],
            "editable": False,
            "graphTooltip": 1,
            "refresh": dashboard.refresh,
            "schemaVersion": 39,
            "time": {"from": dashboard.since, "to": "now"},
            "timezone": "",
            "version": 1,
            "annotations": {
                "list": [_annotation(one) for one in dashboard.annotations],
            },
            "links": [
                {
                    "title": "Recording Monitor",
                    "type": "dashboards",
                    "tags": ["recording-monitor"],
                    "keepTime": True,
                    "includeVars": True,
                }
            ],
            "panels": list(_panels(dashboard.rows)),
            "templating": {"list": variables},
        }
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _panels(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Every panel at its place: left to right, and below whatever is tallest where the width is used up."""
    number, top = 1, 0
    for row in rows:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        number, top = number + 1, top + 1
        left, tallest = 0, 0
        for panel in row.panels:
            height = STAT_HEIGHT if panel.kind == "stat" else GRAPH_HEIGHT
            if left + panel.width > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            yield _panel(panel, number, {"h": height, "w": panel.width, "x": left, "y": top})
            number, left, tallest = number + 1, left + panel.width, max(tallest, height)
        top += tallest


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps = [
        {"color": color, "value": None if index == 0 else value} for index, (value, color) in enumerate(panel.steps)
    ]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps or [{"color": BLUE, "value": None}]},
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }
        defaults["min"] = 0
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": f"{panel.shows}\n\n**When it is red:** {panel.when_red}",
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
        "targets": [_target(panel, index, query) for index, query in enumerate(panel.queries)],
        "links": [{"title": "Runbook", "url": f"{RUNBOOKS}/{panel.runbook}.md", "targetBlank": True}],
    } | _transformed(panel.kind)


def _target(panel: Panel, index: int, query: Query) -> dict[str, Any]:
    target: dict[str, Any] = {
        "refId": chr(ord("A") + index),
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "range": panel.kind == "timeseries",
        "instant": panel.kind != "timeseries",
        "exemplar": "_bucket" in query.expr,  # A dot in the graph, which leads to the case.
    }
    return target | ({"format": "table"} if panel.kind == "table" else {})


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {
            "colorMode": "background",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    if kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def _transformed(kind: str) -> dict[str, Any]:
    if kind != "table":
        return {}
    return {"transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]}


def _annotation(annotation: Annotation) -> dict[str, Any]:
    return {
        "name": annotation.name,
        "datasource": SOURCE,
        "enable": True,
        "expr": annotation.expr,
        "iconColor": BLUE,
        "titleFormat": annotation.name,
        "textFormat": annotation.text,
        "useValueForTime": "on",
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _label_variable(label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }
