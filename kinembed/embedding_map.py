"""The stage `map`: the photos of a cache on a plane, near where they are alike, as a page."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kinembed.arrays import Rows, Vectors, rows_not_finite
from kinembed.cache import Embeddings
from kinembed.cache.provenance import networks_of
from kinembed.cache.stacked import open_caches
from kinembed.config import MapConfig
from kinembed.data.families import cached_families
from kinembed.data.layouts import family_of
from kinembed.data.left_out import nearest as closest
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.heads.base import Head
from kinembed.heads.exact import unit
from kinembed.heads.file import read_head
from kinembed.heads.kept import IN_USE, caches_of
from kinembed.heads.query_expansion import vectors_at
from kinembed.heads.representations import check_model
from kinembed.inference.flat_map import MOST, FlatMap, flat_map, nearest
from kinembed.io import moved_together, write_bytes, write_csv
from kinembed.outputs import check_output, check_suffix
from kinembed.printable import counted
from kinembed.progress import Progress, silent
from kinembed.report.map_page import MapFacts, map_page
from kinembed.seeds import Stream, generator

log = logging.getLogger(__name__)

COLUMNS = ("name", "person", "family", "x", "y")

PAGE, PART, ABOUT = "map.html", "map-part.html", "map.json"


@dataclass(frozen=True)
class EmbeddingMap:
    """What was made.

    Attributes:
        path: the page.
        table: the coordinates, beside the page: `map.csv`.
        photos: that it shows.
        people: on them.
        families: of these.
        method: `umap` or `pca`.
        placed: what was placed: the head by its digest, or a view.
        thumbnails: on the page.
        same_person: share of the photos whose nearest on the map shows the same person, among
            people of several photos; None where there are none.
        same_family: the same of families, among photos in families of several photos.
        bytes: of the page.
    """

    path: Path
    table: Path
    photos: int
    people: int
    families: int
    method: str
    placed: str
    thumbnails: int
    same_person: float | None
    same_family: float | None
    bytes: int


def embedding_map(
    config: MapConfig, data: Path, run: Path, *, progress: Progress = silent
) -> EmbeddingMap:
    """Draws a map of a run's cache, a page that needs no other file, and a table beside it.

    They are `map.html` and `map.csv`, which `cache export --parquet` takes; of some people or
    families `map-part.html` and `map-part.csv`. Photos of nobody are left out, where anybody is
    known.

    Args:
        config: the settings.
        data: the data folder: relations, and photos where they are asked for.
        run: the run folder.
        progress: shows how far it is.

    Raises:
        KinembedError: there is no cache or no such view or family, or UMAP is asked for and
            missing.
    """
    caches = caches_of(run, head=run / IN_USE)
    is_part = bool(config.families) or config.people is not None
    out = config.out or run / (PART if is_part else PAGE)
    check_suffix(".html", out)
    table = out.with_suffix(".csv")  # of the coordinates
    for place in (out, table):
        own = [] if config.out else [place.name]
        check_output(place, [*caches, run / IN_USE], [run], own, data=data, header=COLUMNS)
    with open_caches(caches) as cache:
        names = [name.decode() for name in cache.names.tolist()]
        people = [person.decode() for person in cache.people.tolist()]
        rows = _chosen(people, config)
        vectors, of, words = _vectors(cache, run, config.view, rows)
        bad = rows_not_finite(vectors)
        if len(bad):
            name = names[rows[bad[0]]]
            raise RunError(
                f"{cache.path}: the vector of {name!r} is not finite; run kinembed embed"
            )
        about: dict[str, object] = {"cache": cache.digest, **of}
        shown = [people[row] for row in rows.tolist()]
        beware = _beware(cache, run, shown, "head" in of)
        kin = _kin(cache, data)
    with progress("placing", 1) as bar:
        flat = flat_map(vectors, config.method, config.seed)
        bar.advance(1)
    same_person, same_family = _shares_of_neighbours(flat, shown)
    facts = MapFacts(
        names=tuple(names[row] for row in rows.tolist()),
        people=tuple(shown),
        points=flat.points,
        kin=tuple(kin),
        how=_how(flat),
        what=words,
        beware=beware,
        of_all=len(names),
        same_person=same_person,
        same_family=same_family,
        photos=data if config.photos else None,
        again=_again(config, data, run),
    )
    with progress("drawing", 1) as bar:
        page, thumbnails = map_page(facts)
        bar.advance(1)
    content = page.encode()
    with moved_together(out.parent):  # the run folder may be another's, for reading alone
        write_csv(table, _table(facts), COLUMNS)
        if table == run / "map.csv":
            about |= {"method": flat.method, "seed": config.seed}
            write_bytes(run / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
        write_bytes(out, content)
    result = EmbeddingMap(
        out, table, len(shown), len({*shown} - {""}),
        len({family_of(person) for person in shown} - {""}), flat.method,
        of.get("head") or of["view"], thumbnails, same_person, same_family, len(content),
    )  # fmt: skip
    log.info(
        "%s: %s of %s, %.1f MB, open it in a browser; the coordinates are in %s", out,
        counted(result.photos, "photo"), counted(result.people, "person", "people"),
        result.bytes / 1e6, result.table,
    )  # fmt: skip
    return result


def _chosen(people: Sequence[str], config: MapConfig) -> Rows:
    """The rows to show, sorted; says what is left out."""
    rows = np.arange(len(people))
    if any(people):
        rows = np.array([row for row, person in enumerate(people) if person], np.intp)
        if nobody := len(people) - len(rows):
            log.info("left out: %s whose person is not known", counted(nobody, "photo"))
    elif config.families or config.people is not None:
        raise DataError(
            "who is on the photos is not known, so no families can be chosen; run kinembed embed "
            "with --photos of a folder FAMILY/PERSON/, or with --people-table"
        )
    rng = generator(config.seed, Stream.MAP)
    group = [person.split("/")[0] for person in people]  # one without a family is its own
    if config.families:
        known = set(group)
        for family in config.families:
            if family not in known:
                match = closest(family, [name.encode() for name in sorted(known)])
                raise DataError(
                    f"family {family!r}: not in the cache{f'; nearest: {match}' if match else ''}"
                )
        wanted = set(config.families)
        rows = np.array([row for row in rows.tolist() if group[row] in wanted], np.intp)
    if config.people is not None:
        members: dict[str, set[str]] = {}
        for row in rows.tolist():
            members.setdefault(group[row], set()).add(people[row])
        taken: set[str] = set()
        for family in rng.permutation(sorted(members)).tolist():
            if len(taken) >= config.people:
                break
            taken |= members[family]
        rows = np.array([row for row in rows.tolist() if people[row] in taken], np.intp)
    if len(rows) > MOST:
        log.info(
            "left out: %s; a map shows %s at most, drawn by --seed; --people and --families choose",
            counted(len(rows) - MOST, "photo"), f"{MOST:,}",
        )  # fmt: skip
        rows = np.sort(rng.choice(rows, MOST, replace=False))
    return rows


def _vectors(
    cache: Embeddings, run: Path, view: str | None, rows: Rows
) -> tuple[Vectors, dict[str, str], str]:
    """(R, D) vectors, what they are, and that in words."""
    head = _head(cache, run) if view is None else None
    if head is not None:
        vectors = head.represent(vectors_at(cache, head.view, rows))
        words = f"as the head {head.digest[:12]} represents them (view {head.view})"
        return vectors, {"head": head.digest[:12], "view": head.view}, words
    name = cache.choose_view(view)
    return unit(vectors_at(cache, name, rows)), {"view": name}, f"by cosines of view {name}"


def _beware(cache: Embeddings, run: Path, shown: Sequence[str], of_head: bool) -> str:
    """Who on the map was learnt from, and so lies nearer to their kin than new people would."""
    nearer = "nearer to their kin than people new to it: kinembed evaluate judges it."
    if of_head:
        head, _ = read_head(run / IN_USE)
        trained = len({*shown} & {*head.trained})
        return f"Of the people, {trained:,} trained the head, and lie {nearer}" if trained else ""
    networks = networks_of(cache.provenance)
    if any(network.get("finetuned") for network in networks):
        return f"The network was fine-tuned on kin, and who trained it lies {nearer}"
    return ""


def _head(cache: Embeddings, run: Path) -> Head | None:
    """The run's head, if there is one, and it fits the cache."""
    path = run / IN_USE
    if not path.is_file():
        return None
    head, _ = read_head(path)
    try:
        check_model(cache, head)
    except RunError as error:
        log.info("%s; the map is of a view", error)
        return None
    return head


