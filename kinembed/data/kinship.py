"""What words for a relation say: kin by blood or not."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_NOT_BY_BLOOD = re.compile(
    r"husband|wife|wives|spouse|marri|partner|couple|inlaw|step(?=[fmpscdbg])|foster|adopt|god(?=[fmpscd])"
    r"|^(?:non|not|un|no)(?:kin|relat|famil|blood|verified)|stranger|friend|colleague|acquaint"
    r"|random|impostor|imposter|^(?:none|no|negative|neg|false)$|^-?0(?:\.0*)?$"
    r"|^-1(?:\.0*)?$"
)
_CODE = re.compile(
    r"g{0,3}[fmp]g{0,3}[sdc]|fm[sd]|bb|ss|bs|sb|sibs?|bros?|sis"  # fs, gmgd, bb, sibs, …
)
_BY_BLOOD = re.compile(
    r"(?:great|grand|half|full|twin|triplet|identical|fraternal|maternal|paternal|biological|blood"
    r"|first|second|third|once|twice|removed|degree|and|of|to|by|the|or|vs"
    r"|father|dad|papa|pa|mother|mom|mum|mama|ma|parent|child|children|kid|offspring|son"
    r"|daughter|dau|brother|bro|sister|sis|sibling|sib|cousin|aunt|uncle|niece|nephew|grandma"
    r"|grandpa|granny|kin|related|relatives?|family|yes|true|positive|pos|s)+|\+?1(?:\.0*)?"
)


LONGEST = 40  # letters: words for relations are short


@lru_cache(4096)
def by_blood(relation: str) -> bool | None:
    """Whether people of a relation are kin by blood; None for words that are not known.

    Of nothing said it is True: who lists two people without a word says that they are kin.

    Example:
        >>> [by_blood(each) for each in ("gmgd", "Father-Son", "step-father", "neighbours")]
        [True, True, False, None]
    """
    text = unicodedata.normalize("NFKC", relation).casefold().strip()
    text = text[:1] + re.sub(r"[\s_,/&-]+", "", text[1:])
    if not text:
        return True
    if _NOT_BY_BLOOD.search(text):
        return False
    if len(text) > LONGEST:
        return None
    return True if _CODE.fullmatch(text) or _BY_BLOOD.fullmatch(text) else None
