"""Pairs: the report's sampling against a slow oracle, and the pairs of a submission."""

import csv
import gzip
import random
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed.data.families import Families, group_families
from kinembed.data.pair_files import PairList, read_pairs, split_names
from kinembed.data.samplers import PairSampler, held_out_pairs
from kinembed.errors import DataError

# Sampling


@dataclass
class World:
    """People with their photos, and who is related."""

    photos: dict[str, list[str]]
    relations: list[tuple[str, str]]

    def families(self) -> Families:
        return group_families([p for own in self.photos.values() for p in own], self.relations)


def world(people: list[int], relations: list[tuple[int, int]]) -> World:
    """Person i, of family i // 3, has `people[i]` photos."""
    names = [f"F{i // 3:04}/MID{i}" for i in range(len(people))]
    photos = {
        name: [f"train/{name}/P{photo}.jpg" for photo in range(count)]
        for name, count in zip(names, people, strict=True)
    }
    return World(photos, [(names[a], names[b]) for a, b in relations])


def slow_batch(
    here: World,
    split: list[str],
    size: int,
    fraction: float,
    rng: random.Random,
    orders: tuple[int, ...] = (1, -1),
) -> list[tuple[str, str, int]]:
    """A batch as the report samples it, pair by pair: photo, photo, label."""
    batch: list[tuple[str, str, int]] = []
    while len(batch) < int(size * fraction):
        one, other = rng.choice(here.relations)
        if one in split and other in split:
            batch.append((rng.choice(here.photos[one]), rng.choice(here.photos[other]), 1))
    while len(batch) < size:
        sampled = rng.sample(split, 2)
        if not any(tuple(sampled[::order]) in here.relations for order in orders):
            one, other = sampled
            batch.append((rng.choice(here.photos[one]), rng.choice(here.photos[other]), 0))
    rng.shuffle(batch)
    return batch


def sampled(
    sampler: PairSampler, families: Families, batches: int, size: int, seed: int = 0
) -> list:
    rows, labels = sampler.sample(batches, size, np.random.default_rng(seed))
    return [
        [(families.photos[a], families.photos[b], int(label)) for (a, b), label in zip(*batch)]
        for batch in zip(rows.tolist(), labels.tolist(), strict=True)
    ]


def people_of(pairs: list[tuple[str, str, int]]) -> Counter:
    return Counter((a[6:].rsplit("/", 1)[0], b[6:].rsplit("/", 1)[0], kin) for a, b, kin in pairs)


def chi_square(one: Counter, other: Counter) -> float:
    """Two samples of one size: how far apart their counts are, in standard deviations."""
    assert one.total() == other.total()
    cells = one.keys() | other.keys()
    distance = sum((one[cell] - other[cell]) ** 2 / (one[cell] + other[cell]) for cell in cells)
    freedom = len(cells) - 1
    return (distance - freedom) / (2 * freedom) ** 0.5


BATCHES, SIZE, FRACTION = 4000, 10, 0.6
# A relation listed twice counts twice; one of them is listed in the other order only; the last
# is of somebody outside of the split.
UNEVEN = world([1, 3, 2, 1, 2, 4, 1, 2], [(0, 1), (0, 1), (2, 1), (4, 3), (5, 6), (6, 7)])
SPLIT = [name for name in UNEVEN.photos if not name.endswith("7")]


@pytest.fixture(scope="module")
def fast() -> list[list[tuple[str, str, int]]]:
    families = UNEVEN.families()
    sampler = PairSampler(families, np.arange(7), FRACTION)
    return sampled(sampler, families, BATCHES, SIZE)


@pytest.fixture(scope="module")
def slow() -> list[list[tuple[str, str, int]]]:
    rng = random.Random(0)
    return [slow_batch(UNEVEN, SPLIT, SIZE, FRACTION, rng) for _ in range(BATCHES)]


def flat(batches: list[list[tuple[str, str, int]]]) -> list[tuple[str, str, int]]:
    return [pair for batch in batches for pair in batch]


def test_people_are_paired_as_often_as_the_report_pairs_them(fast: list, slow: list) -> None:
    assert abs(chi_square(people_of(flat(fast)), people_of(flat(slow)))) < 4


def test_photos_are_paired_as_often_as_the_report_pairs_them(fast: list, slow: list) -> None:
    assert abs(chi_square(Counter(flat(fast)), Counter(flat(slow)))) < 4


