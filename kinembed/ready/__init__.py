"""The head that comes with the package: what answers where a run folder has none.

`sface.h5` takes the vectors of SFace, whose weights come with the extra `sface`. Its card is
`docs/model-card.md`, and stands in the file, too.
"""

from pathlib import Path

READY = Path(__file__).with_name("sface.h5")
NAME = Path("packaged")  # by which --head names it
MOST = 2_000_000  # bytes
