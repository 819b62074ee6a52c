"""What made the vectors of a cache: written by `kinembed embed`, and read back to repair it."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from kinembed import __version__
from kinembed.backbones import Backbone
from kinembed.cache.schema import SCHEMA
from kinembed.config import EmbedConfig, Precision
from kinembed.errors import RunError
from kinembed.recipes import Recipe, read_recipe
from kinembed.views import TTA, without_tta


@dataclass(frozen=True)
class Finetuned:
    """How `kinembed finetune` trained a network.

    Attributes:
        recipe: of its training.
        view: that it learnt to compare.
    """

    recipe: Recipe
    view: str

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> "Finetuned | None":
        """What a cache says of its network; None where that was not fine-tuned.

        Raises:
            KinembedError, KeyError, TypeError: what it says is not understood.
        """
        about = provenance.get("finetuned")
        return None if about is None else cls(read_recipe(about["recipe"]), str(about["view"]))

    def as_json(self) -> dict[str, Any]:
        """What stands in a cache, as JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(self.recipe.as_record()))
        return {"recipe": plain, "view": self.view}


@dataclass(frozen=True)
class Provenance:
    """All that changes a number in a cache, and what was asked for to get it.

    Attributes:
        backbone: name of the network.
        model: digest of its weights.
        input: the photos' way into it: `framing` and `pixels`, as `Backbone.recipe` has them.
        dtype: of the vectors.
        precision: what the network computed in.
        device: on what, without its number.
        versions: of Python and the libraries, by name.
        command: `photos`, `backbone`, `weights` and, where one was given, `onnx`.
        split: how people were drawn for its validation; None where it was not fine-tuned.
        finetuned: how, as of `Finetuned.as_json`; None where it was not.
    """

    backbone: str
    model: str
    input: dict[str, Any]
    dtype: Literal["float32", "float16"]
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
        precision: Precision,
        device: str,
        torch: str,
        split: dict[str, Any] | None = None,
        finetuned: Finetuned | None = None,
    ) -> "Provenance":
        """What `kinembed embed` with these settings writes.

        Args:
            config: its settings.
            backbone: record of the network.
            model: digest of its weights.
            precision: what it computes in.
            device: on what.
            torch: its version.
            split: how people were drawn for its validation, where it was fine-tuned.
            finetuned: how, where it was.
        """
        return cls(
            backbone=backbone.name,
            model=model,
            input=backbone.recipe(),
            dtype=config.dtype,
            precision=precision,
            device=device,
            versions={
                "kinembed": __version__,
                "torch": torch,
                "numpy": np.__version__,
                "h5py": h5py.__version__,
                "python": platform.python_version(),
            },
            command={
                "photos": list(config.photos),
                "backbone": config.backbone,
                "weights": config.weights,
                **({"onnx": str(config.onnx)} if config.onnx else {}),
            },
            split=split,
            finetuned=None if finetuned is None else finetuned.as_json(),
        )

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> "Provenance":
        """What a cache says of itself.

        Raises:
            RunError: it was made by something else than `kinembed embed`.
        """
        try:
            known = cls(**{key: value for key, value in content.items() if key != "schema"})
            known.settings(())
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: was not made by kinembed embed ({error} is missing)") from None
        return known

    def as_json(self) -> dict[str, Any]:
        """What stands in the cache, as JSON types."""
        return {
            "schema": SCHEMA,
            **{key: value for key, value in vars(self).items() if value is not None},
        }

    def settings(self, views: Sequence[str]) -> EmbedConfig:
        """The settings that make such vectors again.

        Args:
            views: of the cache. Where only some of them have one of mirrored photos, as after a
                merge, all get one.
        """
        command, pixels = self.command, self.input["pixels"]
        onnx = {}
        if "onnx" in command:
            onnx = {
                "onnx": Path(command["onnx"]),
                "side": self.input["framing"]["side"],
                "mean": tuple(pixels["mean"]),
                "scale": tuple(pixels["scale"]),
                "order": pixels["order"],
            }
        return EmbedConfig(
            photos=tuple(command["photos"]),
            views=without_tta(views),
            flip=any(view.endswith(TTA) for view in views),
            backbone=command["backbone"],
            weights=command["weights"],
            device=self.device,
            precision=self.precision,
            dtype=self.dtype,
            **onnx,
        )


def imported(backbone_name: str, dtype: str, path: Path, sha256: str) -> dict[str, Any]:
    """What stands in a cache of vectors that were made elsewhere, as JSON types.

    Args:
        backbone_name: what made them; vectors of one name count as of one model.
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
    """What of a provenance the vectors depend on: of the versions, torch's alone."""
    beside = ("command", "versions", "imported")
    settings = {key: value for key, value in provenance.items() if key not in beside}
    versions = provenance.get("versions")
    settings["torch"] = versions.get("torch") if isinstance(versions, dict) else None
    result: dict[str, Any] = json.loads(json.dumps(settings))  # as it comes back from a file
    return result
