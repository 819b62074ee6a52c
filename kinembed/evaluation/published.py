"""A published head: its arrays, calibration and card in one sealed file that shows nobody.

It answers without the run folder that it comes from. It holds no names, and no vector of a real
person: its cohort is made up (`heads/made_up_cohort.py`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from kinembed.backbones import BACKBONES
from kinembed.cache import Embeddings
from kinembed.cache.footer import read_sealed
from kinembed.cache.provenance import Finetuned, frames
from kinembed.checked import Bounds, Values
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.calibration import Calibration, as_json, content, read_calibration
from kinembed.heads.base import Head, head_class
from kinembed.heads.file import HeadRecord, read_head
from kinembed.heads.kept import IN_USE
from kinembed.printable import in_markdown
from kinembed.ready import NAME, READY

if TYPE_CHECKING:  # a score imports this module, and lists no photos
    from kinembed.evaluation.triples import TripleScore

log = logging.getLogger(__name__)

Stored = Literal["float16", "float32"]
Made = Literal["published weights", "a file of weights", "fine-tuned", "imported vectors"]

SCHEMA = 1
ATTRIBUTE = "published"  # of the HDF5 root
ROOT = 1 << 16  # bytes at the start of a file, among which its attribute is named
MOST_CARD = 200_000  # letters
MOST_FRAMES = 1000
MOST_PEOPLE = 10**9
_AGAIN = "run kinembed head --publish again, or name another with --head"


@dataclass(frozen=True)
class Network:
    """The network whose vectors a head takes.

    Attributes:
        backbone: its name.
        made: whether its weights are published ones, others from a file, or fine-tuned; of imported
            vectors no more than the name is known.
        weights: the published weights by name; else empty.
        model: digest of the weights.
        precision: of the computation of the vectors that the head learnt on.
        pixels: the order of the channels, as `embed --pixels` takes it.
        framing: the rule by which photos were framed, as `embed --framing` takes it.
        frames: the frames that the rule found, as `cache.provenance.frames` tells.
    """

    backbone: str
    made: Made
    weights: str
    model: str
    precision: str
    pixels: str
    framing: str
    frames: tuple[str, ...]

    @classmethod
    def of(cls, cache: Embeddings) -> Network:
        """The network of a cache.

        Raises:
            RunError: it stacks the vectors of several networks.
        """
        about = cache.provenance
        if about.get("caches"):
            raise RunError(
                f"{cache.path}: stacks the vectors of several networks, and a published head takes "
                "those of one; run kinembed head and calibrate on one cache"
            )
        command = about.get("command", {})
        backbone = str(about.get("backbone", "unknown"))
        weights = _published_weights(backbone, str(command.get("weights", "")))
        if Finetuned.of(about) is not None:
            made, weights = "fine-tuned", ""
        elif "imported" in about:
            made, weights = "imported vectors", ""
        else:
            made = "published weights" if weights else "a file of weights"
        return cls(
            backbone=backbone,
            made=cast(Made, made),
            weights=weights,
            model=about["model"],
            precision=str(about.get("precision", "")),
            pixels=command.get("pixels") or "trained",
            framing=command.get("framing") or "auto",
            frames=frames(about),
        )

    @classmethod
    def read(cls, about: Values) -> Network:
        """What a file says.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        about.only([field.name for field in fields(cls)])
        names = ("backbone", "weights", "model", "precision", "pixels", "framing")
        return cls(
            made=cast(Made, about.choice("made", get_args(Made))),
            frames=about.texts("frames", MOST_FRAMES),
            **{name: about.text(name) for name in names},
        )


def _published_weights(backbone: str, asked: str) -> str:
    """The name of a backbone's published weights; empty where others were asked for."""
    sources = list(BACKBONES[backbone].sources) if backbone in BACKBONES else []
    if asked == "auto" and sources:
        return sources[0]
    return asked if asked in sources else ""


