"""Synthetic people: traits, inheritance and families."""

import dataclasses
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True)
class Traits:
    """Inherited traits, each as a standard score in the population (0 is the mean)."""

    melanin: float
    undertone: float
    freckles: float
    hair_darkness: float
    hair_redness: float
    hair_wave: float
    hairline: float
    face_width: float
    face_length: float
    jaw_width: float
    chin_width: float
    chin_cleft: float
    cheek_fullness: float
    cheekbones: float
    eye_height: float
    eye_spacing: float
    eye_width: float
    eye_opening: float
    eye_tilt: float
    eye_depth: float
    iris_darkness: float
    iris_green: float
    brow_thickness: float
    brow_arch: float
    brow_slope: float
    brow_height: float
    nose_length: float
    nose_width: float
    nose_bridge: float
    nose_tip: float
    mouth_height: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    ear_size: float


class Person:
    """A person to paint: inherited traits, and a hair style, beard and glasses."""

    def __init__(self, traits: Traits, male: bool, parent: bool, age: float, rng: Rng) -> None:
        self.traits, self.male, self.parent, self.age = traits, male, parent, age
        self.hair_length = rng.uniform(0.0, 0.25) if male else rng.uniform(0.3, 1.0)
        self.parting = rng.uniform(-0.4, 0.4)
        self.fringe = max(0.0, rng.uniform(-0.9, 0.7))
        bearded = float(male and age > 19)
        self.beard = bearded * max(0.0, rng.uniform(-0.6, 0.9))
        self.moustache = bearded * max(0.0, rng.uniform(-0.6, 0.9))
        self.glasses = float(rng.random() < 0.2) * rng.uniform(0.4, 1.0)


@dataclass(frozen=True)
class Family:
    """People, and the kin pairs among them as indices: parents with children, and siblings."""

    people: tuple[Person, ...]
    kin: tuple[tuple[int, int], ...]


def sample_couple(rng: Rng, likeness: float = 0.5) -> tuple[Traits, Traits]:
    """Samples the traits of two parents, who look slightly alike, as real couples do."""
    shared, *own = rng.standard_normal((3, len(dataclasses.fields(Traits))))
    scores = np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * np.array(own)
    mother, father = scores.clip(-2.2, 2.2).tolist()
    return Traits(*mother), Traits(*father)


def inherit(mother: Traits, father: Traits, rng: Rng, noise: float = 0.15) -> Traits:
    """Samples a child's traits: each mostly from one parent, plus noise."""
    parents = np.array([dataclasses.astuple(mother), dataclasses.astuple(father)])  # (2, traits)
    weight = rng.beta(0.4, 0.4, parents.shape[1])  # (traits,) of the mother
    scores = weight * parents[0] + (1 - weight) * parents[1]
    scores += noise * rng.standard_normal(len(scores))
    return Traits(*scores.clip(-2.5, 2.5).tolist())


def sample_family(rng: Rng) -> Family:
    """Samples a father, a mother and their two or three children."""
    mother_age = rng.uniform(30, 60)
    father_age = mother_age + rng.uniform(-3, 6)
    mother, father = sample_couple(rng)
    people = [
        Person(father, True, True, father_age, rng),
        Person(mother, False, True, mother_age, rng),
    ]
    eldest = max(5.0, mother_age - rng.uniform(21, 32))
    for _ in range(int(rng.integers(2, 4))):
        traits = inherit(mother, father, rng)
        age = max(4.0, eldest - rng.uniform(0, 8))
        people.append(Person(traits, bool(rng.random() < 0.5), False, age, rng))
    spouses = (0, 1)
    kin = tuple(pair for pair in combinations(range(len(people)), 2) if pair != spouses)
    return Family(tuple(people), kin)
