"""Each kind of finding, on made-up families with known faults."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_families import WIDTH, Faulty

from kinembed.audit import audit
from kinembed.auditing.finding import ENOUGH, KINDS
from kinembed.config import AuditConfig
from kinembed.errors import DataError, KinembedError, RunError
from kinembed.io import read_csv

Rows = list[dict[str, str]]


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up people are fewer than a surety wants of real ones."""
    monkeypatch.setattr("kinembed.audit.ENOUGH", 0)


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., Rows]:
    """Audits a made-up run; its findings of some kinds, all or the surest."""

    def ask(faulty: Faulty, *kinds: str, folder: str = "run", **settings: object) -> Rows:
        run = tmp_path / folder
        run.mkdir(exist_ok=True)
        faulty.write(run)
        config = AuditConfig(kinds=kinds, **{"least": 0.0, "pictures": False, **settings})
        return read_csv(audit(config, run, run))[1]

    return ask


def pairs(rows: Rows) -> list[tuple[str, str]]:
    return [(row["person"], row["other_person"]) for row in rows]


def test_photos_under_another_person_come_first(findings: Callable[..., Rows]) -> None:
    faulty = Faulty()
    put = []
    for family in range(6):  # a photo of this person is really of another family's
        photo = f"train/F{family:03}/MID2/0.jpg"
        other = f"train/F{family + 20:03}/MID3/0.jpg"
        faulty.vectors[photo] = faulty.vectors[other] + 0.3 * faulty.rng.standard_normal(WIDTH)
        put.append(photo)
    faulty.swap("train/F010/MID2/1.jpg", "train/F030/MID4/1.jpg")
    put += ["train/F010/MID2/1.jpg", "train/F030/MID4/1.jpg"]
    rows = findings(faulty, "photo")
    assert {row["photo"] for row in rows[: len(put)]} == set(put)
    assert all(float(row["surety"]) > 0.95 for row in rows[: len(put)])
    assert float(rows[len(put)]["surety"]) < 0.75
    found = {row["photo"]: row["other_person"] for row in rows[: len(put)]}
    assert found["train/F000/MID2/0.jpg"] == "F020/MID3"
    assert "unlike the 3 other photos of its person" in rows[0]["reason"]


def test_a_person_under_two_names_is_found(findings: Callable[..., Rows]) -> None:
    faulty = Faulty(photos=6)
    for family in range(8):
        for photo in faulty.photos_of(f"F{family:03}/MID3")[:3]:
            faulty.people[photo] = f"F{family:03}/MID9"
    rows = findings(faulty, "double")
    assert set(pairs(rows[:8])) == {(f"F{n:03}/MID3", f"F{n:03}/MID9") for n in range(8)}
    assert float(rows[7]["surety"]) > float(rows[8]["surety"])


def test_false_relations_come_first(findings: Callable[..., Rows]) -> None:
    faulty = Faulty()
    put = [(f"F{n:03}/MID2", f"F{n + 1:03}/MID3") for n in range(0, 12, 2)]
    faulty.relations |= set(put)
    rows = findings(faulty, "relation")
    assert set(pairs(rows[: len(put)])) == set(put)
    assert all("of two families" in row["reason"] for row in rows[: len(put)])


def test_relations_without_relatives_in_common_are_told_by_faces(
    findings: Callable[..., Rows],
) -> None:
    faulty = Faulty()
    faulty.relations = {(f"F{n:03}/MID0", f"F{n:03}/MID2") for n in range(40)}
    for n in range(4):
        for photo in faulty.photos_of(f"F{n:03}/MID2"):
            faulty.vectors[photo] = -faulty.vectors[photo]
    rows = findings(faulty, "relation")
    assert {row["person"] for row in rows[:4]} == {f"F{n:03}/MID0" for n in range(4)}
    assert float(rows[3]["surety"]) > 0.5 > float(rows[4]["surety"])
    assert "0 of 0 other relatives in common" in rows[0]["reason"]


