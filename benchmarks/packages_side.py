"""The other side of `packages.py`: DeepFace, run in turns.

Needs `deepface` with TensorFlow, and nothing of kinembed. `packages.py` runs it; it prints a line
when it is ready, and one after each way of embedding that it reads: `one` or `list`.
"""

import os
import shutil
import sys
from pathlib import Path

del sys.path[0]  # this folder has a keras.py
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
model, listed, folder, *given = sys.argv[1:]
os.environ["DEEPFACE_HOME"] = folder
os.environ["DEEPFACE_BACKEND_ENGINE"] = "tensorflow"  # of Facenet; SFace always runs in onnxruntime

import numpy as np  # noqa: E402
from deepface import DeepFace  # noqa: E402


def put_weights() -> None:
    """Weights where DeepFace looks for them, so that it downloads nothing."""
    place = Path(folder) / ".deepface" / "weights"
    place.mkdir(parents=True, exist_ok=True)
    if model == "SFace":
        shutil.copy(given[0], place / "face_recognition_sface_2021dec.onnx")
        return
    from deepface.models.facial_recognition.tf.Facenet import InceptionResNetV1

    InceptionResNetV1(dimension=128).save_weights(str(place / "facenet_weights.h5"))


def represent(photos: str | list[str]) -> list[list[float]]:
    """The vectors of a photo, or of a list of photos."""
    answers = DeepFace.represent(photos, model_name=model, detector_backend="skip")
    faces = answers if isinstance(photos, str) else [face for each in answers for face in each]
    return [face["embedding"] for face in faces]


def main() -> None:
    """Serves turns until its input ends."""
    photos = Path(listed).read_text().splitlines()
    put_weights()
    represent(photos[0]), represent(photos)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "one":
            vectors = [vector for photo in photos for vector in represent(photo)]
        else:
            vectors = represent(photos)
        np.save(Path(folder) / "vectors.npy", np.array(vectors, np.float32))
        print("done", flush=True)


if __name__ == "__main__":
    main()
