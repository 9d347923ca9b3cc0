"""A web server for this machine's browser: bound to the loopback address, and answering to no other name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tiny_math_solver.support.errors import UserError

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Response:
    body: bytes
    kind: str  # MIME type
    status: HTTPStatus = HTTPStatus.OK
    encoding: str | None = None  # of the body, as in Content-Encoding
    stream: Iterator[bytes] | None = None  # in place of `body`: sent piece by piece, until it ends


class LocalServer(ThreadingHTTPServer):
    """Answers GET requests by path, each with the response of its route.

    Refuses a request that names another host: a foreign page could have its own name resolve to this machine.
    Raises UserError if the port is taken.
    """

    daemon_threads = True

    def __init__(self, routes: dict[str, Callable[[BaseHTTPRequestHandler], Response]], port: int = 0):
        self.routes = routes
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another --port") from None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a browser that leaves in the middle of a response is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    timeout = 30

    def do_GET(self) -> None:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in (ADDRESS, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        route = self.server.routes.get(urlsplit(self.path).path)
        if route is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        answer = route(self)
        self.send_response(answer.status)
        for name, value in {
            "Content-Type": answer.kind,
            **({"Connection": "close"} if answer.stream else {"Content-Length": str(len(answer.body))}),
            **({"Content-Encoding": answer.encoding} if answer.encoding else {}),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in answer.stream or [answer.body]:
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, *args: Any) -> None:
        pass
