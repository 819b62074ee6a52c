"""The provenance of a cache: written by `kinembed embed`, and read back to repair the cache."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinembed import __version__
from kinembed.backbones import Backbone, Framing
from kinembed.backbones.framing import describe_frame
from kinembed.cache.schema import MOST_MODEL, SCHEMA
from kinembed.checked import Bounds, Values
from kinembed.config import MOST_FOLDS, Dtype, EmbedConfig, Precision
from kinembed.errors import KinembedError, RunError
from kinembed.recipes import Recipe, read_recipe
from kinembed.views import TTA, without_tta


@dataclass(frozen=True)
class Finetuned:
    """How `kinembed finetune` trained a network.

    Attributes:
        recipe: of its training.
        view: that it learnt to compare.
        epoch_chosen_by: who chose the epoch that was kept, as `heads.file.HeadRecord` has it.
    """

    recipe: Recipe
    view: str
    epoch_chosen_by: str = ""

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> "Finetuned | None":
        """What a cache says of its network; None where that was not fine-tuned.

        Raises:
            ValueError: what it says is not understood; a cache of that is not opened.
        """
        if provenance.get("finetuned") is None:
            return None
        about = Values(provenance).object("finetuned")
        try:
            recipe = read_recipe(about.object("recipe").content)
        except KinembedError as error:
            raise ValueError(f"finetuned: {error}") from None
        return cls(recipe, about.text("view"), about.text("epoch_chosen_by"))

    def as_json(self) -> dict[str, Any]:
        """What stands in a cache, as JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(self.recipe.as_record()))
        return {"recipe": plain, "view": self.view, "epoch_chosen_by": self.epoch_chosen_by}


