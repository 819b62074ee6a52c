"""Heads that are kept: their names, which is in use, and what is refused."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinembed.errors import RunError
from kinembed.heads.file import HeadRecord, load_head, read_head, save_head
from kinembed.heads.fused import FusedHead
from kinembed.heads.kept import (
    KeptHead,
    head_name,
    keep_head,
    keep_in_use,
    kept_heads,
    other_choice,
    use_head,
)
from kinembed.heads.pair import PairHead
from kinembed.printable import DEFAULT_RUN
from kinembed.recipes import METRIC, RECIPES

RECORD = HeadRecord("head", "mix", "l2=0.1", 0.75, 3, "held-out people", ("whole: 9 of 9 px",))


def small(bias: float = 0.0, view: str = "max") -> PairHead:
    kernel = np.full((4, 1), -1, np.float32)
    return PairHead(view, "m", (kernel,), (np.array([bias], np.float32),))


def test_a_head_s_file_says_how_it_came_about_and_its_digest_does_not(tmp_path: Path) -> None:
    path = save_head(small(), tmp_path / "head.h5", RECORD)
    assert read_head(path)[1] == RECORD
    assert load_head(path).digest == small().digest
    assert read_head(save_head(small(), path))[1] == HeadRecord()


def test_a_name_says_recipe_view_and_digest() -> None:
    digest = small().digest[:12]
    assert head_name(small(), RECORD) == f"mix-max-{digest}"
    assert head_name(small(), HeadRecord()) == f"pair-max-{digest}"
    views = small(view="native+max+native-flip+max-flip")
    assert head_name(views, RECORD) == f"mix-native+max-{views.digest[:12]}"
    odd = small(view="../a b/" + "long" * 40)
    name = head_name(odd, RECORD)
    assert "/" not in name and " " not in name and len(name) < 100


def test_every_head_is_kept_and_the_last_is_in_use(tmp_path: Path) -> None:
    for bias in range(3):
        path = keep_head(tmp_path, small(bias), RECORD)
        assert path.read_bytes() == (tmp_path / "head.h5").read_bytes()
    keep_head(tmp_path, small(9), RECORD, use=False)
    kept = kept_heads(tmp_path)
    assert {each.head.digest for each in kept} == {small(bias).digest for bias in (0, 1, 2, 9)}
    assert [each.head.digest for each in kept if each.in_use] == [small(2).digest]
    assert all(each.record == RECORD and each.when.endswith("+00:00") for each in kept)


def test_a_head_that_something_else_wrote_is_kept_before_it_is_replaced(tmp_path: Path) -> None:
    save_head(small(5), tmp_path / "head.h5")
    keep_head(tmp_path, small(1), RECORD)
    assert {each.head.digest for each in kept_heads(tmp_path)} == {
        small(5).digest,
        small(1).digest,
    }
    used = use_head(tmp_path, "pair")
    assert used.head.digest == small(5).digest == load_head(tmp_path / "head.h5").digest


def test_a_start_of_a_name_or_digest_is_enough(tmp_path: Path) -> None:
    for head, recipe in ((small(1), "mix"), (small(2), "base"), (small(3), "base")):
        keep_head(tmp_path, head, replace(RECORD, recipe=recipe))
    use_head(tmp_path, "mix")
    assert load_head(tmp_path / "head.h5").digest == small(1).digest
    use_head(tmp_path, small(2).digest[:5])
    assert load_head(tmp_path / "head.h5").digest == small(2).digest
    use_head(tmp_path, head_name(small(3), replace(RECORD, recipe="base")))
    assert load_head(tmp_path / "head.h5").digest == small(3).digest
    for wanted, problem in (
        ("base", "'base': 2 names begin so; wanted one of base-max-"),
        ("metric", "'metric': there is none of that name; wanted one of "),
        ("", "'': there is none of that name"),
    ):
        with pytest.raises(RunError, match=problem):
            use_head(tmp_path, wanted)
    assert load_head(tmp_path / "head.h5").digest == small(3).digest


def test_a_run_without_heads_keeps_none(tmp_path: Path) -> None:
    keep_in_use(tmp_path)
    assert kept_heads(tmp_path) == []
    with pytest.raises(RunError, match="there is none of that name; wanted one of none"):
        use_head(tmp_path, "mix")


def test_a_damaged_head_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep_head(tmp_path, small(1), RECORD)
    (tmp_path / "heads" / "mix-max-0.h5").write_bytes(b"no head")
    (tmp_path / "head.h5").write_bytes(b"no head")
    with caplog.at_level(logging.WARNING):
        assert [each.in_use for each in kept_heads(tmp_path)] == [False]
    assert "mix-max-0.h5: not a head" in caplog.text
    use_head(tmp_path, head_name(small(1), RECORD))
    assert load_head(tmp_path / "head.h5").digest == small(1).digest


def test_the_other_choice_is_known_by_recipe_also_of_fused_heads_and_the_best_is_named() -> None:
    fused = FusedHead("max+max", "m", (small(), small(1)), (1.0, 1.0))

    def kept(recipe: str, auc: float | None, number: int) -> KeptHead:
        record = replace(RECORD, recipe=recipe, auc=auc)
        return KeptHead(f"{recipe}-{number}", fused, record, "", False)

    metric, regularized = METRIC, RECIPES["regularized"]
    earlier = [kept("metric", 0.87, 1), kept("metric", 0.88, 2), kept("metric", None, 3)]
    assert other_choice(metric, metric, 0.84, earlier, DEFAULT_RUN) == (
        "head metric: AUC 0.8400; this kind ranks best; to compare, kinembed head --recipe "
        "regularized trains the best of the report"
    )
    assert other_choice(regularized, metric, 0.7, earlier, Path("a b")) == (
        "head regularized: AUC 0.7000; kinembed head --run 'a b' --kind metric trains the kind "
        "that ranks best, of AUC 0.8800 here (metric-2)"
    )
    earlier += [kept("regularized", 0.7, 4), kept("mix", 0.9, 5)]
    said = other_choice(metric, metric, 0.84, earlier, DEFAULT_RUN)
    assert said.endswith("the best of the report, of AUC 0.7000 here (regularized-4)")
