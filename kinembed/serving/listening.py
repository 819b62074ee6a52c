"""Listening on a port, with timers against those who never finish a request."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from kinembed.errors import KinembedError
from kinembed.printable import one_line

CONNECTIONS = 512  # at a time; more are closed at once
HEAD_SECONDS = 10  # in which the headers of a request have to arrive
HEAD_BYTES = 16 << 10  # of these headers
KEEP_SECONDS = 5  # that a connection stays open without a request


class Timed(H11Protocol):
    """A connection that is cut where its client sends headers, or reads an answer, too slowly."""

    head_seconds: float = HEAD_SECONDS
    request_seconds = 300.0
    _timer: asyncio.TimerHandle | None = None
    _at: object = None  # the request that the timer is of

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._watch(is_new=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self, is_new: bool = False) -> None:
        """Sets the timer for what is waited for now: headers, or an answer."""
        at = None if self.cycle is None or self.cycle.response_complete else self.cycle
        if at is self._at and not is_new:
            return
        self._at = at
        if self._timer is not None:
            self._timer.cancel()
        seconds = self.head_seconds if at is None else self.request_seconds
        self._timer = self.loop.call_later(seconds, self.transport.abort)


class Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, began: Callable[[], object]) -> None:
        super().__init__(config)
        self._began = began

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._began()


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Args:
        host: an address of this machine, or its name.
        port: 0: any that is free.

    Raises:
        KinembedError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol, for asyncio then sends small answers at once (TCP_NODELAY).
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise KinembedError(
            f"{one_line(host)}:{port}: cannot listen there ({reason}); name another port with "
            "--port, 0 for any that is free"
        ) from None
    return bound


def address(bound: socket.socket) -> str:
    """The address of a socket, for a browser: `http://127.0.0.1:8000`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(
    application: Any, bound: socket.socket, began: Callable[[], object], seconds: float
) -> None:
    """Answers until Ctrl-C or SIGTERM, which is then raised as it would have been.

    Args:
        application: what answers.
        bound: where.
        began: called when it listens.
        seconds: in which a request has to be read, and those in which it has to be answered.
    """
    timed = type("_Timed", (Timed,), {"request_seconds": 2 * seconds + HEAD_SECONDS})
    with bound, without_names():
        Server(settings(application, timed), began).run(sockets=[bound])


@contextmanager
def without_names() -> Iterator[None]:
    """Keeps out of the log what strangers send, and what their photos are called."""
    names = ("uvicorn", "uvicorn.error", "python_multipart", "kinembed.inference")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def settings(application: Any, protocol: type[asyncio.Protocol]) -> uvicorn.Config:
    """The server's settings: nothing is logged, no proxy is believed, no websocket opened.

    Args:
        application: what answers.
        protocol: of its connections, `Timed`.
    """
    return uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
