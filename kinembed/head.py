"""The stage `head`: retrains what compares two embeddings, from the cache alone."""

import logging
import shlex
from dataclasses import asdict, replace
from pathlib import Path

from kinembed.cache.provenance import frames, networks_of
from kinembed.cache.stacked import open_caches
from kinembed.config import HeadConfig
from kinembed.data.exclusions import read_exclusions, without
from kinembed.data.families import Families, cached_families
from kinembed.data.left_out import LeftOut
from kinembed.data.protocols import kinfacew_folds, read_kinfacew
from kinembed.data.relations import RELATIONS
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.evaluation.head_log import FILE, check_head_log, describe_head, log_head
from kinembed.evaluation.kept_calibrations import find_calibration, switch_calibration
from kinembed.evaluation.metrics import warn_of_few
from kinembed.evaluation.out_of_fold import judge
from kinembed.evaluation.published import MOST_CARD, Published
from kinembed.evaluation.publishing import publish as write_published
from kinembed.evaluation.triples import fit_triples
from kinembed.heads.file import read_head
from kinembed.heads.kept import (
    FOLDER,
    IN_USE,
    caches_of,
    earlier_heads,
    is_cache,
    keep_head,
    keep_in_use,
    learnt_from,
    named_from,
    names_of,
    other_choice,
    same_people,
    use_head,
)
from kinembed.heads.query_expansion import QueryExpansion
from kinembed.io import check_writable, moved_together, remove, write_csv
from kinembed.outputs import check_output
from kinembed.printable import at_run, counted
from kinembed.progress import Progress, silent
from kinembed.recipes import METRIC, expand_sweep
from kinembed.report.sweep import write_sweep
from kinembed.training.fused_heads import train_parts
from kinembed.training.head_data import (
    WhoLearns,
    chosen_by,
    fine_tuned_head,
    pair_training,
    read_head_data,
    starting_head,
    tuned_views,
    who_learns,
)
from kinembed.training.tracking import FOLDER as TENSORBOARD
from kinembed.training.tracking import check_tracking, track_members
from kinembed.views import JOIN

log = logging.getLogger(__name__)

HISTORY = "history-head.csv"


