"""The heads of a run folder: every trained head is kept, and `head.h5` is the one in use.

A head's file is `heads/NAME.h5`, named by recipe, view and digest; `head.h5` is a copy of one.
"""

import datetime
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinembed.cache import Embeddings, cache_at
from kinembed.cache.own import how_to_make
from kinembed.errors import RunError
from kinembed.fold_runs import fold_runs, has_folds
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord, caches_named, read_head, save_head
from kinembed.io import moved_together, write_bytes
from kinembed.printable import at_run
from kinembed.recipes import METRIC, REGULARIZED, HeadRecipe, PairRecipe
from kinembed.views import JOIN, without_tta

log = logging.getLogger(__name__)

IN_USE = "head.h5"
CACHE = "embeddings.h5"
FOLDER = "heads"
MOST_VIEW = 60  # letters of the view in a name


@dataclass(frozen=True)
class KeptHead:
    """A head of a run folder.

    Attributes:
        name: of its file, without `.h5`.
        head: the head.
        record: its origin.
        when: time of writing, as ISO 8601 in UTC.
        in_use: `head.h5` is a copy of it.
    """

    name: str
    head: Head
    record: HeadRecord
    when: str
    in_use: bool


def head_name(head: Head, record: HeadRecord) -> str:
    """The name that a head is kept by: recipe, view without mirrored photos, digest."""
    view = JOIN.join(without_tta(head.view.split(JOIN)))[:MOST_VIEW]
    name = f"{record.recipe or head.kind}-{view}-{head.digest[:12]}"
    return re.sub(r"[^\w.+-]", "_", name)


def keep_head(run: Path, head: Head, record: HeadRecord, *, use: bool = True) -> Path:
    """Writes a trained head to `heads/NAME.h5` and, to use it, to `head.h5`, which comes last.

    A head that is in use and was not kept, as one that Python wrote there, is kept first.

    Args:
        run: the run folder.
        head: what was trained.
        record: how.
        use: it is the one in use from now on.

    Returns:
        The path of the kept file.
    """
    with moved_together(run):
        if use:
            keep_in_use(run)
        path = save_head(head, run / FOLDER / f"{head_name(head, record)}.h5", record)
        if use:
            save_head(head, run / IN_USE, record)
    return path


def keep_in_use(run: Path) -> None:
    """Keeps the head in use, where it is not kept already; one that cannot be read is left."""
    path = run / IN_USE
    if not path.is_file():
        return
    try:
        head, record = read_head(path)
    except RunError as error:
        log.warning("%s", error)
        return
    kept = run / FOLDER / f"{head_name(head, record)}.h5"
    if not kept.exists():
        write_bytes(kept, path.read_bytes())


def kept_heads(run: Path) -> list[KeptHead]:
    """The heads of a run folder, oldest first; logs why a head cannot be read."""
    in_use = _digest_in_use(run)
    kept = []
    for path in sorted((run / FOLDER).glob("*.h5"), key=lambda path: (_mtime(path), path.name)):
        try:
            head, record = read_head(path)
        except RunError as error:
            log.warning("%s", error)
            continue
        kept.append(KeptHead(path.stem, head, record, _when(path), head.digest == in_use))
    return kept


def all_heads(run: Path) -> list[KeptHead]:
    """The heads of a run folder, and the one in use if it is not kept yet; writes nothing."""
    kept, path = kept_heads(run), run / IN_USE
    if not path.is_file() or any(each.in_use for each in kept):
        return kept
    try:
        head, record = read_head(path)
    except RunError as error:
        log.warning("%s", error)
        return kept
    return [*kept, KeptHead(head_name(head, record), head, record, _when(path), True)]


def use_head(run: Path, wanted: str) -> KeptHead:
    """Makes a kept head the one in use.

    Args:
        run: the run folder.
        wanted: its name, or an unambiguous prefix of its name or digest.

    Raises:
        RunError: no kept head matches, or several do.
    """
    keep_in_use(run)
    kept = {each.name: each for each in kept_heads(run)}
    used = kept[find_name(list(kept), wanted, run / FOLDER)]
    write_bytes(run / IN_USE, (run / FOLDER / f"{used.name}.h5").read_bytes())
    return used


def find_name(names: list[str], wanted: str, folder: Path) -> str:
    """The one name that starts with `wanted`, or whose digest at its end does.

    Raises:
        RunError: no name matches, or several do.
    """
    if wanted in names:
        return wanted
    matches = [
        name
        for name in names
        if wanted and (name.startswith(wanted) or name.rpartition("-")[2].startswith(wanted))
    ]
    if len(matches) != 1:
        what = f"{len(matches)} names begin so" if matches else "there is none of that name"
        known = ", ".join(matches or names) or "none"
        raise RunError(f"{folder}: {wanted!r}: {what}; wanted one of {known}")
    return matches[0]


def _digest_in_use(run: Path) -> str | None:
    try:
        return read_head(run / IN_USE)[0].digest
    except RunError:
        return None


def _when(path: Path) -> str:
    when = datetime.datetime.fromtimestamp(_mtime(path), datetime.timezone.utc)
    return when.isoformat(timespec="seconds")