@pytest.mark.parametrize(
    ("relations", "orders"),
    [
        (UNEVEN.relations, (1,)),
        (sorted(set(UNEVEN.relations)), (1, -1)),
        ([relation[::-1] for relation in UNEVEN.relations], (1, -1)),
    ],
    ids=["one order excluded", "duplicates dropped", "relations turned round"],
)
def test_the_comparison_notices_another_sampling(
    fast: list, relations: list[tuple[str, str]], orders: tuple[int, ...]
) -> None:
    other = World(UNEVEN.photos, relations)
    rng = random.Random(0)
    wrong = [slow_batch(other, SPLIT, SIZE, FRACTION, rng, orders) for _ in range(BATCHES)]
    assert chi_square(people_of(flat(fast)), people_of(flat(wrong))) > 10


def test_kin_pairs_are_anywhere_in_a_batch(fast: list) -> None:
    labels = np.array([[label for *_, label in batch] for batch in fast])
    assert np.abs(labels.mean(0) - FRACTION).max() < 0.03
    correlation = np.corrcoef(labels.T)[~np.eye(SIZE, dtype=bool)]
    assert np.abs(correlation + 1 / (SIZE - 1)).max() < 0.08  # as in any shuffled batch


def test_batches_differ(fast: list) -> None:
    assert len({tuple(batch) for batch in fast}) == BATCHES


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, list[int]]:
    """A world, and some of its people."""
    people = draw(st.lists(st.integers(1, 3), min_size=1, max_size=8))
    everybody = st.integers(0, len(people) - 1)
    pairs = st.tuples(everybody, everybody).filter(lambda pair: pair[0] != pair[1])
    relations = draw(st.lists(pairs, max_size=12)) if len(people) > 1 else []
    return world(people, relations), sorted(draw(st.sets(everybody)))


@given(
    here=worlds(),
    fraction=st.one_of(st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.floats(0, 1)),
    batches=st.integers(1, 5),
    size=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_every_batch_keeps_the_rules(
    here: tuple[World, list[int]], fraction: float, batches: int, size: int, seed: int
) -> None:
    families = here[0].families()
    split = {families.people[row] for row in here[1]}
    kin = {frozenset(relation) for relation in here[0].relations if split >= set(relation)}
    strangers = len(split) * (len(split) - 1) // 2 - len(kin)
    if (fraction > 0 and not kin) or (fraction < 1 and not strangers):
        with pytest.raises(DataError, match="pair can be sampled"):
            PairSampler(families, np.array(here[1], int), fraction)
        return
    sampler = PairSampler(families, np.array(here[1], int), fraction)
    found = sampled(sampler, families, batches, size, seed)
    assert len(found) == batches
    for batch in found:
        assert len(batch) == size
        assert sum(label for *_, label in batch) == int(size * fraction)
        for one, other, label in people_of(batch):
            assert {one, other} <= split
            assert one != other
            assert label == (frozenset((one, other)) in kin)
            if label:
                assert (one, other) in here[0].relations
    assert found == sampled(sampler, families, batches, size, seed)


def test_labels_and_rows_have_the_shapes_and_types_of_training() -> None:
    sampler = PairSampler(UNEVEN.families(), np.arange(8))
    rows, labels = sampler.sample(3, 7, np.random.default_rng(0))
    assert (rows.shape, rows.dtype) == ((3, 7, 2), np.intp)
    assert (labels.shape, labels.dtype) == ((3, 7), np.float32)
    assert set(labels.ravel()) == {0, 1}


def test_a_split_without_usable_relations_says_what_to_do() -> None:
    families = world([1, 1, 1, 1], [(0, 1)]).families()
    with pytest.raises(DataError, match="no usable relation among the 3 people of this split"):
        PairSampler(families, np.array([1, 2, 3]))


def test_a_split_in_which_everybody_is_related_says_so() -> None:
    families = world([1, 1, 1, 1], [(0, 1), (1, 2), (2, 0), (0, 2)]).families()
    with pytest.raises(DataError, match="no two unrelated people among the 3 of this split"):
        PairSampler(families, np.array([0, 1, 2]))
    sampler = PairSampler(families, np.array([0, 1, 2]), 1.0)
    assert sampler.sample(2, 4, np.random.default_rng(0))[1].all()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_fraction_outside_of_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=f"positive fraction: found {fraction}, wanted 0 to 1"):
        PairSampler(UNEVEN.families(), np.arange(8), fraction)