def test_two_people_with_exchanged_names_are_found(findings: Callable[..., Rows]) -> None:
    faulty = Faulty()
    put = {f"F{n:03}/MID3" for n in range(6)}
    for n in range(0, 6, 2):
        faulty.exchange(f"F{n:03}/MID3", f"F{n + 1:03}/MID3")
    rows = findings(faulty, "person")
    assert {row["person"] for row in rows[:6]} == put
    assert float(rows[5]["surety"]) > 0.5 > float(rows[6]["surety"])


def test_relations_that_are_missing_are_found(findings: Callable[..., Rows]) -> None:
    faulty = Faulty()
    put = {(f"F{n:03}/MID2", f"F{n:03}/MID3") for n in range(6)}
    faulty.relations -= put
    rows = [row for row in findings(faulty, "unlisted") if "of two families" not in row["reason"]]
    assert set(pairs(rows[:6])) == put
    assert "/MID0 and F00" in rows[0]["reason"] and "may be their parents" in rows[0]["reason"]


def test_shared_children_are_no_sign_of_kinship(findings: Callable[..., Rows]) -> None:
    faulty = Faulty()
    put = {(f"F{n:03}/MID2", f"F{n:03}/MID3") for n in range(6)}
    faulty.relations -= put
    for n in range(40):  # one parent more, without children
        mean = faulty.rng.standard_normal(WIDTH)
        for number in range(4):
            faulty.add(f"train/F{n:03}/MID5/{number}.jpg", f"F{n:03}/MID5", mean)
    rows = findings(faulty, "unlisted")
    sure = {(row["person"], row["other_person"]): row for row in rows}
    couples = [sure[f"F{n:03}/MID0", f"F{n:03}/MID1"] for n in range(6, 40)]
    for row in couples:
        assert "3 relatives in common, who may be their children" in row["reason"]
        assert float(row["surety"]) < 0.1
    likest = max(float(row["surety"]) for row in couples)
    single = [sure[f"F{n:03}/MID0", f"F{n:03}/MID5"] for n in range(40)]
    assert likest < max(float(row["surety"]) for row in single) + 0.05
    assert min(float(sure[pair]["surety"]) for pair in put) > likest


def test_families_that_pull_the_auc_down_are_named(findings: Callable[..., Rows]) -> None:
    faulty = Faulty()
    put = ["F007", "F017", "F027"]
    for family in put:
        for person in range(5):  # nobody of this family is alike
            face = faulty.rng.standard_normal(WIDTH)
            for photo in faulty.photos_of(f"{family}/MID{person}"):
                faulty.vectors[photo] = face
    rows = findings(faulty, "family")
    assert sorted(row["person"] for row in rows[:3]) == put
    assert float(rows[0]["surety"]) > 0.5
    assert rows[1:] == [] or float(rows[-1]["surety"]) < 0.5
    auc, without = map(float, re.findall(r"(?:of all|this family) ([.\d]+)", rows[0]["reason"]))
    assert without > auc


def test_the_same_file_under_two_people_or_in_test(findings: Callable[..., Rows]) -> None:
    faulty = Faulty(families=12)
    faulty.add("test/a.jpg", "", faulty.rng.standard_normal(WIDTH))
    same = {
        "train/F001/MID2/0.jpg": "train/F002/MID3/1.jpg",  # under two people
        "train/F003/MID2/0.jpg": "train/F003/MID2/1.jpg",  # of one person: no fault
        "train/F004/MID0/0.jpg": "test/a.jpg",
    }
    for one, other in same.items():
        faulty.digests[other] = faulty.digests[one]
    rows = findings(faulty, "copy", least=0.99)
    assert [(row["photo"], row["other_photo"]) for row in rows] == [
        ("test/a.jpg", "train/F004/MID0/0.jpg"),
        ("train/F001/MID2/0.jpg", "train/F002/MID3/1.jpg"),
    ]
    assert "one lies in test/" in rows[0]["reason"] and rows[1]["surety"] == "1"
    assert "on both sides of the head's split, fold 2 and fold 3" in rows[1]["reason"]
    assert "split" not in rows[0]["reason"]


