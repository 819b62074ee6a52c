"""What an audit was of, and what it did not judge: `audit.json`, beside the findings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kinembed.auditing.finding import KINDS
from kinembed.checked import Values, read_json
from kinembed.errors import RunError
from kinembed.io import write_bytes

RECORD = "audit.json"


@dataclass(frozen=True)
class AuditRecord:
    """What an audit was of.

    Attributes:
        cache: digest of the cache.
        head: digest of the head; empty without one.
        not_judged: kinds of findings that were not looked for, and why.
        missing: photos that were not at hand.
        changed: photos whose files were no longer those that were embedded.
    """

    cache: str
    head: str
    not_judged: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    changed: int = 0

    def write(self, run: Path) -> None:
        """Writes it into a run folder."""
        write_bytes(run / RECORD, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def read(cls, run: Path) -> AuditRecord:
        """That of a run folder.

        Raises:
            RunError: it is missing or malformed.
        """
        path = run / RECORD
        try:
            about = Values(read_json(path.read_bytes()))
            not_judged = about.object("not_judged")
            not_judged.only(KINDS)
            known = {str(kind): not_judged.text(kind) for kind in not_judged.content}
            numbers = (about.whole("missing"), about.whole("changed"))
            return cls(about.text("cache"), about.text("head"), known, *numbers)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: {error}; run kinembed audit again") from None
