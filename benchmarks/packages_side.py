"""The other side of `packages.py`: DeepFace, run in turns.

Needs `deepface` with TensorFlow, and nothing of kinembed. `packages.py` runs it; it prints a line
when it is ready, and one after each way of embedding that it reads: `one`, `list` or `defaults`.
"""

import os
import re
import shutil
import sys
from pathlib import Path

del sys.path[0]  # this folder has a keras.py
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
model, listed, folder, weights = sys.argv[1:]
os.environ["DEEPFACE_HOME"] = folder
os.environ["DEEPFACE_BACKEND_ENGINE"] = "tensorflow"  # of Facenet; SFace always runs in onnxruntime

import numpy as np  # noqa: E402
from deepface import DeepFace  # noqa: E402

# By facenet-pytorch's order; within these, DeepFace's names of layers are in order.
STAGES = ("Conv2d", "Block35", "Mixed_6a", "Block17", "Mixed_7a", "Block8", "Bottleneck")


def place(name: str) -> tuple[int, int, str]:
    """Where a layer of Facenet stands among all."""
    stage = next(at for at, stage in enumerate(STAGES) if name.startswith(stage))
    block = re.match(r"Block\d+_(\d+)_", name)
    return stage, int(block[1]) if block else 0, name


def put_weights() -> None:
    """Weights where DeepFace looks for them, so that it downloads nothing."""
    folder_of_weights = Path(folder) / ".deepface" / "weights"
    folder_of_weights.mkdir(parents=True, exist_ok=True)
    if model == "SFace":
        shutil.copy(weights, folder_of_weights / "face_recognition_sface_2021dec.onnx")
        return
    from deepface.models.facial_recognition.tf.Facenet import InceptionResNetV1

    network = InceptionResNetV1(dimension=512)
    arrays = iter(np.load(weights).values())
    for layer in sorted(
        (layer for layer in network.layers if hasattr(layer, "kernel")),
        key=lambda layer: place(layer.name),
    ):  # Keras has the outputs last
        layer.set_weights([next(arrays).T.swapaxes(0, 1) if each.ndim == 4 else next(arrays).T
                           for each in layer.get_weights()])  # fmt: skip
    network.save_weights(str(folder_of_weights / "facenet512_weights.h5"))


def represent(photos: str | list[str], **options: str) -> list[list[float]]:
    """The vectors of a photo, or of a list of photos."""
    answers = DeepFace.represent(photos, model_name=model, detector_backend="skip", **options)
    faces = answers if isinstance(photos, str) else [face for each in answers for face in each]
    return [face["embedding"] for face in faces]


def main() -> None:
    """Serves turns until its input ends."""
    photos = Path(listed).read_text().splitlines()
    photos, alike = photos[: len(photos) // 2], photos[len(photos) // 2 :]
    as_kinembed = {} if model == "SFace" else {"normalization": "Facenet2018"}
    put_weights()
    represent(alike[0], **as_kinembed), represent(alike, **as_kinembed)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "one":
            vectors = [vector for photo in alike for vector in represent(photo, **as_kinembed)]
        elif line.strip() == "list":
            vectors = represent(alike, **as_kinembed)
        else:
            vectors = represent(photos)
        np.save(Path(folder) / "vectors.npy", np.array(vectors, np.float32))
        print("done", flush=True)


if __name__ == "__main__":
    main()