@dataclass(frozen=True)
class Provenance:
    """All that changes a number in a cache, and what was asked for to get it.

    Attributes:
        backbone: name of the network.
        model: digest of its weights.
        input: its preprocessing: `framing` and `pixels`, as `Backbone.recipe` returns them, and
            `framings` of the folders whose photos are framed otherwise.
        dtype: of the vectors.
        precision: of the network's computation.
        device: its kind, without a number.
        versions: of Python and the libraries, by name.
        command: `photos`, `backbone`, `weights`, `framing` and, if given, `model`, `pixels`,
            `onnx` and `output`.
        split: the split of people in fine-tuning; None if the network was not fine-tuned.
        finetuned: the fine-tuning, as `Finetuned.as_json` returns it; None if there was none.
    """

    backbone: str
    model: str
    input: dict[str, Any]
    dtype: Dtype
    precision: Precision
    device: str
    versions: dict[str, str]
    command: dict[str, Any]
    split: dict[str, Any] | None = None
    finetuned: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        config: EmbedConfig,
        backbone: Backbone,
        model: str,
        *,
        framings: Mapping[str, Framing],
        precision: Precision,
        device: str,
        torch: str,
        split: dict[str, Any] | None = None,
        finetuned: Finetuned | None = None,
    ) -> "Provenance":
        """The provenance of a cache that `kinembed embed` writes with these settings.

        Args:
            config: the settings.
            backbone: record of the network.
            model: digest of its weights.
            framings: the frame of each folder's photos.
            precision: of the computation.
            device: its kind.
            torch: its version.
            split: the split of people in fine-tuning, if any.
            finetuned: the fine-tuning, if any.
        """
        given = {
            **{name: getattr(config, name) for name in ("model", "pixels", "onnx", "output")},
            "layout": config.layout if config.layout != "auto" else None,
            "people_table": config.people_table,
        }
        first = next(iter(framings.values()))
        input_ = backbone.recipe(first)
        if others := {key: asdict(each) for key, each in framings.items() if each != first}:
            input_["framings"] = others
        return cls(
            backbone=backbone.name,
            model=model,
            input=input_,
            dtype=config.dtype or "float32",
            precision=precision,
            device=device,
            versions={
                "kinembed": __version__,
                "torch": torch,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            command={
                "photos": list(config.photos),
                "backbone": config.backbone,
                "weights": config.weights,
                "framing": config.framing,
                **{key: str(value) for key, value in given.items() if value is not None},
            },
            split=split,
            finetuned=None if finetuned is None else finetuned.as_json(),
        )

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> "Provenance":
        """Reads the provenance of a cache.

        Raises:
            RunError: `kinembed embed` did not make the cache.
        """
        try:
            known = cls(**{key: value for key, value in content.items() if key != "schema"})
            known.settings(())
            known.framings()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{path}: was not made by kinembed embed ({error} is missing)") from None
        return known

    def as_json(self) -> dict[str, Any]:
        """The provenance as the cache holds it, as JSON types."""
        return {
            "schema": SCHEMA,
            **{key: value for key, value in vars(self).items() if value is not None},
        }

    def framings(self) -> dict[str, Framing]:
        """The frame of each folder's photos."""
        return framings_of(self.input, self.command["photos"])

    def settings(self, views: Sequence[str]) -> EmbedConfig:
        """The settings that reproduce such vectors.

        Args:
            views: of the cache. If only some have a mirrored view, as after a merge, all get one.
        """
        command, pixels = self.command, self.input["pixels"]
        onnx: dict[str, Any] = {}
        if "onnx" in command:
            onnx = {
                "onnx": Path(command["onnx"]),
                "output": command.get("output"),
                "side": self.input["framing"]["side"],
                "mean": tuple(pixels["mean"]),
                "scale": tuple(pixels["scale"]),
                "order": pixels["order"],
            }
        return EmbedConfig(
            photos=tuple(command["photos"]),
            layout=command.get("layout", "auto"),
            people_table=Path(command["people_table"]) if "people_table" in command else None,
            views=without_tta(views),
            flip=any(view.endswith(TTA) for view in views),
            model=Path(command["model"]) if "model" in command else None,
            backbone=command["backbone"],
            weights=command["weights"],
            framing=command["framing"],
            pixels=command.get("pixels"),
            device=self.device,
            precision=self.precision,
            dtype=self.dtype,
            **onnx,
        )


def check_provenance(about: Mapping[str, Any]) -> None:
    """Refuses a provenance whose values are not what they have to be; some may be missing.

    Raises:
        ValueError: naming the first; in a few words.
    """
    values = Values(about)
    values.text("model", MOST_MODEL)
    for key in ("backbone", "dtype", "precision", "device"):
        if key in about:
            values.text(key)
    for key in ("input", "versions", "imported", "command"):
        if key in about:
            values.object(key)
    for key in ("versions", "imported"):
        for name in about.get(key, {}):
            values.object(key).text(name)
    for name, value in about.get("command", {}).items():
        if isinstance(value, list):
            values.object("command").texts(name)
        elif value is not None:
            values.object("command").text(name)
    if about.get("split") is not None:
        split = values.object("split")
        split.choice("by", ("people", "families"))
        split.whole("seed", Bounds(least=0))
        for name in ("fraction", "test_fraction"):
            if name in split.content:
                split.number(name, Bounds(least=0, most=1))
        if "folds" in split.content:
            folds = split.whole("folds", Bounds(least=2, most=MOST_FOLDS))
            split.whole("fold", Bounds(least=1, most=folds))
        if "held_out" in split.content:
            split.text("held_out")
    Finetuned.of(about)


def framings_of(input_: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Framing]:
    """The frame of each folder's photos, by the `input` of a cache.

    Raises:
        KeyError, TypeError, AttributeError: what it says is not understood.
    """
    first, others = input_["framing"], input_.get("framings", {})
    return {folder: Framing.of_json(others.get(folder, first)) for folder in folders}


def embed_words(about: Mapping[str, Any], views: Sequence[str]) -> list[str]:
    """The options of the kinembed embed that made a cache, but --run and --data."""
    command = about.get("command", {})
    named = dict(command)
    if about.get("finetuned") is not None or "onnx" in command:
        for key in ("backbone", "weights"):
            named.pop(key, None)
    words: list[str] = []
    for key, value in named.items():
        if key == "photos":
            words += [] if value == ["train", "test"] else ["--photos", ",".join(map(str, value))]
        elif value and value != "auto":
            words += [f"--{key.replace('_', '-')}", str(value)]
    if "onnx" in command:
        pixels = about["input"]["pixels"]
        words += ["--side", str(about["input"]["framing"]["side"])]
        for key in ("mean", "scale"):
            numbers = [repr(each).removesuffix(".0") for each in pixels[key]]
            words += [f"--{key}", numbers[0] if len(set(numbers)) == 1 else ",".join(numbers)]
        words += ["--order", str(pixels["order"])]
    elif views:
        words += ["--views", ",".join(v for v in views if not v.endswith(TTA))]
    if views:
        words.append("--flip" if any(view.endswith(TTA) for view in views) else "--no-flip")
    if about["dtype"] != "float32":
        words += ["--dtype", about["dtype"]]
    if "precision" in about:
        words += ["--precision", about["precision"]]
    return words


def networks_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provenance of each network's cache, where several are stacked; else this one."""
    return provenance.get("caches") or [provenance]


def frames(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """The frames of a cache's photos, as `describe_frame` tells; empty where that is unknown."""
    texts: list[str] = []
    for about in networks_of(provenance):
        try:
            found = framings_of(about["input"], about["command"]["photos"]).values()
        except (KeyError, TypeError, AttributeError):
            continue
        texts += [describe_frame(str(about.get("backbone")), framing) for framing in found]
    return tuple(sorted(set(texts)))


def imported(backbone_name: str, dtype: str, path: Path, sha256: str) -> dict[str, Any]:
    """The provenance of imported vectors, as JSON types.

    Args:
        backbone_name: what made them; equal names count as one model.
        dtype: of the vectors in the cache.
        path: their file.
        sha256: of that file.
    """
    return {
        "schema": SCHEMA,
        "backbone": backbone_name,
        "model": hashlib.sha256(f"imported: {backbone_name}".encode()).hexdigest(),
        "dtype": dtype,
        "imported": {"vectors": path.name, "sha256": sha256},
        "versions": {"kinembed": __version__, "numpy": np.__version__},
    }


def vector_settings(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a provenance that determine the vectors; of the versions only torch's.

    Those of `input` stand among the others, so that a message names `framing` or `pixels`.
    """
    excluded = ("command", "versions", "imported", "input")
    settings = {key: value for key, value in provenance.items() if key not in excluded}
    settings |= provenance.get("input") or {}
    versions = provenance.get("versions")
    settings["torch"] = versions.get("torch") if isinstance(versions, dict) else None
    result: dict[str, Any] = json.loads(json.dumps(settings))  # as read from a file
    return result