@dataclass(frozen=True)
class Origin:
    """The run that a published head comes from, without its names.

    Attributes:
        head: digest of the head.
        calibration: sha256 of its calibration.
        trained: how many people trained it.
        folds: of them, each held out by one member; 0: one part was held out.
        calibrated: how many held-out people the calibration is of.
        people: sha256 of the sorted names of those who trained it, one a line.
    """

    head: str
    calibration: str
    trained: int
    folds: int
    calibrated: int
    people: str

    @classmethod
    def of(cls, head: Head, calibration: Calibration) -> Origin:
        """Of a head and its calibration."""
        return cls(
            head=head.digest,
            calibration=hashlib.sha256(content(calibration)).hexdigest(),
            trained=len(head.trained),
            folds=len(head.folds),
            calibrated=len(calibration.people),
            people=_digest(head.trained),
        )

    def is_of(self, people: Sequence[str]) -> bool:
        """Whether these very people trained it."""
        return bool(people) and _digest(people) == self.people

    @classmethod
    def read(cls, about: Values) -> Origin:
        """What a file says.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        about.only([field.name for field in fields(cls)])
        count = Bounds(least=0, most=MOST_PEOPLE)
        return cls(
            head=about.text("head"),
            calibration=about.text("calibration"),
            trained=about.whole("trained", count),
            folds=about.whole("folds", count),
            calibrated=about.whole("calibrated", count),
            people=about.text("people"),
        )


@dataclass(frozen=True)
class Fidelity:
    """How far a published head's answers are from those of the head that it comes from.

    Attributes:
        dtype: of the arrays in the file.
        score: the largest difference of a probability of photos alone, of `pairs` pairs.
        pairs: how many were compared.
        ambient: median difference of the photos' ambient similarities, by the made-up cohort.
        ambient_std: standard deviation of that difference.
    """

    dtype: Stored
    score: float
    pairs: int
    ambient: float
    ambient_std: float

    @classmethod
    def read(cls, about: Values) -> Fidelity:
        """What a file says.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        about.only([field.name for field in fields(cls)])
        return cls(
            dtype=cast(Stored, about.choice("dtype", get_args(Stored))),
            score=about.number("score", Bounds(least=0, most=1)),
            pairs=about.whole("pairs", Bounds(least=0)),
            ambient=about.number("ambient", Bounds(least=-2, most=2)),
            ambient_std=about.number("ambient_std", Bounds(least=0, most=2)),
        )


@dataclass(frozen=True)
class Published:
    """What a published head's file holds.

    Attributes:
        head: the head; it names nobody.
        record: how it was trained.
        calibration: of this head: the scale of photos alone, and the three answers.
        triples: how the scores of a child with both parents are combined; None: not known.
        network: whose vectors it takes.
        origin: where it comes from.
        fidelity: how far its answers are from those of its origin.
        card: Markdown: what it is for, what it learnt on, and where it fails.
    """

    head: Head
    record: HeadRecord
    calibration: Calibration
    triples: TripleScore | None
    network: Network
    origin: Origin
    fidelity: Fidelity
    card: str

    def about(self) -> dict[str, Any]:
        """The description in its file, as JSON types."""
        return {
            "schema": SCHEMA,
            "digest": self.head.digest,
            "kind": self.head.kind,
            "settings": self.head.settings(),
            "record": asdict(self.record),
            "calibration": as_json(self.calibration),
            "triples": None if self.triples is None else asdict(self.triples),
            "network": asdict(self.network),
            "origin": asdict(self.origin),
            "fidelity": asdict(self.fidelity),
            "card": self.card,
        }

    def card_text(self) -> str:
        """Its card, as Markdown: the words given, then what is known of any head."""
        scale, origin, made_up = self.calibration.alone, self.origin, self.head.same_person
        trained = f"{origin.trained:,} people"
        if origin.folds:
            trained += f" in {origin.folds} folds, each held out by one member"
        rows = [
            ("network", f"{self.network.backbone}, {self.network.made} {self.network.weights}"),
            ("model", self.network.model),
            ("framing", f"{self.network.framing}: {', '.join(self.network.frames) or 'unknown'}"),
            ("views", self.head.view),
            ("head", f"{self.record.recipe or self.head.kind} {self.record.settings}".strip()),
            ("digest", f"{self.head.digest}, made of {origin.head}"),
            ("trained on", trained),
            ("AUC on held-out people", _known(self.record.auc)),
            ("calibrated on", f"{origin.calibrated:,} held-out people, for {scale.prior:.3g} kin"),
            ("threshold", f"probability {scale.threshold_probability:.4f}, by {scale.target}"),
        ]
        if scale.estimates is not None:
            rows += [
                (f"{name} on families not fitted on", _known(scale.estimates.get(key)))
                for name, key in (("TAR", "tar"), ("FAR", "far"), ("ECE", "ece"))
            ]
        fidelity = self.fidelity
        rows.append(
            ("numbers", f"{fidelity.dtype}; a score changes by {fidelity.score:.5f} at most")
        )
        if made_up is not None:
            rows.append(
                (
                    "cohort",
                    f"{len(made_up.cohort):,} made-up vectors, none of a person; ambient "
                    f"similarities change by {fidelity.ambient:+.4f} in the median, with a standard"
                    f" deviation of {fidelity.ambient_std:.4f}",
                )
            )
        table = "".join(f"| {name} | {in_markdown(text)} |\n" for name, text in rows)
        words = f"{self.card.strip()}\n\n" if self.card.strip() else "# A published head\n\n"
        return f"{words}## What the file is\n\n| | |\n|---|---|\n{table}"

    def describe(self) -> str:
        """Where it comes from, in a few words."""
        origin = self.origin
        if origin.folds and origin.trained == origin.calibrated:
            people = f"cross-validated on {origin.trained:,} people in {origin.folds} folds"
        else:
            people = f"fitted on {origin.trained:,} people, calibrated on {origin.calibrated:,} "
            people += "held-out people"
        return f"published head {self.head.digest[:12]} of {self.network.backbone}, {people}"