def _mtime(path: Path) -> float:
    """When a file was changed; 0 of a link that leads nowhere, or of a file just deleted."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def caches_of(run: Path, named: Sequence[Path] = (), head: Path | None = None) -> list[Path]:
    """The caches that a command works from.

    Args:
        run: the run folder.
        named: by the user; these come first.
        head: a head that may have learnt from others than its folder's: `head.h5`. None: a new one
            is to be trained, so the run folder's own cache comes before those of the last.

    Returns:
        Those named; else those of the head; else `embeddings.h5` of the run folder, or those of its
        folds.

    Raises:
        RunError: the head learnt from a cache that is not there, or from those named in another
            order; or networks were trained by folds there, and some have no cache.
    """
    own = run / CACHE
    if not named and head is None and is_cache(own):
        return [own]
    path = head or run / IN_USE
    known = learnt_from(path)
    if named:
        if head is not None:
            _check_order(path, named, known)
        return list(named)
    missing = [cache for cache in known if not is_cache(cache)]
    if missing:
        others = len(missing) - 1
        more = f", nor {'is another' if others == 1 else f'are {others} others'}" if others else ""
        same = (
            f"kinembed embed --run {shlex.quote(str(missing[0].parent))} and the --backbone, or "
            "--onnx with its --mean and so on, of before"
        )
        raise RunError(
            f"{path}: learnt from {missing[0]}, which is not there{more}; put it back, make it "
            f"again with {how_to_make(missing[0], same)}, or train a head "
            f"on others with kinembed head --run {shlex.quote(str(run))} --cache FILE"
        )
    if not known and not is_cache(own) and has_folds(run):
        known = [each / CACHE for each in fold_runs(run, CACHE)]
    return known or [own]


def _check_order(head: Path, named: Sequence[Path], known: Sequence[Path]) -> None:
    """Refuses a head's caches in another order, which digests of networks do not always tell.

    One network's caches of photos that are framed otherwise have the same digest.

    Raises:
        RunError: naming the order.
    """
    found, wanted = ([os.path.realpath(each) for each in paths] for paths in (named, known))
    if found != wanted and sorted(found) == sorted(wanted):
        raise RunError(
            f"{head}: learnt from its caches in another order; wanted "
            + " ".join(f"--cache {shlex.quote(str(each))}" for each in known)
        )


def learnt_from(head: Path) -> list[Path]:
    """The caches that a head's file names, be they there or not; none if it names none."""
    folder = head.parent.parent if head.parent.name == FOLDER else head.parent
    real = folder.resolve()
    base = folder if real == Path(os.path.abspath(folder)) else real  # of a link, `..` is another
    return [Path(os.path.normpath(base / cache)) for cache in caches_named(head)]


def names_of(caches: Sequence[Path]) -> str:
    """The paths of some caches as words: `A, B and C`."""
    *others, last = [str(cache) for cache in caches]
    return f"{', '.join(others)} and {last}" if others else last


def is_cache(path: Path) -> bool:
    """Whether there is a file at the place of a cache: no folder, pipe or device."""
    try:
        return cache_at(path).is_file()
    except (OSError, ValueError):  # no path of this machine
        return False


def named_from(run: Path, caches: Sequence[Path]) -> tuple[str, ...]:
    """Caches as a head's record names them: paths from the run folder; none if it is its own."""
    if [cache.resolve() for cache in caches] == [(run / CACHE).resolve()]:
        return ()
    return tuple(
        Path(os.path.relpath(cache.resolve(), run.resolve())).as_posix() for cache in caches
    )


def earlier_heads(run: Path, cache: Embeddings) -> list[KeptHead]:
    """The heads of the run folder that compare the vectors of a cache, the newest first."""
    keep_in_use(run)
    model = cache.provenance["model"]
    return [each for each in kept_heads(run) if each.head.model == model][::-1]


def same_people(one: Head, other: Head) -> bool:
    """Whether two heads are judged by the same people."""
    first, second = ([people for people, _ in head.out_of_fold()] for head in (one, other))
    return first == second


def other_choice(
    recipe: HeadRecipe, default: HeadRecipe, auc: float, earlier: list[KeptHead], run: Path
) -> str:
    """What another option would train, with the best AUC of such heads where there are some."""
    command = at_run("kinembed head", run)
    if recipe.kind == PairRecipe.kind:
        other, option = METRIC.name, f"{command} --kind metric trains the kind that ranks best"
    elif default.kind == PairRecipe.kind:
        other = default.name
        option = f"{command} without --kind and --recipe trains the network's own, {other}"
    else:
        other = REGULARIZED.name
        option = (
            f"this kind ranks best; to compare, {command} --recipe {other} trains the best of the "
            "report"
        )
    best: tuple[float, str] | None = None
    for each in earlier:  # by recipe, as the class of a fused head is that of all recipes
        if each.record.recipe == other and each.record.auc is not None:
            best = max(best or (0.0, ""), (each.record.auc, each.name))
    known = f", of AUC {best[0]:.4f} here ({best[1]})" if best else ""
    return f"head {recipe.name}: AUC {auc:.4f}; {option}{known}"
