"""Who is on a photo, as the layout of its folder says."""

import re

# A person is `FAMILY/PERSON`, or `PERSON` where the family is not known.
_PERSON = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f]+(/[^/\\\x00-\x1f\x7f-\x9f]+)?")


def is_person(text: str) -> bool:
    """Whether a text may name a person: `FAMILY/PERSON`, or `PERSON` without a family."""
    return bool(_PERSON.fullmatch(text)) and not {"", ".", ".."} & {*text.split("/")}


def family_of(person: str) -> str:
    """The family of a person, empty if it is not known."""
    family, slash, _ = person.partition("/")
    return family if slash else ""


def kaggle_person(photo: str) -> str:
    """The person of a photo `[FOLDER/]FAMILY/PERSON/FILE`, empty if it lies otherwise."""
    parts = photo.split("/")
    return f"{parts[-3]}/{parts[-2]}" if len(parts) in (3, 4) else ""
