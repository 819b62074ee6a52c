"""Galleries of a cache: pooled as people are, kept in a file, made again where that does not fit."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinembed.cache import EmbeddingCache
from kinembed.errors import DataError, RunError
from kinembed.heads.base import Head
from kinembed.heads.file import load_head
from kinembed.heads.pooled_people import PooledPeople, RepresentedPhotos
from kinembed.inference import gallery as module
from kinembed.inference.gallery import Gallery, Groups, open_gallery
from kinembed.inference.screen import Screen

PARTS = ("representations", "directions", "ambient", "counts")


@pytest.fixture
def own(answering: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answering, tmp_path / "own"))


def opened(run: Path, by: str = "person", path: Path | None = None, **rest) -> Gallery:
    head = load_head(run / "head.h5")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        groups = Groups.of(cache, by)
        return open_gallery(path or run / "gallery.h5", head, cache, groups, by, **rest)


def kept(found: Gallery) -> Gallery:
    """A copy in memory: a file that is mapped must not become shorter."""
    people = PooledPeople(*(np.array(getattr(found.people, name)) for name in PARTS))
    return Gallery(found.names, people, found.screen and Screen(*map(np.array, (
        found.screen.axes, found.screen.short, found.screen.lengths))))  # fmt: skip


def plain(run: Path, by: str) -> dict[bytes, PooledPeople]:
    """Everybody, pooled one by one."""
    head = load_head(run / "head.h5")
    found = {}
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        names = cache.names if by == "photo" else cache.people
        for name in sorted(set(names.tolist()) - {b""}):
            photos = RepresentedPhotos.at(head, cache, np.flatnonzero(names == name))
            found[name] = PooledPeople.of(head, photos, [np.arange(len(photos))])
    return found


def same(one: Gallery, other: Gallery) -> bool:
    return one.names.tolist() == other.names.tolist() and all(
        np.array_equal(getattr(one.people, name), getattr(other.people, name)) for name in PARTS
    )


@pytest.mark.parametrize("by", ["person", "photo"])
def test_everybody_is_pooled_as_they_are_alone(own: Path, by: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "PHOTOS", 5)  # so that there are many blocks
    read: list[int] = []
    found, wanted = opened(own, by, advance=read.append), plain(own, by)
    assert found.names.tolist() == list(wanted)
    for number, person in enumerate(wanted.values()):
        for name in PARTS:
            assert np.array_equal(getattr(found.people, name)[number], getattr(person, name)[0])
    assert sum(read) == found.people.counts.sum() and len(read) > 5


def test_the_file_is_read_the_next_time(own: Path, monkeypatch) -> None:
    first = opened(own)
    monkeypatch.setattr(RepresentedPhotos, "at", None)  # nobody is represented again
    assert same(first, opened(own)) and opened(own).path == own / "gallery.h5"


@pytest.mark.parametrize("screened", [False, True])
def test_a_file_of_others_or_a_damaged_one_is_made_again(
    own: Path, screened: bool, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(module, "SCREENED", 1 if screened else 10**9)
    first, path = kept(opened(own)), own / "gallery.h5"
    assert (first.screen is not None) == screened
    whole = path.read_bytes()
    caplog.set_level(logging.INFO, "kinembed")
    for content in (b"", b"x", whole[:-1], whole[: len(whole) // 2], whole + b"\0"):
        path.write_bytes(content)
        assert same(first, opened(own)) and "is made again" in caplog.text
        caplog.clear()
    place = whole.index(first.people.directions.tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert same(first, opened(own)) and "its numbers are damaged" in caplog.text
    assert path.read_bytes() == whole
    monkeypatch.setattr(module, "SCREENED", 10**9 if screened else 1)
    other = opened(own)
    assert same(first, other) and (other.screen is None) == screened
    path.unlink()
    path.mkdir()
    assert same(first, opened(own))


def test_damaged_representations_are_found_when_they_are_used(own: Path) -> None:
    first, path = kept(opened(own)), own / "gallery.h5"
    probe = PooledPeople(*(getattr(first.people, name)[:1] for name in PARTS))
    whole = path.read_bytes()
    place = whole.index(first.people.representations[3].tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    found = opened(own)
    assert len(found.with_probe(np.array([0, 1, 2]), probe)) == 4
    with pytest.raises(RunError, match=r"gallery\.h5: its numbers are damaged; delete it"):
        found.with_probe(np.array([0, 3]), probe)


def test_another_head_has_another_gallery(own: Path) -> None:
    first = opened(own)
    head: Head = load_head(own / "head.h5")
    with EmbeddingCache.open(own / "embeddings.h5") as cache:
        groups = Groups.of(cache, "person")
        other = open_gallery(own / "gallery.h5", replace(head, view="max+avg", projections=(
            replace(head.projections[0], kernel=np.ones((
                sum(cache.vectors(v).shape[1] for v in ("max", "avg")), 3), np.float32),
                bias=np.zeros(3, np.float32)),)), cache, groups, "person")  # fmt: skip
    assert other.people.representations.shape == (len(first), 3)


def test_a_cache_without_people_has_no_gallery_of_them(own: Path) -> None:
    with EmbeddingCache.open(own / "embeddings.h5") as cache:
        nobody = np.array([b""] * len(cache))
        cache.__dict__["people"] = nobody
        with pytest.raises(DataError, match="there are no people to search.*--by photo"):
            Groups.of(cache, "person")
        assert len(Groups.of(cache, "photo").names) == len(cache)
