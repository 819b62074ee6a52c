"""Figures by matplotlib, an extra: without it a stage logs a warning and goes on."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kinembed.io import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


def write_plot(
    draw: "Callable[[Figure], None]", size: tuple[float, float], path: Path
) -> Path | None:
    """Draws a figure and writes it as a PNG.

    Args:
        draw: draws axes and lines on an empty figure.
        size: width and height, inches.
        path: where the PNG goes.

    Returns:
        The path; None, with a warning, if matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context  # slow to import
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        log.warning('%s is not drawn: pip install "kinembed[plots]" draws it', path.name)
        return None
    picture = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # a name may hold dollars
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(picture, format="png", dpi=110)
    return write_bytes(path, picture.getvalue())