@given(
    sizes=st.lists(st.integers(1, 3), min_size=4, max_size=9),
    pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12),
)
def test_the_share_of_non_kin_pairs_within_a_family_is_counted(
    sizes: list[int], pairs: list[tuple[int, int]]
) -> None:
    count = len(sizes)
    families = world(sizes, [(a, b) for a, b in pairs if a < b < count]).families()
    kin = {frozenset(pair) for pair in families.relations.tolist()}
    strangers = [(a, b) for a in range(count) for b in range(a) if frozenset((a, b)) not in kin]
    within = [families.family[a] == families.family[b] for a, b in strangers]
    everybody = np.arange(count)
    assert PairSampler(families, everybody, 0.0).same_family_share() == np.mean(within)
    assert PairSampler(families, everybody, 0.0, exclude_family=True).same_family_share() == 0


def test_families_are_excluded_from_non_kin_pairs_on_request() -> None:
    here = world([1] * 9, [(0, 1), (3, 4), (2, 5)])  # 2 and 5 are of two families
    families, everybody = here.families(), np.arange(9)
    plain = PairSampler(families, everybody, 0.5)
    strict = PairSampler(families, everybody, 0.5, exclude_family=True)
    found = {}
    for name, sampler in (("plain", plain), ("strict", strict)):
        rows, labels = sampler.sample(200, 10, np.random.default_rng(0))
        people = families.owner_of(rows[labels == 0])
        same = families.family[people[:, 0]] == families.family[people[:, 1]]
        assert not {(2, 5), (5, 2)} & set(map(tuple, people.tolist()))
        found[name] = same.mean()
    assert found["strict"] == 0
    assert abs(found["plain"] - plain.same_family_share()) < 0.03
    # a share of .5 of each batch is kin in both
    assert (
        PairSampler(families, everybody, 0.5).sample(1, 10, np.random.default_rng(0))[1].sum() == 5
    )


def test_one_family_alone_has_no_pairs_left_once_it_is_excluded() -> None:
    families = world([1, 1, 1], [(0, 1)]).families()
    PairSampler(families, np.arange(3))
    with pytest.raises(DataError, match="no two unrelated people among the 3"):
        PairSampler(families, np.arange(3), exclude_family=True)


# The pairs of a submission


def submission(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    return path


def all_pairs(path: Path, size: int = 2) -> PairList:
    """The blocks of a file as one."""
    blocks = list(read_pairs(path, size))
    assert all(len(block) == size for block in blocks[:-1])
    return PairList(
        path,
        [line for block in blocks for line in block.lines],
        tuple(
            [text for block in blocks for text in block.fields[at]]
            for at in range(len(blocks[0].fields))
        ),
        blocks[0].titles,
    )


@pytest.mark.parametrize(
    "content",
    [
        b"img_pair,is_related\na.jpg-b.jpg,0\nc.jpg-a.jpg,0\na.jpg-b.jpg,0\n",
        b"\xef\xbb\xbfimg_pair,is_related\r\na.jpg-b.jpg,0\r\nc.jpg-a.jpg,0\r\na.jpg-b.jpg,0\r\n",
        b'"img_pair","is_related"\n"a.jpg-b.jpg","0"\n"c.jpg-a.jpg",0\na.jpg-b.jpg,0.5',
        b"img_pair\na.jpg-b.jpg\nc.jpg-a.jpg\na.jpg-b.jpg\n",
        b"img_pair,is_related\na.jpg-b.jpg,\nc.jpg-a.jpg,\na.jpg-b.jpg,\n",
    ],
    ids=["plain", "bom-crlf", "quoted", "one column", "no labels"],
)
def test_pairs_read_the_same_however_they_are_written(tmp_path: Path, content: bytes) -> None:
    pairs = all_pairs(submission(tmp_path, content))
    assert pairs.fields[0] == ["a.jpg-b.jpg", "c.jpg-a.jpg", "a.jpg-b.jpg"]
    assert pairs.lines == [2, 3, 4]


def test_blank_lines_are_counted_but_are_no_pairs(tmp_path: Path) -> None:
    pairs = all_pairs(submission(tmp_path, b"\nimg_pair,is_related\n\na-b,0\n\n\nc-d,0\n"))
    assert (pairs.fields[0], pairs.lines) == (["a-b", "c-d"], [4, 7])


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("a.jpg b.jpg,0", "'a.jpg b.jpg', wanted a pair a.jpg-b.jpg"),
        ("a.jpg,b.jpg", "'a.jpg', wanted a pair a.jpg-b.jpg"),
        ("a.jpg-b.jpg,0,1", "'a.jpg-b.jpg,0,1', 3 fields under a header of 2"),
        ("a-b,c-d,0", "'a-b,c-d,0', 3 fields under a header of 2"),
        (",0", "'', wanted a pair a.jpg-b.jpg"),
        ("img_pair,is_related", "'img_pair', wanted a pair a.jpg-b.jpg"),
    ],
)
def test_a_row_that_is_not_a_pair_is_named_with_its_line(
    tmp_path: Path, row: str, found: str
) -> None:
    path = submission(tmp_path, f"img_pair,is_related\na-b,0\n\n{row}\nc-d,0\n".encode())
    with pytest.raises(DataError) as error:
        all_pairs(path)
    assert f"pairs.csv, line 4: found {found}" in str(error.value)