def _kin(cache: Embeddings, data: Path) -> list[tuple[str, str, str]]:
    """Pairs of people who are listed as kin, and how."""
    try:
        families = cached_families(cache, data)
    except KinembedError as error:
        log.info("no lines between kin: %s", error)
        return []
    kinds = families.kinds or ("",) * len(families.relations)
    return [
        (families.people[a], families.people[b], kind)
        for (a, b), kind in zip(families.relations.tolist(), kinds, strict=True)
    ]


def _how(flat: FlatMap) -> str:
    if flat.method == "umap":
        return (
            "UMAP, which keeps each photo's nearest near; distances between far groups say little"
        )
    return (
        f"PCA, the two directions of most variance, {100 * (flat.variance or 0):.0f} % of it; what "
        "lies apart in the other directions may lie on one spot here, and UMAP (pip install "
        "'kinembed[map]') shows more"
    )


def _shares_of_neighbours(
    flat: FlatMap, people: Sequence[str]
) -> tuple[float | None, float | None]:
    """Shares of photos whose nearest on the map is of the same person, of the same family.

    Of photos of people, or families, that have another photo.
    """
    if len(people) < 2:
        return None, None
    closest_one = nearest(flat.points, 1)[0][:, 0]  # (N,)
    shares: list[float | None] = []
    for groups in (list(people), [family_of(person) for person in people]):
        names, owner, counts = np.unique(groups, return_inverse=True, return_counts=True)
        judged = (counts[owner] > 1) & (names[owner] != "")
        same = (owner[closest_one] == owner)[judged]
        shares.append(float(same.mean()) if len(same) else None)
    return shares[0], shares[1]


def _table(facts: MapFacts) -> list[dict[str, object]]:
    return [
        {"name": name, "person": person, "family": family_of(person), "x": x, "y": y}
        for name, person, (x, y) in zip(
            facts.names, facts.people, facts.points.tolist(), strict=True
        )
    ]


def _again(config: MapConfig, data: Path, run: Path) -> str:
    """The command that makes the page again."""
    import shlex

    words = ["kinembed", "map", "--run", str(run), "--data", str(data)]
    given = asdict(replace(config, out=None))
    for option in ("view", "method", "people", "seed"):
        if given[option] != getattr(MapConfig, option):
            words += [f"--{option}", str(given[option])]
    if config.families:
        words += ["--families", ",".join(config.families)]
    words += ["--photos"] * config.photos
    words += ["--out", str(config.out)] if config.out is not None else []
    return shlex.join(words)
