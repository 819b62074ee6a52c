"""Who may ask: no page of another site, and nobody under a name that is not the server's."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from kinembed.serving.refused import RefusedError, too_large

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
READING = ("GET", "HEAD")
HOST = re.compile(r"(?:\[([^\[\]@]+)\]|([^\[\]:@]+))(?::[0-9]{0,5})?")  # a name, and a port
# On every answer, unless it says otherwise itself.
HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Guard:
    """Refuses what a page of another site, or a rebound name, may send through a browser.

    A page of another site can post a form here, and can point a name of its own at this machine
    (DNS rebinding). It cannot choose the headers Host, Origin and Sec-Fetch-Site, nor guess the
    token.

    Args:
        application: what answers.
        names: that this server has.
        own_address: the address that a connection came in by is a name, too.
        token: the first part of every path; None: there is none.
        once: a first part that leads to the token's, for whoever comes first; None: there is none.
        most: bytes of a body.
    """

    def __init__(
        self,
        application: Application,
        names: Iterable[str],
        *,
        own_address: bool = False,
        token: str | None = None,
        once: str | None = None,
        most: int,
    ) -> None:
        self.application = application
        self.names = frozenset(name.lower() for name in names)
        self.own_address = own_address
        self.token = token
        self.once = once
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no others: websockets and lifespan are off
            return
        began = False

        async def answer(message: Message) -> None:
            nonlocal began
            began = True
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            self._check(scope)
            if scope["method"] == "HEAD":  # an answer without its body, which the server leaves out
                scope = {**scope, "method": "GET"}
            if not await self._led(scope, answer):
                await self.application(scope, receive, answer)
        except RefusedError as refused:
            await refuse(refused, answer)
        except asyncio.CancelledError:  # the server ends
            if not began:
                await refuse(RefusedError(503, "this server ends; ask again later", 10), answer)
            raise
        except Exception as error:  # a bug, whose text may quote a photo's name
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "a request failed: %s in %s, line %s", type(error).__name__, where.filename,
                where.lineno,
            )  # fmt: skip
            if not began:
                await refuse(RefusedError(500, "this server failed; see its log"), answer)

    def _check(self, scope: Scope) -> None:
        """Refuses a request by its headers.

        Raises:
            RefusedError: who asks may be another site's page, or the body is too large.
        """
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value.decode("latin-1"))
        host = headers.get(b"host", [])
        if len(host) != 1 or not self._is_own(host[0], scope):
            raise RefusedError(421, "this server has another name")
        is_reading = scope["method"] in READING
        for origin in headers.get(b"origin", []):
            if origin.partition("://")[2].lower() != host[0].lower():
                raise RefusedError(403, "a page of another site may not ask")
        for site in headers.get(b"sec-fetch-site", []):
            is_link = is_reading and headers.get(b"sec-fetch-mode") == ["navigate"]
            if site not in ("same-origin", "none") and not is_link:
                raise RefusedError(403, "a page of another site may not ask")
        for length in headers.get(b"content-length", []):
            if int(length) > self.most:
                raise RefusedError(413, too_large(self.most))

    def _is_own(self, host: str, scope: Scope) -> bool:
        """Whether a Host header names this server; the port does not matter."""
        found = HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1] or found[2]
        if name.rstrip(".") in self.names:
            return True
        if not self.own_address or not scope.get("server"):
            return False
        try:
            return ipaddress.ip_address(name) == ipaddress.ip_address(scope["server"][0])
        except ValueError:
            return False

    async def _led(self, scope: Scope, send: Send) -> bool:
        """Takes the token off the path; whether the request was led to its place instead.

        Raises:
            RefusedError: the path has no token, or another one.
        """
        if self.token is None:
            return False
        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        if self.once is not None and _same(first, self.once):
            self.once = None
            place = [(b"location", f"/{self.token}/".encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 303, "headers": place})
            await send({"type": "http.response.body", "body": b""})
            return True
        if not slash or not _same(first, self.token):
            raise RefusedError(403, "open the address that kinembed app printed")
        scope["path"] = f"/{rest}"
        scope["raw_path"] = scope["path"].encode()
        return False


def _same(given: str, wanted: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return secrets.compare_digest(given.encode(), wanted.encode())


async def refuse(refused: RefusedError, send: Send) -> None:
    """Answers why there is no answer, and closes the connection: a body may still be on its way."""
    body = json.dumps({"error": refused.reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
