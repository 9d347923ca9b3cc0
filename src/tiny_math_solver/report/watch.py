"""The page of a run, served to this machine while the run is going on or after it was killed."""

import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tiny_math_solver.report import page, room_for_data
from tiny_math_solver.report.contents import data_of
from tiny_math_solver.report.packing import as_json, gzipped
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.support.local_server import LocalServer, Response

RECORDS = ("metrics.jsonl", "rollouts.jsonl", "events.jsonl", "summary.json", "eval")
PAUSE = 4  # times as long as the data took to make, before they are made again: the run needs the processor


class Watch:
    """Serves the page of a run folder; what has changed in its records is read again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.records = RunRecords(folder)  # raises at once if it is no run folder
        self.version = ""
        self.data: dict[str, Any] = {}
        self._packed = b""
        self._next = 0.0  # time from which new data may be made
        self._lock = threading.Lock()

    def serve(self, port: int = 0) -> LocalServer:
        return LocalServer({"/": self._page, "/data.json": self._json}, port)

    def read(self) -> dict[str, Any]:
        """The data of the page, up to date."""
        with self._lock:
            changed = [(self.folder / name).stat().st_mtime_ns for name in RECORDS if (self.folder / name).exists()]
            version = "-".join(map(str, changed)) or "none"
            if version != self.version and time.monotonic() >= self._next:
                started = time.monotonic()
                self.records.update()
                last_record = max(changed, default=0) / 1e6  # milliseconds, as JavaScript counts them
                self.data = {
                    **data_of([self.records], room_for_data()),
                    "live": True,
                    "version": version,
                    "last_record": last_record,
                }
                self._packed = gzipped(as_json(self.data))
                self.version = version
                self._next = time.monotonic() + PAUSE * (time.monotonic() - started)
            return self.data

    def _page(self, request: BaseHTTPRequestHandler) -> Response:
        return Response(page(self.read()).encode(), "text/html; charset=utf-8")

    def _json(self, request: BaseHTTPRequestHandler) -> Response:
        data = self.read()
        if request.headers.get("If-None-Match") == data["version"]:
            return Response(b"", "application/json", HTTPStatus.NOT_MODIFIED)
        return Response(self._packed, "application/json", encoding="gzip")