@pytest.mark.parametrize("header", ["x", "who,when", "p1,is_related", "is_related"])
def test_a_header_that_tells_no_pair_is_named(tmp_path: Path, header: str) -> None:
    path = submission(tmp_path, f"{header}\nsome,0\n".encode())
    with pytest.raises(DataError) as error:
        all_pairs(path)
    assert f"line 1: found {header!r}, wanted img_pair,is_related, then" in str(error.value)


@pytest.mark.parametrize(
    ("content", "titles", "fields"),
    [
        ("Img_Pair;Is_Related\na.jpg-b.jpg;0\n", ["Img_Pair"], [["a.jpg-b.jpg"]]),
        ("is_related,img_pair\n0,a.jpg-b.jpg\n", ["img_pair"], [["a.jpg-b.jpg"]]),
        ("a.jpg-b.jpg,0\n", ["img_pair"], [["a.jpg-b.jpg"]]),
        (",img_pair\n0,a.jpg-b.jpg\n", ["img_pair"], [["a.jpg-b.jpg"]]),
        ("p1,p2\nx,y\n", ["p1", "p2"], [["x"], ["y"]]),
        ("Photo 2\tPhoto 1\nx\ty\n", ["Photo 1", "Photo 2"], [["y"], ["x"]]),
        ("img0,img1,score\nx,y,1\n", ["img0", "img1"], [["x"], ["y"]]),
        ("a.jpg,b.jpg\nc.jpg,d.jpg\n", ["p1", "p2"], [["a.jpg", "c.jpg"], ["b.jpg", "d.jpg"]]),
        ("mother,child,father\nm,c,f\n", ["father", "mother", "child"], [["f"], ["m"], ["c"]]),
        ("f.jpg m.jpg c.jpg FMS 1\n", ["father", "mother", "child"],
         [["f.jpg"], ["m.jpg"], ["c.jpg"]]),
    ],
)  # fmt: skip
def test_columns_of_pairs_are_told_by_their_names_or_by_what_they_hold(
    tmp_path: Path, content: str, titles: list[str], fields: list[list[str]]
) -> None:
    pairs = all_pairs(submission(tmp_path, content.encode()))
    assert (list(pairs.titles), list(pairs.fields)) == (titles, fields)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"pairs\.csv: empty"),
        (b"\xef\xbb\xbf\r\n", r"pairs\.csv: empty"),
        (b"img_pair,is_related\n", r"pairs\.csv: a header but no rows"),
        (b"img_pair,is_related\na-b,0\na\xe9-b,0\n", r"pairs\.csv, line 3: not a CSV of UTF-8"),
        (b'img_pair,is_related\na-b,0\n\n"a-b"c,0\n', r"pairs\.csv, line 4: not a CSV of UTF-8"),
    ],
    ids=["empty", "bom only", "header only", "latin-1", "broken quotes"],
)
def test_a_file_without_pairs_says_what_is_wrong(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        all_pairs(submission(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: no such file; wanted a CSV of lines img_pa"):
        all_pairs(tmp_path / "absent.csv")


fields = st.text('ab-,"é\n ', max_size=6).map(lambda text: f"x-{text}")


@given(st.lists(fields, min_size=1, max_size=9), st.integers(1, 10), st.sampled_from(["", ".gz"]))
def test_any_blocks_of_any_file_hold_what_csv_reads(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("pairs") / f"pairs.csv{kind}"
    with (gzip.open if kind else open)(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["img_pair", "is_related"], *[[text, 0] for text in texts]])
    assert all_pairs(path, size).fields == (texts,)


def test_parquet_is_read_in_blocks(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "pairs.parquet"
    texts = [f"{row}-{row + 1}" for row in range(7)]
    parquet.write_table(pyarrow.table({"x": range(7), "img_pair": texts}), path)
    pairs = all_pairs(path, 3)
    assert (pairs.fields[0], pairs.lines) == (texts, [1, 2, 3, 4, 5, 6, 7])
    parquet.write_table(pyarrow.table({"img_pair": ["a-b", None]}), path)
    with pytest.raises(DataError, match="line 2: found '', wanted a pair"):
        all_pairs(path)
    parquet.write_table(pyarrow.table({"pear": ["a-b"]}), path)
    with pytest.raises(DataError, match="has columns pear; wanted img_pair"):
        all_pairs(path)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-9], b"img_pair\na-b\n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a parquet file") as error:
            all_pairs(path)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="its processes end otherwise")
def test_a_parquet_that_ends_pyarrows_process_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("kinembed.data.parquet._CHILD", "import os; os.abort()")
    path = tmp_path / "pairs.parquet"
    path.touch()
    with pytest.raises(DataError, match="pyarrow crashed on it") as error:
        all_pairs(path)
    assert "\n" not in str(error.value)


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv.gz"
    whole = gzip.compress(b"img_pair\n" + b"a-b\n" * 5000)
    for content in (whole[:-20], whole[:40], b"img_pair\na-b\n", whole[:30] + b"!" + whole[31:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"pairs\.csv\.gz") as error:
            all_pairs(path)
        assert "\n" not in str(error.value)


def test_texts_are_split_at_their_only_hyphen() -> None:
    texts = ["a.jpg-b.jpg", "-b.jpg", "a.jpg-", "a-b-c", "x.jpg-y.jpg"]
    left, right, ambiguous = split_names(texts)
    assert left == ["a.jpg", "", "a.jpg", "a", "x.jpg"]
    assert right == ["b.jpg", "b.jpg", "", "b-c", "y.jpg"]
    assert ambiguous == [3]


@given(st.lists(st.text("ab-.", max_size=8).filter(lambda text: "-" in text)))
def test_split_texts_join_to_what_they_were(texts: list[str]) -> None:
    left, right, ambiguous = split_names(texts)
    assert [f"{a}-{b}" for a, b in zip(left, right, strict=True)] == texts
    assert ambiguous == [row for row, text in enumerate(texts) if text.count("-") > 1]


# Pairs of held-out people


def test_held_out_pairs_are_of_held_out_people_alone() -> None:
    names = [f"train/F{f}/MID{m}/{p}.jpg" for f in range(6) for m in range(3) for p in range(2)]
    relations = [(f"F{f}/MID0", f"F{f}/MID{m}") for f in range(6) for m in (1, 2)]
    families = replace(group_families(names, relations), rows=np.arange(len(names))[::-1] + 100)
    people = ["F1/MID0", "F1/MID1", "F4/MID0", "F4/MID2"]
    found = held_out_pairs(families, people, 400, np.random.default_rng(0))
    assert len(found) == 400 and found.labels.sum() == 200
    kin = {frozenset(pair) for pair in relations}
    for (a, b), label, (one, other) in zip(found.rows, found.labels, found.families):
        left, right = ("/".join(names[135 - row].split("/")[1:3]) for row in (a, b))
        assert {left, right} <= set(people) and left != right
        assert label == (frozenset((left, right)) in kin)
        assert (one == other) == (left[:2] == right[:2])
    for absent, problem in (
        (["F9/MID0"], r"1 of 1 people have no photos in the cache \(F9/MID0\)"),
        ([], "nobody"),
    ):
        with pytest.raises(DataError, match=problem):
            held_out_pairs(families, absent, 10, np.random.default_rng(0))
