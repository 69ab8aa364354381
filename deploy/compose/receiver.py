"""The demo's pager: takes what Alertmanager sends, prints it, and shows the newest hundred at http://localhost:8090.

Each receiver of `alertmanager.yml` is a path. Only the standard library, so that it runs in the monitor's own image.
"""

from __future__ import annotations

import html
import json
import sys
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY_MAX = 1 << 20
QUIET = ("dead-man-prometheus", "dead-man-monitor")  # They come every minute; their silence is what matters.

pages: deque[str] = deque(maxlen=100)


def told(receiver: str, body: dict[str, Any]) -> str:
    """A notification as lines: who is told, how many, and of each alert what it says."""
    lines = [f"{receiver}: {body['status']}, {len(body['alerts'])} alert(s)"]
    for alert in body["alerts"][:10]:
        labels, annotations = alert["labels"], alert["annotations"]
        lines.append(f"  {alert['status']} {labels.get('alertname')}: {annotations.get('summary', '')}")
        lines.extend(f"    {line}" for line in annotations.get("description", "").splitlines())
        lines.append(f"    {annotations.get('runbook_url', '')}")
    return "\n".join(lines)


class Handler(BaseHTTPRequestHandler):
    """POST is a notification; GET shows what came."""

    def do_POST(self) -> None:
        """Keep and print what Alertmanager says."""
        size = int(self.headers.get("Content-Length") or 0)
        if size > BODY_MAX:
            self.send_error(413)
            return
        try:
            text = told(self.path.lstrip("/"), json.loads(self.rfile.read(size)))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.send_error(400)
            return
        if self.path.lstrip("/") not in QUIET:
            pages.appendleft(text)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        self.answer("")

    def do_GET(self) -> None:
        """Show the newest first; every word is somebody else's, and so is escaped."""
        shown = "\n\n".join(pages) or "Nothing yet. The first page comes within a minute or two."
        self.answer(
            '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Pages</title>'
            f"<h1>What somebody would have been woken by</h1><pre>{html.escape(shown)}</pre>"
        )

    def answer(self, body: str) -> None:
        """200, and a page."""
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - The name is the base class's.
        """Say nothing of requests."""


def main(port: int = 8090) -> None:
    """Listen until stopped."""
    ThreadingHTTPServer(("", port), Handler).serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