def is_published(path: Path) -> bool:
    """Whether a file says of itself that it is a published head; it may be damaged."""
    if not path.is_file():  # a pipe would be waited for
        return False
    with path.open("rb") as file:
        return f"{ATTRIBUTE}\0".encode() in file.read(ROOT)


def choose_head(run: Path, named: Path | None) -> Path:
    """The file of a head: the one that was named, such as `packaged`, else that of a run folder.

    Raises:
        RunError: the one that was named is missing.
    """
    if named is None:
        return run / IN_USE
    if named == NAME:
        return READY
    if not os.path.lexists(named):
        raise RunError(
            f"{named}: no such head; wanted a head.h5, a published head, or {NAME}, the one that "
            "comes with kinembed"
        )
    return named


def read_any_head(path: Path) -> tuple[Head, HeadRecord, Published | None]:
    """Reads a head of a run folder, or a published one.

    Raises:
        RunError: the file is missing or is neither.
    """
    if not os.path.lexists(path):
        raise RunError(
            f"{path}: no such file; run kinembed head, or kinembed finetune, or name the head that "
            f"comes with kinembed, for vectors of embed --backbone sface: --head {NAME}"
        )
    if is_published(path):
        published = read_published(path)
        return published.head, published.record, published
    return *read_head(path), None


def read_published(path: Path) -> Published:
    """Reads a published head.

    Raises:
        RunError: the file is missing, damaged, or no published head.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; kinembed head --publish makes one of a run folder")
    try:
        with path.open("rb", buffering=0) as file:
            about, read = read_sealed(file, ATTRIBUTE)
        return _parsed(Values(about), read, path)
    except (
        *(OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError),
        KinembedError,
    ) as error:
        raise RunError(f"{path}: not a published head ({error}); {_AGAIN}") from None


def _parsed(about: Values, read: dict[str, NDArray[Any]], path: Path) -> Published:
    """What a file's description and arrays say.

    Raises:
        KeyError, TypeError, ValueError, KinembedError: in a few words, what is wrong.
    """
    if type(schema := about.get("schema")) is not int or schema != SCHEMA:
        raise ValueError(f"schema {ascii(schema)[:20]}, this version reads {SCHEMA}")
    names = ("kind", "settings", "record", "calibration", "triples", "network", "origin")
    about.only(["schema", "digest", *names, "fidelity", "card"])
    fidelity = Fidelity.read(about.object("fidelity"))
    if any(array.dtype != np.dtype(fidelity.dtype) for array in read.values()):
        raise ValueError(f"its layers are not {fidelity.dtype} arrays")
    arrays = {name: array.astype(np.float32) for name, array in read.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("its numbers are not all finite")
    network = Network.read(about.object("network"))
    head = head_class(about.text("kind")).from_arrays(
        about.object("settings").content, arrays,
        model=network.model, held_out=(), trained=(), folds=(),
    )  # fmt: skip
    calibration = read_calibration(about.object("calibration"), path)
    if {head.digest, calibration.head} != {about.text("digest")}:
        raise ValueError("its head is not that of its digest or calibration")
    triples = None
    if about.get("triples") is not None:
        triples = _read_triples(about.object("triples"))
    return Published(
        head=head,
        record=HeadRecord.read(about.object("record")),
        calibration=calibration,
        triples=triples,
        network=network,
        origin=Origin.read(about.object("origin")),
        fidelity=fidelity,
        card=about.text("card", MOST_CARD),
    )


def _read_triples(about: Values) -> TripleScore:
    from kinembed.evaluation.triples import TripleScore

    about.only([field.name for field in fields(TripleScore)])
    weight = Bounds(least=-1e6, most=1e6)
    return TripleScore(
        father=about.number("father", weight),
        mother=about.number("mother", weight),
        offset=about.number("offset", weight),
        families=about.whole("families", Bounds(least=0, most=MOST_PEOPLE)),
    )


def _digest(people: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(people)).encode()).hexdigest()


def _known(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:.4f}"