def head(
    config: HeadConfig,
    data: Path,
    run: Path,
    *,
    track: bool = False,
    progress: Progress = silent,
) -> Path:
    """Trains a head on the vectors of the cache, and judges it by held-out people.

    Where the cache was made by a network that `finetune` trained, the people held out are those
    on whom it did not train; where that network learnt a head, as by the report's recipes, the
    head trained is by default of the same recipe and view.

    Args:
        config: what to train, and how.
        data: the folder of `train_relationships.csv`.
        run: the run folder with `embeddings.h5`; `heads/NAME.h5`, its copy `head.h5` and
            `history-head.csv` are written, of a sweep `sweep.csv` and `sweep.md` in their place;
            each head has a row in `heads.csv`.
        track: write the history of each member into `tensorboard/head` of the run folder, too; not
            of a sweep.
        progress: shows how far it is.

    Returns:
        The path of `head.h5`, or of `sweep.csv`.

    Raises:
        KinembedError: cache, relations or settings are not as they have to be, or it diverges.
    """
    check_head_log(run / FILE)
    if track:
        check_tracking()
    check_writable(*(run / name for name in (FILE, HISTORY, f"{FOLDER}/{IN_USE}", IN_USE)))
    caches = caches_of(run, config.caches)
    with open_caches(caches) as cache:
        tuned = pair_training(cache)
        default = tuned.recipe if tuned else METRIC
        config.check(default)
        recipe = config.full_recipe(default)
        variants = expand_sweep(recipe, config.sweep, config.seed)
        if tuned and not recipe.takes_folds:
            config = replace(config, views=config.views or tuned_views(cache, tuned.view))
        earlier = earlier_heads(run, cache)
        before = next((each for each in earlier if each.record.stage == "finetune"), None)
        before = before or next((each for each in earlier if each.in_use), None)
        if config.kinfacew is not None:
            families, by_protocol = kinfacew_folds(read_kinfacew(config.kinfacew, cache), cache)
            who = WhoLearns(by_protocol)
            if any(each.get("finetuned") for each in networks_of(cache.provenance)):
                log.warning(
                    "a network of these vectors was fine-tuned; if it learnt from KinFaceW, it "
                    "knows the people of all folds, and this AUC is too high"
                )
        else:
            families = cached_families(cache, data)
            if config.exclude is not None:
                families = _without(config.exclude, families)
            who = who_learns(config, recipe, families, cache)
        log.info("%s", families.summary())
        material = read_head_data(config, recipe, families, who, cache)
        if config.fine_tuned:
            material = material.each(lambda data: replace(data, ready=fine_tuned_head(data, cache)))
        if config.warm_start:
            material = material.each(
                lambda data: replace(data, start=starting_head(before, data, cache))
            )
        for part in material.all:
            view, width = part.about["view"], part.vectors.shape[1]
            log.info("recipe %s on view %s (%d wide)", recipe.name, view, width)
        log.info("%s", material.held_out.describe())
        trained = train_parts(material, variants, config, progress)
        shared = next((each for each in trained if each.head.same_person is not None), None)
        query_expansion = None
        if shared is not None and shared.head.same_person is not None:
            query_expansion = QueryExpansion(
                cache, shared.head.knn_view, shared.head.same_person, shared.neighbours
            )
        results, records, rows = [], [], []
        for each, (variant, seed) in zip(trained, variants, strict=True):
            result = judge(each.head, cache, families, config.seed, query_expansion)
            results.append(result)
            framings = frames(cache.provenance)
            record = each.record(variant, result.auc, framings, named_from(run, caches))
            records.append(replace(record, epoch_chosen_by=chosen_by(each, cache)))
            rows.append(describe_head(each.head, records[-1], seed, each.seconds, result))
        if config.sweep:
            with moved_together(run):
                log_head(run / FILE, *rows)
                return write_sweep(config.sweep, variants, trained, results, run)
        (one,), (result,), (record,) = trained, results, records
        rival = before.head if before and same_people(before.head, one.head) else None
        if rival and set(rival.view.split(JOIN)) <= set(cache.views):
            serves = query_expansion is not None and query_expansion.serves(rival)
            known = query_expansion if serves else None
            followed = judge(rival, cache, families, config.seed, known)
        else:
            followed = None
    with moved_together(run):  # the head in use comes last
        if one.history:
            write_csv(run / HISTORY, [asdict(row) for row in one.history])
        else:
            remove(run / HISTORY)  # of another head
        log_head(run / FILE, *rows)
        switch_calibration(run, one.head)
        kept = keep_head(run, one.head, record)
    if track:
        track_members(run / TENSORBOARD / "head", map(asdict, one.history))
    path = run / IN_USE
    log.info(
        "%s: %sAUC %.4f (95 %% by families: %.4f to %.4f) on held-out people; %.1f s",
        path, f"epoch {one.epoch}, " if one.epoch else "", result.auc, result.low, result.high,
        one.seconds,
    )  # fmt: skip
    judges = set(one.head.held_out_people())
    both = zip(families.people, families.family_names(), strict=True)
    warn_of_few(len({family for person, family in both if person in judges}), families.unit)
    if before and before.head.digest == one.head.digest:
        log.info("it is the very head of before, %s", before.name)
    elif before and followed:
        log.info("%s, which it follows: AUC %.4f on the same pairs", before.name, followed.auc)
    if record.epoch_chosen_by == "held-out people":
        log.info(
            "the people who judge it chose its epoch, or its network's, too, so its AUC is a "
            "little high"
        )
    log.info("%s", other_choice(recipe, default, result.auc, earlier, run))
    others = len(list(kept.parent.glob("*.h5"))) - 1
    back = at_run("kinembed head --use NAME", run)
    log.info("kept as %s%s", kept, f"; {back} goes back to another" if others else "")
    return path


def _without(path: Path, families: Families) -> Families:
    """The families without what a table excludes; says how much that is."""
    unknown = LeftOut()
    rest = without(families, read_exclusions(path), unknown)
    log.info(
        "%s: leaves out %s, %s and %s; %s of people are neither kin nor unrelated", path,
        counted(len(families.photos) - len(rest.photos), "photo"),
        counted(len(families.people) - len(rest.people), "person", "people"),
        counted(len(families.relations) - len(rest.relations), "relation"),
        counted(max(0, len(rest.apart) - len(families.apart)), "pair"),
    )  # fmt: skip
    if unknown:
        log.warning("%s: of its rows %s", path, unknown)
    return rest