def test_two_names_of_one_person_on_both_sides_of_a_split_are_said(
    findings: Callable[..., Rows], tmp_path: Path
) -> None:
    from kinembed.heads.file import save_head

    faulty = Faulty(photos=6)
    for family, other in ((0, 1), (3, 6), (4, 7)):  # a third of the families is held out
        for photo in faulty.photos_of(f"F{family:03}/MID3")[:3]:
            faulty.people[photo] = f"F{other:03}/MID9"
    folds = {row["person"]: row["reason"] for row in findings(faulty, "double")[:3]}
    assert "split, fold 1 and fold 2, so it is trained on" in folds["F000/MID3"]
    assert "split" not in folds["F003/MID3"] + folds["F004/MID3"]
    run = tmp_path / "run"
    save_head(faulty.head(folds=False), run / "head.h5")
    rows = read_csv(audit(AuditConfig(kinds=("double",), least=0, pictures=False), run, run))[1]
    reasons = {row["person"]: row["reason"] for row in rows[:3]}
    assert "split, the held-out people and the training people, so it" in reasons["F000/MID3"]
    assert "split" not in reasons["F003/MID3"] + reasons["F004/MID3"]


def test_nearly_equal_vectors_are_copies_where_no_picture_is_at_hand(
    findings: Callable[..., Rows],
) -> None:
    faulty = Faulty(families=12)
    faulty.vectors["train/F001/MID2/0.jpg"] = 1.01 * faulty.vectors["train/F002/MID3/1.jpg"]
    (row,) = findings(faulty, "copy", least=0.5)
    assert {row["photo"], row["other_photo"]} == {"train/F001/MID2/0.jpg", "train/F002/MID3/1.jpg"}
    assert "no pictures to compare" in row["reason"]
    assert row["cure"] == "keep it under F002/MID3 alone"


def test_findings_do_not_depend_on_the_order_of_relations(
    findings: Callable[..., Rows], tmp_path: Path
) -> None:
    faulty = Faulty(families=15)
    rows = findings(faulty)
    path = tmp_path / "run" / "train_relationships.csv"
    header, *lines = path.read_text().splitlines()
    turned = [",".join(reversed(line.split(","))) for line in lines[::-1]]
    path.write_text("\n".join([header, *turned, *turned[:9]]))
    run = tmp_path / "run"
    again = read_csv(audit(AuditConfig(least=0, pictures=False), run, run))[1]
    assert again == rows and len(rows) > 100


def test_what_is_sure_is_listed_first_and_only_from_least_on(
    findings: Callable[..., Rows],
) -> None:
    faulty = Faulty(families=15)
    faulty.relations.add(("F000/MID2", "F001/MID3"))
    everything, sure = findings(faulty), findings(faulty, least=0.2)
    assert [row for row in everything if float(row["surety"]) >= 0.2] == sure
    assert "family" in {row["kind"] for row in everything}
    values = [float(row["surety"]) for row in everything]
    assert values == sorted(values, reverse=True)
    assert len({tuple(row.items()) for row in everything}) == len(everything)


# What is missing


def test_without_a_head_relations_are_not_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Faulty(families=15).write(tmp_path)
    (run / "head.h5").unlink()
    with caplog.at_level("INFO"):
        rows = read_csv(audit(AuditConfig(least=0), run, run))[1]
    assert {row["kind"] for row in rows} == {"photo", "double"}
    assert "no head, so relations are not judged; run kinembed head" in caplog.text


def test_without_relations_the_photos_are_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(families=15)
    faulty.relations.clear()
    run = faulty.write(tmp_path)
    with caplog.at_level("INFO"):
        rows = read_csv(audit(AuditConfig(least=0), run, run))[1]
    assert {row["kind"] for row in rows} == {"photo", "double"}
    assert f"{run}: no relations, so these are not judged" in caplog.text


