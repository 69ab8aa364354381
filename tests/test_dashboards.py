"""The dashboards in deploy/grafana are those the code makes, and ask for what exists, in words Prometheus knows."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.grafana.__main__ import DASHBOARDS, DIRECTORY
from deploy.grafana.grafana import WIDTH, render
from tests.test_prometheus_rules import ALERTS, RECORDED, exported

GRAFANA = DIRECTORY.parent
RUNBOOKS = GRAFANA.parent / "runbooks"
SHIPPED = {path.stem: json.loads(path.read_bytes()) for path in sorted(DIRECTORY.glob("*.json"))}
PANELS = [
    pytest.param(panel, id=f"{uid.removeprefix('recording-monitor-')}: {panel['title']}")
    for uid, dashboard in SHIPPED.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$account": ".*", "$rule": ".*"}


def queries(dashboard) -> list[str]:
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return asked + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


QUERIES = {query for dashboard in SHIPPED.values() for query in queries(dashboard)}


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:recording_monitor|process|python)_\w+", query))


def test_the_files_are_those_that_the_code_makes():
    assert set(SHIPPED) == {dashboard.uid for dashboard in DASHBOARDS}
    for dashboard in DASHBOARDS:
        written = (DIRECTORY / f"{dashboard.uid}.json").read_text(encoding="utf-8")
        assert written == render(dashboard), "run `make dashboards`, and review the difference"


def test_every_metric_a_dashboard_asks_for_is_exported():
    asked = {name for query in QUERIES for name in names_in(query)}
    assert asked - exported() == set()
    assert {name for query in QUERIES for name in re.findall(r"recording_monitor:[\w:]+", query)} <= RECORDED


def test_every_query_is_understood_by_prometheus(promtool, tmp_path):
    rules = []
    for number, query in enumerate(sorted(QUERIES)):
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        assert "$" not in query
        rules.append({"record": f"dashboard:query:{number}", "expr": query})
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(QUERIES)} rules found" in done.stdout


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_what_to_do(panel):
    shows, _, when_red = panel["description"].partition("\n\n**When it is red:** ")
    assert re.fullmatch(r"[A-Z`0-9].*[.?]", shows)
    assert when_red.endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    [link] = panel["links"]
    name = re.fullmatch(r"https://runbooks\.example\.com/recording-monitor/([\w-]+\.md)", link["url"])
    assert name is not None
    assert (RUNBOOKS / name[1]).is_file()


@pytest.mark.parametrize("dashboard", SHIPPED.values(), ids=SHIPPED)
def test_panels_have_a_number_and_a_place_of_their_own(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert columns.stop <= WIDTH
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        refs = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(refs)) == len(refs)


@pytest.mark.parametrize("dashboard", SHIPPED.values(), ids=SHIPPED)
def test_every_variable_is_defined_and_used(dashboard):
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps([dashboard["panels"], dashboard["annotations"]])
    used = {name for name in re.findall(r"\$\{?([A-Za-z]\w*)", text) if not name.startswith("__")}
    assert used == defined


def test_alerts_lead_to_dashboards_that_exist():
    linked = {rule["annotations"]["dashboard_url"].rpartition("/")[2] for rule in ALERTS.values()}
    assert linked == set(SHIPPED)


def provisioned(kind: str):
    [path] = (GRAFANA / "provisioning" / kind).glob("*.yaml")
    return path.read_text(encoding="utf-8")


def test_grafana_is_told_where_to_ask_and_which_dashboards_there_are():
    sources = yaml.safe_load(provisioned("datasources"))["datasources"]
    assert {(source["uid"], source["type"]) for source in sources} == {
        ("recording-monitor-prometheus", "prometheus"),
        ("recording-monitor-alertmanager", "alertmanager"),
    }
    assert [source["name"] for source in sources if source.get("isDefault")] == ["Prometheus"]
    [provider] = yaml.safe_load(provisioned("dashboards"))["providers"]
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]).is_absolute()


@pytest.mark.parametrize("kind", ["datasources", "dashboards"])
def test_grafana_replaces_nothing_in_what_provisions_it(kind):
    assert re.findall(r"(?<!\$)\$(?!\$)", provisioned(kind)) == []
