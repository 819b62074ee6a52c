"""The stage `app`: a page in the browser that compares, searches and relates."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from kinembed.config import AppConfig
from kinembed.errors import KinembedError
from kinembed.memory import lasting_memory
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

AT_ONCE, SECONDS = 16, 120.0  # requests of one page; in which one is answered


def app(
    config: AppConfig,
    data: Path,
    run: Path,
    *,
    progress: Progress = silent,
    began: Callable[[str], object] = lambda address: None,
) -> None:
    """Shows a page in the browser until it is interrupted. Photos stay on this machine.

    Args:
        config: the settings.
        data: the folder that the photos of the cache lie below, for pictures of who is found.
        run: the run folder, whose head answers and whose cache is searched; the gallery is kept
            there.
        progress: shows the progress.
        began: told the address of the page, with its token.

    Raises:
        KinembedError: FastAPI or uvicorn are missing, the port is in use, or nothing here can
            answer.
    """
    try:
        from kinembed.serving.app_page import add_page
        from kinembed.serving.listening import address, listen, open_socket
        from kinembed.serving.web import make_application
    except ImportError as error:
        raise KinembedError(f"app needs {error.name}; run pip install 'kinembed[serve]'") from None
    from kinembed.serving.albums import Albums, albums_folder
    from kinembed.serving.answers import Answers
    from kinembed.serving.desk import Desk
    from kinembed.serving.guard import LOOPBACK, Guard

    config.check()
    _end_with_the_terminal()
    token, once = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    most = config.megabytes << 20
    with (
        lasting_memory(),  # before the first threads take memory
        open_socket("127.0.0.1", config.port) as bound,
        albums_folder(config.keep) as folder,
        Answers.open(
            run,
            config.head,
            photos=data,
            device=config.device,
            precision=config.precision,
            progress=progress,
        ) as answers,
    ):
        desk = Desk(AT_ONCE, most, SECONDS)
        albums = Albums(folder, _relate_options(config, run))
        application = make_application(answers, desk, is_described=False)
        add_page(application, answers, desk, albums, config.keep and folder)
        guard = Guard(application, LOOPBACK, token=token, once=once, most=most)

        def ready() -> None:
            page = f"{address(bound)}/{token}/"
            log.info("answered by %s", answers.answerer.source)
            log.info("the page, for you alone: %s", page)
            log.info(
                "Ctrl-C ends it%s", "" if config.keep else ", and deletes what was handed over"
            )
            began(page)
            if config.browser:
                # Other users see the words that a browser is called with: this address works once.
                opened = (f"{address(bound)}/{once}",)
                threading.Thread(target=webbrowser.open, args=opened, daemon=True).start()

        try:
            listen(guard, bound, ready, SECONDS)
        finally:
            desk.close()


def _relate_options(config: AppConfig, run: Path) -> list[str]:
    """The options by which `relate` answers as this program does."""
    head = config.head
    if head is None and (run / "head.h5").exists():
        head = run / "head.h5"
    options = ["--device", config.device, "--precision", config.precision]
    return options if head is None else [*options, "--head", str(head.resolve())]


def _end_with_the_terminal() -> None:
    """Ends as by SIGTERM where the terminal is closed, so that what was handed over is deleted."""
    if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