def test_a_head_without_folds_judges_those_it_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from kinembed.heads.file import save_head

    faulty = Faulty(families=30)
    run = faulty.write(tmp_path)
    save_head(faulty.head(folds=False), run / "head.h5")
    with caplog.at_level("INFO"):
        rows = read_csv(audit(AuditConfig(kinds=("relation",), least=0), run, run))[1]
    assert {int(row["person"][1:4]) % 3 for row in rows} == {0} and len(rows) == 90
    assert "180 of 270 relations are not judged: the head was trained on these" in caplog.text


def test_a_cache_without_people_is_refused(tmp_path: Path) -> None:
    faulty = Faulty(families=5)
    faulty.people = dict.fromkeys(faulty.people, "")
    faulty.relations.clear()
    run = faulty.write(tmp_path)
    with pytest.raises(DataError, match=r"who is on its 100 photos is not known.*people-table"):
        audit(AuditConfig(), run, run)


def test_of_few_people_the_strongest_of_each_kind_are_listed_without_a_surety(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kinembed.audit.ENOUGH", ENOUGH)
    faulty = Faulty(families=ENOUGH // 5 - 1)
    faulty.relations.add(("F000/MID2", "F001/MID3"))
    faulty.digests["train/F001/MID2/0.jpg"] = faulty.digests["train/F002/MID3/1.jpg"]
    run, table = faulty.write(tmp_path), tmp_path / "exclude.csv"
    config = AuditConfig(least=0.9, top=2, pictures=False, write=table)
    with caplog.at_level("INFO"):
        copy, *rows = read_csv(audit(config, run, run))[1]
    assert copy["kind"] == "copy" and copy["surety"] == "1"
    assert {row["surety"] for row in rows} == {""}
    kinds = [row["kind"] for row in rows]
    assert kinds == sorted(kinds, key=KINDS.index) and set(kinds) == {*KINDS} - {"copy"}
    assert max(map(kinds.count, kinds)) == 2
    first = next(row for row in rows if row["kind"] == "relation")
    assert (first["person"], first["other_person"]) == ("F000/MID2", "F001/MID3")
    assert "295 people are too few to say how sure a finding is (wanted 300 or more)" in caplog.text
    assert [row["person"] for row in read_csv(table)[1]] == [""]  # nothing unsure is left out
    monkeypatch.setattr("kinembed.audit.ENOUGH", 295)
    assert all(row["surety"] for row in read_csv(audit(config, run, run))[1])


def test_a_published_head_cannot_judge(tmp_path: Path) -> None:
    from kinembed.ready import READY

    run = Faulty(families=5).write(tmp_path)
    with pytest.raises(
        RunError, match=r"a published head.*audit needs the head\.h5 of a run folder"
    ):
        audit(AuditConfig(head=READY), run, run)


def test_few_people_and_single_photos_are_no_problem(tmp_path: Path) -> None:
    faulty = Faulty(families=2, photos=1)
    run = faulty.write(tmp_path)
    rows = read_csv(audit(AuditConfig(least=0), run, run))[1]
    assert {row["kind"] for row in rows} <= {"person", "relation", "unlisted", "family"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kinds": ("copies",)}, "kinds: found 'copies', wanted some of copy, photo"),
        ({"least": 1.5}, "least: found 1.5, wanted 0 to 1"),
        ({"top": 0}, "top: found 0"),
        ({"surest": 0}, "surest: found 0"),
    ],
)
def test_wrong_settings_are_refused(
    settings: dict[str, object], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(KinembedError, match=problem):
        audit(AuditConfig(**settings), tmp_path, tmp_path)


def test_a_missing_cache_and_a_head_of_another_network_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no such file; run kinembed embed"):
        audit(AuditConfig(), tmp_path, tmp_path)
    from dataclasses import replace

    from kinembed.heads.file import save_head

    faulty = Faulty(families=5)
    run = faulty.write(tmp_path)
    save_head(replace(faulty.head(), model="other"), run / "head.h5")
    with pytest.raises(RunError, match=r"the head is of model other; run kinembed head"):
        audit(AuditConfig(), run, run)
