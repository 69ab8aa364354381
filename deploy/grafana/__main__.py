"""Writes the dashboards into `dashboards/`, from where Grafana takes them: `make dashboards`. A test compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deploy.grafana.compliance import COMPLIANCE
from deploy.grafana.grafana import render
from deploy.grafana.health import HEALTH

DIRECTORY: Final = Path(__file__).parent / "dashboards"
DASHBOARDS: Final = (COMPLIANCE, HEALTH)


def main() -> None:
    """Write both."""
    DIRECTORY.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (DIRECTORY / f"{dashboard.uid}.json").write_text(render(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
