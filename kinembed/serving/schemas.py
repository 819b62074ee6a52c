"""What /openapi.json says of answers; the answers themselves are not checked against it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One line.")


class Face(BaseModel):
    """Where a face is on its photo."""

    box: list[float] = Field(description="Left, top, right, bottom, in pixels, upright.")
    points: list[list[float]] | None = Field(description="Eyes, nose, corners of the mouth.")
    probability: float | None


class TakenPhoto(BaseModel):
    """A photo, and the faces on it."""

    photo: str
    sha256: str
    crop: bool = Field(description="The whole photo is the crop of a face.")
    face: int = Field(description="The face that was taken, from 1.")
    faces: list[Face]


class Person(BaseModel):
    """A person, as found on a photo."""

    path: str
    photos: list[TakenPhoto]


class Compared(BaseModel):
    """What is known of two people; probabilities add up to 1."""

    sentence: str = Field(description="The answer in words.")
    answer: str = Field(description="same_person, kin or unrelated, whichever is likeliest.")
    same_person: float
    kin: float
    unrelated: float
    far: float = Field(description="Share of unrelated pairs at least as alike.")
    logit: float
    log_odds: float = Field(description="Of kin against unrelated, before any prior.")
    priors: dict[str, float]
    source: str = Field(description="Network, head and calibration.")
    notes: list[str]
    model: str
    head: str
    people: list[Person]


class Found(BaseModel):
    """Somebody in the cache."""

    name: str
    known: bool
    same_person: float
    kin: float
    unrelated: float
    far: float
    strangers: float = Field(description="Strangers in the cache at least as alike.")
    log_odds: float
    photos: int
    photo: str


class SearchAnswer(BaseModel):
    """Who in the cache is most likely kin, the most evidence first."""

    probe: dict[str, Any]
    gallery: int
    same_person: list[Found]
    kin: list[Found]
    priors: dict[str, float]
    source: str
    notes: list[str]
    sentences: list[str] = Field(description="All of it in words.")


class Represented(BaseModel):
    """The vectors of a face."""

    vectors: dict[str, list[float]] = Field(description="Of each view that the head takes.")
    representation: list[float] = Field(description="What the head makes of them.")
    source: str
    model: str
    head: str
    people: list[Person]


class Health(BaseModel):
    """That the server answers, and what answers."""

    status: str
    version: str
    source: str
    model: str
    head: str
    searched: int | None = Field(description="How many people, or photos, /search looks through.")
    searched_by: str | None
    not_searched: str = Field(description="Why /search finds nobody, and what to run.")
    inside: int = Field(description="Requests that are being answered.")
