"""How well `kinembed audit` finds faults that are put into a data set, 50 of each kind.

    python benchmarks/audit.py --run RUN --data DATA --weights mobilefacenet.pt --out faults

Makes folders of links to the photos of --data, with faults in them, embeds them, trains a head
where relations are faulty, and audits them. Prints precision and recall at 50 of each kind of
fault; what was in the data before counts as wrong. The surety is the mean of the 50 surest.

With --exclude it measures how the AUC changes when the 100 surest findings of --run are left out of
training, on the same pairs out of fold.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kinembed.audit import audit
from kinembed.cache import EmbeddingCache
from kinembed.config import AuditConfig, EmbedConfig, HeadConfig
from kinembed.data.exclusions import read_exclusions
from kinembed.data.families import cached_families
from kinembed.embed import embed
from kinembed.evaluation.metrics import roc_auc
from kinembed.evaluation.out_of_fold import by_folds, out_of_fold_scores
from kinembed.head import head
from kinembed.heads.file import load_head
from kinembed.io import read_csv
from kinembed.report.tables import markdown_table
from kinembed.seeds import Stream, generator

EACH = 50
WITHIN, ACROSS = "false relation within a family", "false relation across families"
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

    def shuffle_families(self) -> None:
        """Everybody in a family takes the place of somebody of another: no relation is right."""
        families = defaultdict(list)
        for person in sorted({person for each in self.relations for person in each}):
            families[person.split("/")[0]].append(person)
        names = sorted(name for name, people in families.items() if 2 < len(people) < 9)
        some = [names[at] for at in self.rng.permutation(len(names))[:EACH]]
        photos = self.of()
        for nth in range(9):  # the second of a family goes farther than the first
            people = [families[name][nth] for name in some if nth < len(families[name])]
            for at, person in enumerate(people):
                for photo in photos[people[(at + nth + 1) % len(people)]]:
                    self.renamed(photo, person)
        for name in some:
            self.mark("shuffled family", tuple(families[name]), name)

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


# Faults that are put into one data set together: they are found as different kinds.
SETS: dict[str, dict[str, str]] = {
    "moved": {"moved photo": "photo"},
    "swapped": {"swapped photo": "photo"},
    "copies": {"copy": "copy"},
    "divided": {"one person as two": "double"},
    "families": {"shuffled family": "family"},
    "relations": {
        "swapped people": "person",
        "removed relation": "unlisted",
        WITHIN: "relation",
        ACROSS: "relation",
    },
}


def make(asked: argparse.Namespace, name: str) -> tuple[Path, Path, dict[str, list[list[str]]]]:
    """A data folder with faults, a run folder with its cache and, for relations, a head."""
    out = asked.out / f"{name}-{asked.seed}"
    data, run, truth = out / "data", out / "run", out / "faults.json"
    if not truth.exists():
        shutil.rmtree(out, ignore_errors=True)
        (out / "copies").mkdir(parents=True)
        faults = Faults(asked.data, asked.seed)
        if name == "moved":
            faults.move_photos()
        elif name == "swapped":
            faults.swap_photos()
        elif name == "copies":
            faults.copy_photos(out / "copies")
        elif name == "divided":
            faults.split_people()
        elif name == "families":
            faults.shuffle_families()
        else:
            faults.swap_people()
            faults.remove_relations()
            faults.add_relations(WITHIN, within=True)
            faults.add_relations(ACROSS, within=False)
        faults.write(data)
        run.mkdir()
        shutil.copy(asked.run / "embeddings.h5", run)
        embed(EmbedConfig(backbone=asked.backbone, weights=asked.weights), data, run)
        if name in ("families", "relations"):
            head(HeadConfig(seed=asked.seed), data, run)
        truth.write_text(json.dumps(faults.put, indent=1))
    return data, run, json.loads(truth.read_text())


def found(row: dict[str, str]) -> tuple[str, ...]:
    """What a finding is of, as the faults name it."""
    if row["kind"] == "photo":
        return (row["photo"].removeprefix("train/"),)
    if row["kind"] == "copy":
        return tuple(sorted(row[key].removeprefix("train/") for key in ("photo", "other_photo")))
    return tuple(sorted(filter(None, (row["person"], row["other_person"]))))


def judge(asked: argparse.Namespace) -> None:
    """Precision and recall at 50 of each kind of fault, beside the mean surety."""
    table = [["fault", "finding", "put", "precision at 50", "recall at 50", "in all", "surety"]]
    for name, kinds in SETS.items():
        if asked.set not in ("", name):
            continue
        data, run, put = make(asked, name)
        start = time.perf_counter()
        wanted = tuple(dict.fromkeys(kinds.values()))
        path = audit(AuditConfig(kinds=wanted, least=0, pictures=False), data, run)
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        rows = read_csv(path)[1]
        for fault, kind in kinds.items():
            faults = {tuple(each) for each in put[fault]}
            if fault == "swapped people":
                faults = {(person,) for each in faults for person in each}
            own = [row for row in rows if row["kind"] == kind and "test/" not in row["photo"]]
            if kind == "relation":
                own = [
                    row for row in own if ("of two families" in row["reason"]) == (fault == ACROSS)
                ]
            hits = [found(row) in faults for row in own]
            sure = [float(row["surety"]) for row in own[:EACH]]
            table.append(
                [fault, kind, str(len(faults)), f"{np.mean(hits[:EACH]):.2f}",
                 f"{sum(hits[:EACH]) / len(faults):.2f}", str(sum(hits)), f"{np.mean(sure):.2f}"]
            )  # fmt: skip
    print(markdown_table(table, 2))


def leave_out(asked: argparse.Namespace) -> None:
    """How the AUC changes when the surest findings of --run are left out of training."""
    folder = asked.out / "left-out"
    folder.mkdir(parents=True, exist_ok=True)
    cache = EmbeddingCache.open(asked.run / "embeddings.h5")
    families = cached_families(cache, asked.data)
    table = [["left out", "seed", "photos", "pairs", "AUC with", "AUC without", "change"]]
    for what in ("all", "photo", "person,relation,unlisted"):
        kinds = () if what == "all" else tuple(what.split(","))
        path = folder / f"{what}.csv"
        audit(AuditConfig(kinds=kinds, least=0, pictures=False, write=path), asked.data, asked.run)
        excluded = read_exclusions(path)
        for seed in range(asked.seeds):
            heads = []
            for name, exclude in (("with", None), (what, path)):
                run = folder / f"{name}-{seed}"
                if not (run / "head.h5").exists():
                    config = HeadConfig(seed=seed, exclude=exclude, caches=(cache.path,))
                    head(config, asked.data, run)
                heads.append(load_head(run / "head.h5"))
            before, after = heads
            assert all(set(b) <= set(a) for a, b in zip(before.folds, after.folds, strict=True))
            rng = generator(seed, Stream.EVALUATION_PAIRS)
            scored = out_of_fold_scores(before, cache, families, 40_000, rng)
            fold_of = {person: at for at, fold in enumerate(before.folds) for person in fold}
            folds = np.array([fold_of[both[0]] for both in scored.pairs.people(cache)])
            again = by_folds(after, cache, scored.pairs, folds)
            one, two = (roc_auc(scored.pairs.labels, each.logits) for each in (scored, again))
            table.append(
                [what, str(seed), str(len(excluded.photos)), str(len(excluded.pairs)),
                 f"{one:.4f}", f"{two:.4f}", f"{two - one:+.4f}"]
            )  # fmt: skip
            print(table[-1], flush=True)
    print(markdown_table(table, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/default"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--set", default="", choices=("", *SETS), help="these faults alone")
    parser.add_argument("--exclude", action="store_true", help="leave findings out of training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings each, with --exclude")
    asked = parser.parse_args()
    (leave_out if asked.exclude else judge)(asked)


if __name__ == "__main__":
    main()
