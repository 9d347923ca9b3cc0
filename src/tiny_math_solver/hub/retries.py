"""The retry policy of requests to the Hugging Face Hub: a few retries, bounded waits, each of them announced.

Left to itself, huggingface_hub logs addresses with the passwords in them, waits for as long as a Retry-After says,
and gives a Hub that does not answer six times a minute.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tiny_math_solver.support.console import Console

WAITS = (1.0, 4.0, 10.0)  # seconds before the first, second and third retry
LONGEST_WAIT = 10.0  # seconds, whatever longer time a busy Hub asks for
RETRY_STATUS = (408, 429, 500, 502, 503, 504)


class UnreachableError(ConnectionError):
    """The Hub is down, busy or silent, after all retries; the message says which."""


class CutError(ConnectionError):
    """A commit failed, or its answer was lost: the caller has to look which, before it sends it again."""


@contextmanager
def retrying(waits: Sequence[float], *, connecting: bool = True, patience: float | None = None) -> Iterator[None]:
    """Inside the block huggingface_hub retries a failed request after each of `waits`, then raises UnreachableError.

    A commit is not sent twice: where its answer does not come, CutError is raised after the wait. With `connecting`
    False, a Hub that refuses the connection is given up at once. `patience` is the longest wait for an answer, in
    seconds (default: that of huggingface_hub's downloads). The client stays the one of the program around us, which
    may have set one with proxies or certificates of its own (`set_client_factory`).
    """
    import huggingface_hub

    client: Any = huggingface_hub.get_session()
    logger = logging.getLogger("huggingface_hub")
    level, send = logger.level, vars(client).get("send")
    logger.setLevel(logging.ERROR)
    client.send = _send_with_retries(client, RetryPolicy(waits, connecting=connecting, patience=patience))
    try:
        yield
    finally:
        if send is None:
            del client.send
        else:
            client.send = send
        logger.setLevel(level)


class RetryPolicy:
    """Decides after each failed request whether it is repeated, and announces and sits out the wait."""

    def __init__(self, waits: Sequence[float], *, connecting: bool = True, patience: float | None = None):
        from huggingface_hub import constants

        self.waits, self.connecting = waits, connecting
        # seconds without an answer, or without a byte of it
        self.timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT if patience is None else patience
        self.failures = 0  # in a row
        self.lost_commits = 0  # whatever succeeds between them
        self.given_up: UnreachableError | None = None

    def succeeded(self) -> None:
        self.failures = 0

    def lost_commit(self) -> None:
        """Count a commit that is about to be `failed`."""
        self.failures = max(self.failures, self.lost_commits)
        self.lost_commits += 1

    def failed(self, host: str, reason: str, *, retry_after: float = 0, retry: bool = True) -> None:
        """Wait until the next try is due. Raises UnreachableError if there is none."""
        if not retry or self.failures >= len(self.waits):
            self.given_up = UnreachableError(f"{reason}; tries: {self.failures + 1}")
            raise self.given_up
        wait = max(self.waits[self.failures], min(retry_after, LONGEST_WAIT))
        self.failures += 1
        Console().note(f"{host}: {reason}; trying again in {wait:g} s")
        time.sleep(wait)


def _send_with_retries(client: Any, policy: RetryPolicy) -> Callable[..., Any]:
    """The `send` of an HTTP client, following the policy.

    Not a transport, which could not tell a short answer, whose request is repeated, from a download, which is resumed.
    """
    http = _library(client)
    send_once, download, transient = client.send, _download_class(http), _transient(http)

    def failed(request: Any, reason: str, **options: Any) -> None:
        """Sit out the wait. Raises where the request is not to be sent again as it is."""
        is_commit = request.method == "POST" and "/commit/" in request.url.path
        if is_commit:
            policy.lost_commit()
        policy.failed(request.url.host, reason, **options)
        if is_commit:
            raise CutError(reason)
        if not isinstance(request.stream, http.ByteStream):  # a file, read up to somewhere: huggingface_hub rewinds it
            raise http.ReadError(reason, request=request)

    def send(request: Any, *, stream: bool = False, **options: Any) -> Any:
        host = request.url.host
        if policy.given_up:
            raise policy.given_up  # huggingface_hub has begun the file after the one that failed
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), policy.timeout)
        while True:
            try:
                response = send_once(request, stream=stream, **options)
            except transient as error:
                refused = isinstance(error, http.ConnectError)
                failed(request, _reason(http, error, policy), retry=policy.connecting or not refused)
                continue
            if response.status_code not in RETRY_STATUS:
                break
            response.close()
            asked = response.headers.get("Retry-After", "")
            reason = f"{response.status_code} {response.reason_phrase}" + (f" (asks for {asked} s)" * bool(asked))
            failed(request, reason, retry_after=float(asked) if asked.isdigit() else 0)
        if stream:
            response.stream = download(response.stream, host, policy)
        else:
            policy.succeeded()
        return response

    return send


def _library(client: Any) -> Any:
    """The HTTP library of a client, which may be of a class of its own: httpx, or httpx2 from huggingface_hub 2 on."""
    bases = (base.__module__.partition(".")[0] for base in type(client).__mro__)
    return import_module(next(name for name in bases if name in ("httpx", "httpx2")))


def _download_class(http: Any) -> Any:
    from huggingface_hub import constants

    transient = _transient(http)

    class Download(http.SyncByteStream):
        """The body of an answer; where it is cut, huggingface_hub asks for the rest of it after the wait."""

        def __init__(self, stream: Any, host: str, policy: RetryPolicy):
            self.stream, self.host, self.policy = stream, host, policy

        def __iter__(self) -> Iterator[bytes]:
            received = 0
            try:
                for part in self.stream:
                    received += len(part)
                    if received >= constants.DOWNLOAD_CHUNK_SIZE:  # which is written: less has to be sent again
                        self.policy.succeeded()
                    yield part
            except transient as error:
                self.policy.failed(self.host, _reason(http, error, self.policy))
                raise http.ReadTimeout(str(error)) from error  # which huggingface_hub takes as a reason to resume
            self.policy.succeeded()

        def close(self) -> None:
            self.stream.close()

    return Download


def _transient(http: Any) -> tuple[type[BaseException], ...]:
    return (http.TimeoutException, http.NetworkError, http.RemoteProtocolError, http.ProxyError)


def _reason(http: Any, error: BaseException, policy: RetryPolicy) -> str:
    if isinstance(error, http.ConnectError):
        return f"no connection: {error}"
    if isinstance(error, http.TimeoutException):
        return f"no answer in {policy.timeout:g} s"
    return "connection cut"
