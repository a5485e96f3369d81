"""Serve one page on loopback while it changes: for `skelnorm watch`.

The address holds a random token. Anything else is rejected: other hosts in the Host header (a web page whose name was
made to point at this machine), requests without the token, and connections from other machines, since the socket
listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

from preprocessing import exits

LOOPBACK = "127.0.0.1"
POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def stamp(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of the files that exist: equal stamps mean equal content."""
    found = []
    for path in paths:
        try:
            about = path.stat()
        except OSError:
            continue
        found.append((str(path), about.st_size, about.st_mtime_ns))
    return tuple(sorted(found))


class Source:
    """A page that is made again when its files change.

    Args:
        make: Returns the page as text.
        files: Returns the files that the page is made of.
    """

    def __init__(self, make: Callable[[], str], files: Callable[[], Iterable[Path]]) -> None:
        self._make, self._files, self._lock = make, files, Lock()
        self._stamp: object = None
        self._page, self._tag = b"", ""

    def page(self) -> tuple[bytes, str]:
        """Return the page and its tag, which is another one for another page."""
        with self._lock:
            now = stamp(self._files())
            if now != self._stamp or not self._tag:
                self._page = self._make().encode()
                self._tag = f'"{hashlib.sha256(repr(now).encode() + self._page).hexdigest()[:24]}"'
                self._stamp = now
            return self._page, self._tag


class LiveServer:
    """A server of one page in threads of its own.

    Args:
        source: The page.
        port: 0: any that is free.
    """

    def __init__(self, source: Source, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        handler = partial(_Handler, source, self.token)
        self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    def __enter__(self) -> LiveServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the page's address and rejects the rest."""

    server_version, sys_version, protocol_version = "skelnorm", "", "HTTP/1.1"
    timeout = 30  # seconds that a connection may be silent

    def __init__(self, source: Source, token: str, *arguments: object) -> None:
        self.source, self.token = source, token
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
        """Answer with the page, 304 if the browser has it already, 403 without token or from another host."""
        if (reason := self._refusal()) is not None:
            self._answer(HTTPStatus.FORBIDDEN, reason.encode(), "text/plain; charset=utf-8")
            return
        try:
            page, tag = self.source.page()
        except Exception as error:  # a file is being replaced, or is damaged; the next request tries again
            if not exits.expected(error):
                raise
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode(), "text/plain; charset=utf-8")
            return
        if self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", "", tag)
        else:
            self._answer(HTTPStatus.OK, page, "text/html; charset=utf-8", tag)

    do_HEAD = do_GET  # noqa: N815

    def _refusal(self) -> str | None:
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            return "Host is not this machine: open the address that skelnorm watch printed.\n"
        given = self.path.partition("?")[0].strip("/")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return "The token is missing or wrong: open the address that skelnorm watch printed.\n"
        return None

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, tag: str = "") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        if tag:
            self.send_header("ETag", tag)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing: addresses hold the token."""
