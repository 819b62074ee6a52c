"""The stage `serve`: compare, search and represent over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from kinembed.config import ServeConfig
from kinembed.errors import KinembedError
from kinembed.memory import lasting_memory
from kinembed.progress import Progress, silent

log = logging.getLogger(__name__)

# Every address of this machine, and the name of none; never the default.
ANY = ("0.0.0.0", "::")  # nosec B104 # compared with what the user asks for


def serve(
    config: ServeConfig,
    data: Path,
    run: Path,
    *,
    progress: Progress = silent,
    began: Callable[[str], object] = lambda address: None,
) -> None:
    """Answers over HTTP until it is interrupted. Photos are neither stored nor logged.

    Args:
        config: the settings.
        data: does not matter.
        run: the run folder, whose head answers and whose cache is searched; the gallery is kept
            there.
        progress: shows the progress.
        began: told the address when it listens.

    Raises:
        KinembedError: FastAPI or uvicorn are missing, the port is in use, or nothing here can
            answer.
    """
    try:
        from kinembed.serving.listening import address, listen, open_socket
        from kinembed.serving.web import make_application
    except ImportError as error:
        raise KinembedError(
            f"serve needs {error.name}; run pip install 'kinembed[serve]'"
        ) from None
    from kinembed.serving.answers import Answers
    from kinembed.serving.desk import Desk
    from kinembed.serving.guard import LOOPBACK, Guard

    config.check()
    is_open = config.host not in LOOPBACK
    if is_open:
        log.warning(
            "%s: others can ask, too, over a line that is not encrypted; whoever reaches this port "
            "may compare and search faces", config.host,
        )  # fmt: skip
    most = config.megabytes << 20
    with (
        lasting_memory(),  # before the first threads take memory
        open_socket(config.host, config.port) as bound,
        Answers.open(
            run, config.head, device=config.device, precision=config.precision, progress=progress
        ) as answers,
    ):
        desk = Desk(config.at_once, most, config.seconds)
        application = Guard(
            make_application(answers, desk, is_described=True),
            (*LOOPBACK, *config.names, *([] if config.host in ANY else [config.host])),
            own_address=is_open,
            most=most,
        )

        def ready() -> None:
            log.info("%s answers, by %s; Ctrl-C ends it", address(bound), answers.answerer.source)
            if answers.missing:
                log.info("/search: %s", answers.missing)
            began(address(bound))

        try:
            listen(application, bound, ready, config.seconds)
        finally:
            desk.close()
