"""Requests to the Hugging Face Hub that are tried again, but not for ever, and not in silence.

Left to itself, huggingface_hub logs addresses with the passwords in them, waits for as long as a Retry-After says,
and gives a Hub that does not answer six times a minute.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from tiny_math_solver.support.console import Console

WAITS = (1.0, 4.0, 10.0)  # seconds before the second, third and fourth try of a request
LONGEST_WAIT = 10.0  # seconds, whatever longer time a busy Hub asks for
BUSY = (408, 429, 500, 502, 503, 504)


class UnreachableError(ConnectionError):
    """The Hub is away, busy or silent, after all tries: the message says which."""


class Patience:
    """While it lasts, a failed request is repeated after each of `waits`, saying so, before UnreachableError.

    `connecting`: whether that is also for a Hub to which there is no connection at all.
    """

    def __init__(self, waits: Sequence[float], *, connecting: bool = True):
        from huggingface_hub import constants, get_session

        self.waits, self.connecting = waits, connecting
        self.seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
        self.failures = 0  # in a row
        self.end: UnreachableError | None = None
        self.client: Any = get_session()
        self.send: Any = self.client.send
        # httpx in one major version of huggingface_hub, httpx2 in the next
        self.http: Any = import_module(type(self.client).__module__.partition(".")[0])
        self.transient = (
            self.http.TimeoutException,
            self.http.NetworkError,
            self.http.RemoteProtocolError,
            self.http.ProxyError,
        )
        self.log = logging.getLogger("huggingface_hub")

    def __enter__(self) -> None:
        self.log_level = self.log.level
        self.log.setLevel(logging.ERROR)
        self.client.send = self._send

    def __exit__(self, *_: object) -> None:
        self.log.setLevel(self.log_level)
        del self.client.send

    def _send(self, request: Any, **options: Any) -> Any:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), self.seconds)
        if self.end:
            raise self.end  # the file after the one that failed has begun already
        while True:
            try:
                response = self.send(request, **options)
            except self.transient as error:
                self._wait_or_raise(request, error)
                continue
            if response.status_code not in BUSY:
                break
            response.close()
            asked = response.headers.get("Retry-After", "")
            reason = f"{response.status_code} {response.reason_phrase}" + (f" (asks for {asked} s)" if asked else "")
            self._wait_or_raise(request, reason, float(asked) if asked.isdigit() else 0)
        if options.get("stream"):
            response.iter_bytes = partial(self._chunks, request, response.iter_bytes)
        else:
            self.failures = 0
        return response

    def _chunks(self, request: Any, iter_bytes: Any, *args: Any, **options: Any) -> Iterator[bytes]:
        try:
            for chunk in iter_bytes(*args, **options):
                self.failures = 0
                yield chunk
        except self.transient as error:
            self._wait_or_raise(request, error)
            raise self.http.ReadTimeout(str(error)) from error  # after which huggingface_hub asks for the rest
        self.failures = 0

    def _wait_or_raise(self, request: Any, reason: BaseException | str, asked: float = 0) -> None:
        is_hopeless = isinstance(reason, self.http.ConnectError) and not self.connecting
        if isinstance(reason, self.http.ConnectError):
            reason = f"no connection: {reason}"
        elif isinstance(reason, self.http.TimeoutException):
            reason = f"no answer in {self.seconds} s"
        elif isinstance(reason, BaseException):
            reason = "connection cut"
        if is_hopeless or self.failures >= len(self.waits):
            self.end = UnreachableError(f"{reason}; tries: {self.failures + 1}")
            raise self.end
        wait = max(self.waits[self.failures], min(asked, LONGEST_WAIT))
        self.failures += 1
        Console().note(f"{request.url.host}: {reason}; trying again in {wait:g} s")
        time.sleep(wait)
