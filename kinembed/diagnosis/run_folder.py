"""The run folder: which artefacts are there, and which do not fit each other."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kinembed.cache import EmbeddingCache, cache_at
from kinembed.cache.provenance import Provenance
from kinembed.cache.stacked import open_caches
from kinembed.cache.verify import verify
from kinembed.config import EmbedConfig
from kinembed.data.photo_files import FOLDERS
from kinembed.diagnosis.finding import Finding, of_error
from kinembed.diagnosis.states import DataState, RunState
from kinembed.errors import KinembedError, RunError
from kinembed.evaluation.calibration import check_calibration, load_calibration
from kinembed.evaluation.cross_fitting import FEWEST
from kinembed.file_kinds import describe_file
from kinembed.fold_runs import fold_run, has_folds, shared_settings
from kinembed.heads.base import Head
from kinembed.heads.file import read_head
from kinembed.heads.kept import caches_of, is_cache, learnt_from
from kinembed.heads.representations import check_knn_view, check_model
from kinembed.io import is_locked
from kinembed.printable import counted

MOST_READ = 1 << 29  # bytes of a cache that is read whole
LEFTOVER = re.compile(r"\..+-[0-9a-f]{16}\.tmp", re.DOTALL)  # a file of a killed process


def examine_run(run: Path, data: DataState, state: RunState) -> Iterator[Finding]:
    """The artefacts of a run folder, each alone and with those it needs; fills `state`."""
    if not run.is_dir():
        if run.exists():
            yield Finding("run", f"{run}: is a file", "wrong", "name a folder with --run DIR")
        else:
            yield Finding("run", f"{run}: no such folder yet; the first command makes it")
        return
    state.files = sorted(path.name for path in run.iterdir())
    yield from _model(run / "model.pt", state)
    yield from _folds(run, state)
    yield from _partial(run / "embed.partial", state)
    path = cache_at(run / "embeddings.h5")
    state.album = "relate.csv" in state.files
    if state.album:
        fact = f"{run / 'relate.csv'}: an album; relate.html shows it"
        yield Finding("run", fact, values={"album": True})
    if os.path.lexists(path):
        yield from _cache_at(path, data, state)
    elif named := learnt_from(run / "head.h5"):
        yield from _named(named, data, state)
    elif not state.album:
        yield Finding("run", f"{path}: not there yet", values={"embeddings": False})
    yield from _others(run, state)


def _cache_at(
    path: Path, data: DataState, state: RunState, most: int = MOST_READ
) -> Iterator[Finding]:
    """A cache that is there, be it one or not; reads one of at most so many bytes whole."""
    try:
        cache = EmbeddingCache.open(path)
    except (KinembedError, OSError) as error:
        state.cache, state.damaged = False, True
        yield _problem(error, embeddings=False)
        return
    with cache:
        yield from _cache(cache, data, state, most)


def _named(caches: list[Path], data: DataState, state: RunState) -> Iterator[Finding]:
    """The caches that the head learnt from, in other folders."""
    sound, first = True, RunState()
    is_gone, left = False, []
    for path in caches:
        one = RunState(partial=state.partial)
        if is_cache(path):
            yield from _cache_at(cache_at(path), data, one, MOST_READ // len(caches))
        else:
            is_gone = True
        if one.cache:
            left.append(path)
        sound &= one.cache
        if first.place is None and (not one.cache or one.stale):
            one.place, first = path.parent, one
    state.cache, state.damaged, state.stale = sound, first.damaged, first.stale
    state.place, state.options = first.place, first.options or state.options
    if is_gone:
        state.left = tuple(left)


def _model(path: Path, state: RunState) -> Iterator[Finding]:
    if not os.path.lexists(path):
        return
    kind = describe_file(path)
    if kind != "a PyTorch file":
        yield Finding(
            "run", f"{path}: is {kind or 'no model'}", "wrong",
            "run kinembed finetune again, or name another with --model",
        )  # fmt: skip
        return
    try:
        from kinembed.training.siamese import load_model

        network = load_model(path)
    except (KinembedError, OSError) as error:
        yield _problem(error)
        return
    state.model = True
    yield Finding(
        "run", f"{path}: {network.backbone.name}, fine-tuned by recipe {network.recipe.name}",
        values={"model": network.backbone.name},
    )  # fmt: skip


def _folds(run: Path, state: RunState) -> Iterator[Finding]:
    """The networks of `finetune --folds`."""
    if not has_folds(run):
        return
    try:
        count = shared_settings(run)["folds"]
    except KinembedError as error:
        yield _problem(error)
        return
    folders = [fold_run(run, number) for number in range(1, count + 1)]
    trained, embedded = (
        sum((folder / name).is_file() for folder in folders)
        for name in ("model.pt", "embeddings.h5")
    )
    if trained < count:
        state.folds = f"finetune --folds {count} --resume"
    elif embedded < count:
        state.folds = "embed --folds"
    else:
        state.folds = "head --fine-tuned"
    about = f"{trained} of {counted(count, 'network')} by folds trained, {embedded} embedded"
    fact = f"{run / 'folds'}: {about}"
    yield Finding("run", fact, values={"folds": count, "trained": trained, "embedded": embedded})


def _partial(folder: Path, state: RunState) -> Iterator[Finding]:
    """An embedding that is running or was interrupted."""
    if not folder.is_dir():
        return
    if is_locked(folder / "lock"):
        state.busy = True
        yield Finding("run", f"{folder}: another kinembed embeds into it now", "note")
        return
    shards = sorted(path for path in folder.iterdir() if re.fullmatch(r"\d+\.json", path.name))
    if not shards:
        return  # the next embedding takes the folder
    state.partial = True
    for path in folder.glob("*.h5"):
        with suppress(KinembedError, OSError), EmbeddingCache.open(path) as cache:
            state.options = _options(cache)
            break
    yield Finding(
        "run", f"{folder}: an interrupted embedding, {counted(len(shards), 'shard')} done", "note",
        "run the same kinembed embed again, which goes on from there, or add --restart",
        {"shards": len(shards)},
    )  # fmt: skip


def _options(cache: EmbeddingCache) -> str:
    """The options of `embed` that say where a cache's vectors come from.

    Raises:
        RunError: `embed` did not make it.
    """
    config = Provenance.read(cache.provenance, cache.path).settings(cache.views)
    usual = EmbedConfig()
    words: list[str] = []
    for name in ("photos", "layout", "people_table", "model", "backbone", "weights", "framing"):
        value = getattr(config, name)
        if value not in (getattr(usual, name), None):
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    if config.onnx is not None:
        words += ["--onnx", str(config.onnx)]
    if config.flip:
        words.append("--flip")
    return shlex.join(words)


def _cache(cache: EmbeddingCache, data: DataState, state: RunState, most: int) -> Iterator[Finding]:
    """Whether the cache is sound, what it holds, and whether it is of the present photos."""
    size = cache.bytes
    about = cache.provenance
    backbone = str(about.get("backbone", ""))
    fact = (
        f"{cache.path}: {counted(len(cache), 'photo')} by {backbone or 'another program'}, "
        f"views {', '.join(cache.views)}, {size / 1e6:,.1f} MB"
    )
    values = {"embeddings": True, "photos": len(cache), "views": list(cache.views), "bytes": size}
    if size > most:
        yield Finding(
            "run", f"{fact}; not read whole", "fine", "kinembed cache verify reads it", values
        )
        sound = True
    else:
        verification = verify(cache.path)
        sound = verification.is_sound
        if sound:
            yield Finding("run", f"{fact}, sound", values=values)
        else:
            problem = verification.as_text().splitlines()[-1]
            yield Finding("run", problem, "wrong", verification.cure, values)
    state.cache, state.damaged = sound, not sound
    if not sound or data.photos is None:
        return
    try:
        folders = Provenance.read(about, cache.path).settings(cache.views).photos
    except RunError:
        return  # of another program
    if not {*folders} <= {*FOLDERS}:
        return
    if not state.partial:
        state.options = _options(cache)
    cached = {
        name.decode(): tuple(stats)
        for name, stats in zip(cache.names.tolist(), cache.stats.tolist(), strict=True)
    }
    now = data.photos.paths
    new, gone = now.keys() - cached.keys(), cached.keys() - now.keys()
    both = now.keys() & cached.keys()
    changed = sum(_has_other_size(now[name], cached[name][0]) for name in both)
    if new or gone or changed:
        state.stale = True
        yield Finding(
            "run",
            f"{cache.path}: since it was made {len(new):,} photos came, {len(gone):,} went, "
            f"{changed:,} changed",
            "note", "run kinembed embed again, which computes what is new",
            {"new": len(new), "gone": len(gone), "changed": changed},
        )  # fmt: skip


def _has_other_size(path: Path, size: int) -> bool:
    try:
        return size >= 0 and path.stat().st_size != size
    except OSError:
        return True


def _others(run: Path, state: RunState) -> Iterator[Finding]:
    """Head, calibration, figures, submission, what is kept, and leftovers."""
    head: Head | None = None
    if os.path.lexists(run / "head.h5"):
        try:
            head, record = read_head(run / "head.h5")
            auc = "" if record.auc is None else f", AUC {record.auc:.4f}"
            about = f"{run / 'head.h5'}: {record.recipe or head.kind} on view {head.view}{auc}"
            caches = caches_of(run, head=run / "head.h5")
            if state.cache:
                with open_caches(caches) as cache:
                    check_model(cache, head)
                    if head.same_person is not None:
                        check_knn_view(cache, head)
                state.head = True
                if record.auc is not None and record.auc <= 0.5:
                    state.chance = record.auc
                held_out = {name.rpartition("/")[0] for name in head.held_out_people()}
                if "" not in held_out and len(held_out) < FEWEST:
                    state.few_families = len(held_out)
            fits = f", fits the cache{'s' if len(caches) > 1 else ''}" if state.head else ""
            yield Finding(
                "run", about + fits, values={"head": head.digest[:12], "fits": state.head}
            )
        except (KinembedError, OSError) as error:
            yield _problem(error, head=False)
    if os.path.lexists(run / "calibration.json"):
        try:
            calibration = load_calibration(run / "calibration.json")
            if head is not None:
                check_calibration(calibration, head, run / "calibration.json")
                state.calibration = True
            people = counted(len(calibration.people), "person", "people")
            yield Finding(
                "run", f"{run / 'calibration.json'}: by {people}"
                + (", fits the head" if state.calibration else ""),
                values={"calibration": state.calibration},
            )  # fmt: skip
        except (KinembedError, OSError) as error:
            yield _problem(error, calibration=False)
    yield from _figures(run, head, state)
    yield from _kept(run)
    leftovers = [name for name in state.files if LEFTOVER.fullmatch(name)]
    if leftovers:
        yield Finding(
            "run", f"{run}: {counted(len(leftovers), 'file')} of killed commands ({leftovers[0]})",
            "note", "the next command that writes here removes those of this machine",
            {"leftovers": len(leftovers)},
        )  # fmt: skip


def _figures(run: Path, head: Head | None, state: RunState) -> Iterator[Finding]:
    """Whether figures and submission are of the head in use."""
    path = run / "evaluation.json"
    if path.is_file():
        try:
            content = json.loads(path.read_bytes())
            digest = content["head"]
        except (OSError, ValueError, KeyError, TypeError):
            fact = f"{path}: not the figures of this version"
            yield Finding("run", fact, "wrong", "run kinembed evaluate again")
        else:
            state.evaluated = head is not None and digest == head.digest
            if state.evaluated:
                yield Finding("run", f"{path}: of this head", values={"evaluation": True})
            elif head is not None:
                fact = f"{path}: of another head"
                yield Finding("run", fact, "note", "run kinembed evaluate again")
    path = run / "submission.csv"
    if path.is_file():
        caches = learnt_from(run / "head.h5") or [run / "embeddings.h5"]
        made_of = [run / "head.h5", run / "calibration.json", *filter(is_cache, caches)]
        newer = [
            each.name if each.parent == run else str(each)
            for each in map(cache_at, made_of)
            if each.is_file() and _mtime(each) > _mtime(path)
        ]
        state.scored = not newer
        if newer:
            fact = f"{path}: is older than {', '.join(newer)}"
            yield Finding("run", fact, "note", "run kinembed score again")
        else:
            yield Finding("run", f"{path}: younger than what made it", values={"submission": True})


def _kept(run: Path) -> Iterator[Finding]:
    """The heads and calibrations that are kept."""
    for folder, suffix, read in (
        ("heads", ".h5", read_head),
        ("calibrations", ".json", load_calibration),
    ):
        paths = sorted((run / folder).glob(f"*{suffix}"))
        broken = []
        for path in paths:
            try:
                read(path)
            except (KinembedError, OSError) as error:
                broken.append(_problem(error).fact)
        values = {folder: len(paths), "unreadable": len(broken)}
        name = folder.removesuffix("s")
        if broken:
            fact = f"{run / folder}: {len(broken)} of {counted(len(paths), name)} cannot be read"
            yield Finding(
                "run", f"{fact}: {broken[0]}", "note", "delete what you do not need", values
            )
        elif paths:
            yield Finding("run", f"{run / folder}: {counted(len(paths), name)} kept", values=values)


def _problem(error: Exception, **values: object) -> Finding:
    known = error if isinstance(error, KinembedError) else KinembedError(str(error))
    return of_error("run", known, **values)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime
