"""``make screenshots``: the pictures of the pages under ``docs/pages``, of a simulated afternoon in a real browser."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from monitor.outputs.cases import Wanted
from tests.browser import DESKTOP, PHONE, Browser, missing_browser
from tests.pages import Served, simulated

OUT: Final = Path(__file__).parent.parent / "docs" / "pages"


def main() -> int:
    missing = missing_browser()
    if missing is not None:
        print(f"No pictures can be made: {missing}", file=sys.stderr)
        return 3
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        cases = simulated(Path(directory), actions=True)
        key = cases.view.page(Wanted(cause="conference_twiml", open=True), cases.now_ms)[0].key
        with Served(cases) as served, Browser() as browser:
            for name, path, size in (
                ("overview", "/", DESKTOP),
                ("case", f"/cases/{key}", DESKTOP),
                ("case-telephone", f"/cases/{key}", PHONE),
            ):
                browser.resize(size)
                browser.open(served.url + path)
                browser.picture(OUT / f"{name}.png", height=1_400)
    return 0


if __name__ == "__main__":
    sys.exit(main())
