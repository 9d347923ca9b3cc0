"""The page of a run, served to this machine while the run is going on or after it was killed."""

import json
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tiny_math_solver.report import page, page_data
from tiny_math_solver.support.local_server import LocalServer, Response

RECORDS = ("metrics.jsonl", "rollouts.jsonl", "events.jsonl", "summary.json", "eval")


class Watch:
    """Serves the page of a run folder; its records are read again whenever one of their files has changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.version = ""
        self.data: dict[str, Any] = {}
        self.read()  # raises at once if it is no run folder

    def serve(self, port: int = 0) -> LocalServer:
        return LocalServer({"/": self._page, "/data.json": self._json}, port)

    def read(self) -> dict[str, Any]:
        """The data of the page, up to date."""
        changed = [(self.folder / name).stat().st_mtime_ns for name in RECORDS if (self.folder / name).exists()]
        version = "-".join(map(str, changed)) or "none"
        if version != self.version:
            self.data = {**page_data([self.folder]), "live": True, "version": version}
            self.version = version
        if self.data["runs"][0]["summary"] is None and changed:
            quiet = time.time() - max(changed) / 1e9
            self.data["state"] = (
                "running" if quiet < 60 else f"no new records for {quiet / 60:.0f} minutes; is it still running?"
            )
        return self.data

    def _page(self, request: BaseHTTPRequestHandler) -> Response:
        return Response(page(self.read()).encode(), "text/html; charset=utf-8")

    def _json(self, request: BaseHTTPRequestHandler) -> Response:
        data = self.read()
        if request.headers.get("If-None-Match") == data["version"]:
            return Response(b"", "application/json", HTTPStatus.NOT_MODIFIED)
        return Response(json.dumps(data, ensure_ascii=False).encode(), "application/json")