def use(run: Path, name: str) -> Path:
    """Makes a kept head the one in use, with the calibration that it was last used with.

    Args:
        run: the run folder.
        name: of the head, or the start of its name or digest.

    Returns:
        The path of `head.h5`.

    Raises:
        RunError: no head is kept by that name, or several begin so.
    """
    keep_in_use(run)
    with moved_together(run):
        used = use_head(run, name)
        switch_calibration(run, used.head)
    log.info("%s: is %s now", run / IN_USE, used.name)
    missing = [cache for cache in learnt_from(run / IN_USE) if not is_cache(cache)]
    if missing:
        log.warning(
            "%s: learnt from %s, not there now; it answers once they are", run / IN_USE,
            names_of(missing),
        )  # fmt: skip
    return run / IN_USE


def publish(
    path: Path,
    data: Path,
    run: Path,
    *,
    caches: tuple[Path, ...] = (),
    card: Path | None = None,
    seed: int = 0,
) -> Published:
    """Writes the head in use and its calibration as one file, which names and shows nobody.

    Args:
        path: of the file; its card is written beside it, as `.md`.
        data: the folder of the relations, by which both parents of a child are weighed; where they
            are missing, both weigh alike.
        run: the run folder with `embeddings.h5`, `head.h5` and `calibration.json`.
        caches: in place of the run folder's.
        card: Markdown in front of what is known of any head: what it is for, and where it fails.
        seed: draws the made-up cohort.

    Returns:
        What the file holds.

    Raises:
        KinembedError: head, cache or card are not as they have to be, or there is no calibration.
    """
    caches = tuple(caches_of(run, caches, run / IN_USE))
    text, texts = path.with_suffix(".md"), [] if card is None else [card]
    if path.suffix != ".h5":
        raise KinembedError(f"{path}: a published head is an .h5 file, its card an .md beside it")
    for out in (path, text):
        read = [*caches, run / IN_USE, data / RELATIONS, *texts]
        check_output(out, read, [run, *(each.parent for each in caches)], data=data)
    trained, record = read_head(run / IN_USE)
    if len(caches) > 1:
        raise RunError(
            f"{run / IN_USE}: takes the vectors of several networks, {names_of(caches)}, and a "
            "published head those of one; train one with kinembed head --cache "
            f"{shlex.quote(str(caches[0]))} and another --run, calibrate it and publish it there"
        )
    found = find_calibration(run, trained)
    if found is None:
        raise RunError(
            f"{run}: its head has no calibration, and a published one answers in probabilities; "
            "run kinembed calibrate"
        )
    words = "" if card is None else _read_card(card)
    with open_caches(caches) as cache:
        families = None
        try:
            families = cached_families(cache, data)
        except DataError as error:
            log.info("the three answers stay as they were calibrated (%s)", error)
        published = write_published(
            trained, record, found[0], cache, path, families=families,
            triples=fit_triples(trained, cache, data, 0, expand=False, families=families),
            card=words, seed=seed,
        )  # fmt: skip
    fidelity = published.fidelity
    log.info(
        "%s: %s bytes, %s; %s; %s arrays change a probability by %.5f at most; its card is %s",
        path, f"{path.stat().st_size:,}", published.describe(),
        "its cohort is made up" if trained.same_person else "it has no cohort", fidelity.dtype,
        fidelity.score, text,
    )  # fmt: skip
    return published


def _read_card(path: Path) -> str:
    """The Markdown of a card.

    Raises:
        KinembedError: it is no file of text, or too long.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; wanted the Markdown of a card")
    if path.stat().st_size > 4 * MOST_CARD:
        raise RunError(f"{path}: {path.stat().st_size:,} bytes are too many for a card")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{path}: is not UTF-8; wanted the Markdown of a card") from None
    if len(text) > MOST_CARD:
        raise RunError(f"{path}: {len(text):,} letters, wanted at most {MOST_CARD:,} of a card")
    return text
