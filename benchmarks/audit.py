"""How well `kinembed audit` finds faults that are put into a data set, 50 of each kind.

    python benchmarks/audit.py --run RUN --data DATA --weights mobilefacenet.pt --out faults

Makes a folder of links to the photos of --data, with faults in it, embeds it, trains a head on it
and audits it. Prints precision and recall at 50 of each kind; what was in the data before counts as
wrong. --exclude measures, in place of that, how the AUC changes when the surest findings of --run
are left out of training.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from kinembed.audit import audit
from kinembed.config import AuditConfig, EmbedConfig, HeadConfig
from kinembed.embed import embed
from kinembed.head import head
from kinembed.io import read_csv

EACH = 50
COPIES = ("as it is", "re-encoded", "resized", "cropped", "mirrored")


class Faults:
    """A data set as tables, and the faults put into it.

    Attributes:
        photos: who is on each photo, by its name below `train/`.
        files: the file of each photo.
        relations: pairs of people.
        put: the faults by kind.
    """

    def __init__(self, data: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.data = data
        names = sorted(str(path.relative_to(data / "train")) for path in data.glob("train/*/*/*"))
        self.photos = {name: name.rpartition("/")[0] for name in names}
        self.files = {name: data / "train" / name for name in names}
        with (data / "train_relationships.csv").open() as file:
            rows = list(csv.reader(file))[1:]
        have = set(self.photos.values())
        pairs = {pair(*(cell.replace("\\", "/") for cell in row)) for row in rows}
        self.relations = {each for each in pairs if set(each) <= have}
        self.put: dict[str, list[list[str]]] = defaultdict(list)
        self.touched: set[str] = set()  # people with a fault: each has one at most

    def of(self) -> dict[str, list[str]]:
        """The photos of each person."""
        result = defaultdict(list)
        for name, person in self.photos.items():
            result[person].append(name)
        return result

    def drawn(self, least: int, related: bool = False) -> list[str]:
        """People without a fault, with so many photos, in random order."""
        kin = {person for each in self.relations for person in each}
        some = [
            person
            for person, photos in sorted(self.of().items())
            if len(photos) >= least and person not in self.touched
            and (person in kin or not related)
        ]  # fmt: skip
        return [some[at] for at in self.rng.permutation(len(some))]

    def another(self, person: str, family: bool) -> str:
        """Another person without a fault, of two photos or more; of the same family or not."""
        for other in self.drawn(2):
            if other != person and (other.split("/")[0] == person.split("/")[0]) == family:
                return other
        return self.another(person, False)

    def mark(self, kind: str, people: tuple[str, ...], *names: str) -> None:
        self.touched.update(people)
        self.put[kind].append(list(names))

    def renamed(self, photo: str, person: str) -> str:
        """Puts a photo under another person; its new name."""
        name = f"{person}/{photo.replace('/', '-')}"
        self.files[name] = self.files.pop(photo)
        del self.photos[photo]
        self.photos[name] = person
        return name

    def move_photos(self) -> None:
        for number in range(EACH):
            person = self.drawn(3)[0]
            other = self.another(person, family=number % 2 == 0)
            photo = str(self.rng.choice(self.of()[person]))
            self.mark("moved photo", (person, other), self.renamed(photo, other))

    def swap_photos(self) -> None:
        for number in range(EACH // 2):
            person = self.drawn(3)[0]
            other = self.another(person, family=number % 2 == 0)
            one, two = (str(self.rng.choice(self.of()[p])) for p in (person, other))
            self.mark("swapped photo", (person, other), self.renamed(one, other))
            self.mark("swapped photo", (), self.renamed(two, person))

    def swap_people(self) -> None:
        for _ in range(EACH // 2):
            person, other, *_ = self.drawn(2, related=True)
            photos = self.of()
            for one, two in ((person, other), (other, person)):
                for photo in photos[one]:
                    self.renamed(photo, two)
            self.mark("swapped people", (person, other), *sorted((person, other)))

    def split_people(self) -> None:
        for _ in range(EACH):
            person = self.drawn(4)[0]
            photos = self.rng.permutation(self.of()[person]).tolist()
            new = f"{person.split('/')[0]}/MID9{len(self.put['one person as two'])}"
            for photo in photos[: len(photos) // 2]:
                self.renamed(photo, new)
            self.mark("one person as two", (person, new), *sorted((person, new)))

    def copy_photos(self, folder: Path) -> None:
        for number in range(EACH):
            how = COPIES[number % len(COPIES)]
            person = self.drawn(2)[0]
            other = self.another(person, family=number % 4 == 0)
            photo = str(self.rng.choice(self.of()[person]))
            name = f"{other}/copy{number}.jpg"
            path = folder / f"{number}.jpg"
            if how == "as it is":
                shutil.copy(self.files[photo], path)
            else:
                changed(Image.open(self.files[photo]), how, self.rng).save(path, quality=70)
            self.files[name], self.photos[name] = path, other
            self.mark("copy", (person, other), *sorted((photo, name)))

    def add_relations(self, kind: str, within: bool) -> None:
        people = sorted(set(self.photos.values()) - self.touched)
        families = defaultdict(list)
        for person in people:
            families[person.split("/")[0]].append(person)
        pairs = {
            pair(a, b)
            for group in families.values() for a in group for b in group if a < b
        } - self.relations if within else set()  # fmt: skip
        while not within and len(pairs) < EACH:
            a, b = self.rng.choice(people, 2, replace=False).tolist()
            if a.split("/")[0] != b.split("/")[0]:
                pairs.add(pair(a, b))
        some = sorted(pairs)
        for at in self.rng.permutation(len(some))[:EACH].tolist():
            self.relations.add(some[at])
            self.mark(kind, (), *some[at])

    def remove_relations(self) -> None:
        put = {tuple(each) for kind in self.put for each in self.put[kind]}
        some = sorted(
            each for each in self.relations if each not in put and not set(each) & self.touched
        )
        for at in self.rng.permutation(len(some))[:EACH].tolist():
            self.relations.discard(some[at])
            self.mark("removed relation", (), *some[at])

    def write(self, out: Path) -> None:
        for name, file in self.files.items():
            path = out / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(file.resolve())
        if (self.data / "test").is_dir():
            (out / "test").symlink_to((self.data / "test").resolve())
        with (out / "train_relationships.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("p1", "p2"), *sorted(self.relations)])


def pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


def changed(image: Image.Image, how: str, rng: np.random.Generator) -> Image.Image:
    """A copy of a photograph as they are found."""
    image = image.convert("RGB")
    width, height = image.size
    if how == "resized":
        return image.resize((width // 2, height // 2))
    if how == "cropped":
        left, top, right, bottom = rng.uniform(0, 0.12, 4) * [width, height, width, height]
        return image.crop((int(left), int(top), int(width - right), int(height - bottom)))
    return ImageOps.mirror(image) if how == "mirrored" else image


def make(asked: argparse.Namespace, seed: int) -> tuple[Path, Path, dict[str, Any]]:
    """A data folder with faults and a run folder with its cache and head; and the faults."""
    out = asked.out / f"seed{seed}"
    data, run, truth = out / "data", out / "run", out / "faults.json"
    if not truth.exists():
        shutil.rmtree(out, ignore_errors=True)
        (out / "copies").mkdir(parents=True)
        faults = Faults(asked.data, seed)
        faults.split_people()
        faults.swap_people()
        faults.move_photos()
        faults.swap_photos()
        faults.copy_photos(out / "copies")
        faults.remove_relations()
        faults.add_relations("false relation, within a family", within=True)
        faults.add_relations("false relation, across families", within=False)
        faults.write(data)
        run.mkdir()
        shutil.copy(asked.run / "embeddings.h5", run)
        embed(EmbedConfig(backbone="mobilefacenet", weights=asked.weights), data, run)
        head(HeadConfig(seed=seed), data, run)
        truth.write_text(json.dumps(faults.put, indent=1))
    return data, run, json.loads(truth.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data, run, put = make(asked, asked.seed)
    path = audit(AuditConfig(), data, run)
    print(len(read_csv(path)[1]), {kind: len(each) for kind, each in put.items()})


if __name__ == "__main__":
    main()
