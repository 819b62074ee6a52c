"""Sketches in place of figures, which take matplotlib half a second each, for who looks at none."""

import io
from pathlib import Path

from PIL import Image

from kinembed.io import write_bytes

PLOTTING = ("kinembed.report.curves", "kinembed.report.experiments")


def sketch(draw: object, size: tuple[float, float], path: Path) -> Path:
    """Writes a PNG of one dot as `kinembed.report.plots.write_plot` writes a figure."""
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, format="png")
    return write_bytes(path, picture.getvalue())
