"""Numbers of things in words."""

from kinembed.printable import counted


def test_one_thing_is_no_plural() -> None:
    assert [counted(n, "photo") for n in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]
    assert counted(1, "person", "people") == "1 person"
    assert counted(12345, "person", "people") == "12,345 people"
