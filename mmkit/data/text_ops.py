"""Words of captions: ALBEF's cleaning (RECIPES A.5), and what becomes of left and right when a picture is mirrored.

Mirroring swaps the words for left and right where the language is known. ``None`` says "leave the picture as it is":
the caption has such words in a form or a language that cannot be swapped safely ("all right", Polish). Left out: text
inside the picture, clock times, handedness.
"""

from __future__ import annotations

import re
from functools import lru_cache

_DELETED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACED = re.compile(r"[-/]")


def clean_caption(caption: str, max_words: int = 30) -> str:
    """ALBEF's cleaning: lower case, punctuation out, "-" and "/" to spaces, at most ``max_words`` words."""
    caption = _SPACED.sub(" ", _DELETED.sub("", caption.lower())).replace("<person>", "person")
    return " ".join(caption.split()[:max_words])


# Word pairs, each word matched whole.
_WORDS = [
    # English, German (and Dutch), French, Spanish, Portuguese, Italian, Russian, Turkish, Indonesian
    "left right|leftmost rightmost|leftward rightward|leftwards rightwards|lefthand righthand",
    "links rechts|linke rechte|linken rechten|linker rechter|linkes rechtes|linkem rechtem",
    "izquierda derecha|izquierdo derecho|izquierdas derechas|izquierdos derechos",
    "esquerda direita|esquerdo direito|esquerdas direitas|esquerdos direitos",
    "sinistra destra|sinistro destro",
    "слева справа|влево вправо|налево направо|левее правее|левый правый|левая правая|левое правое|левые правые",
    "левого правого|левой правой|левом правом|левому правому|левую правую|левых правых|левым правым",
    "solda sağda|sola sağa|soldaki sağdaki|solunda sağında|solundaki sağındaki|soluna sağına|soldan sağdan",
    "kiri kanan",
]
# Scripts whose words carry prefixes or have no spaces: replaced wherever they stand.
_PARTS = "左 右|왼쪽 오른쪽|왼편 오른편|چپ راست|يسار يمين|اليسرى اليمنى|الأيسر الأيمن"
# French: the adjective for right changes with the noun's gender, the one for left does not; only the feminine is safe.
_FRENCH = [("à gauche", "à droite"), ("de gauche", "de droite"), ("la gauche", "la droite")]
_FRENCH += [("main gauche", "main droite")]

# These words in other senses: looked for in the whole caption.
_OTHER_SENSE = re.compile(
    r"\b(all|that's|human|civil|animal|equal)[ -]right\b|\balright\b"
    r"|\brights?\b(?= now| away| here| there| angle| answer)"
    r"|\b(is|are|was|were) right\b(?! (of|next|above|below))|\b(is|are|was|were|been|has|have|had) left\b(?! of)"
    r"|\bleft (over|behind|alone|out|open|unattended|by|for|him|her|it|them|his|their)\b|\bleft-?overs?\b|\brights\b"
    r"|\bderecho a\b|左右|右左|座右|极左|极右",
    re.IGNORECASE,
)
# Left or right for certain, but without a rule: looked for in what remains when the known words are taken out.
# The other forms of French and Turkish; Polish, Nordic, Finnish, Greek, Hindi, Vietnamese, Thai, Hebrew, Ukrainian,
# Czech, Hungarian, Romanian.
_NO_RULE = re.compile(
    r"\b(gauches?|droite?s?)\b|\bsağ\b|\bsol (taraf|yan|köşe|el|üst|alt)\w*|\b(po )?(lew|praw)(o|a|y|ej|ym|ą|ego)\b"
    r"|\b(vänster|höger|venstre|højre|høyre)\w*|\b(vasen|vasemma|oike[ai])\w*|αριστερ|δεξι|बाए|बाईं|दाए|दाईं|दाहिन"
    r"|\b(bên|phía) (trái|phải)\b|ซ้าย|ขวา|שמאל|ימין|ліворуч|праворуч|\b(лів|прав)(ий|а|е|ої|ій)\b"
    r"|\b(vlevo|vpravo|lev[áéýo]|prav[áéýo])\b|\b(bal|jobb)(ra| ?oldal\w*)\b|\b(stâng|drept|dreapt)\w*",
    re.IGNORECASE,
)


@lru_cache(maxsize=1)
def _swaps() -> tuple[dict[str, str], re.Pattern[str]]:
    table: dict[str, str] = {}
    for line in _WORDS:
        for pair in line.split("|"):
            left, right = pair.split(" ")
            table[left], table[right] = right, left
    table.update({a: b for pair in _FRENCH for a, b in (pair, pair[::-1])})
    words = "|".join(sorted(map(re.escape, table), key=len, reverse=True))
    parts = {}
    for pair in _PARTS.split("|"):
        left, right = pair.split(" ")
        parts[left], parts[right] = right, left
    table.update(parts)
    anywhere = "|".join(sorted(map(re.escape, parts), key=len, reverse=True))
    return table, re.compile(rf"(?<!\w)(?:{words})(?!\w)|{anywhere}", re.IGNORECASE)


def swap_left_right(caption: str) -> str | None:
    """The caption of the mirrored picture; None where the picture should not be mirrored.

    A caption without such words comes back unchanged.
    """
    table, pattern = _swaps()
    if _OTHER_SENSE.search(caption) or _NO_RULE.search(pattern.sub(" ", caption)):
        return None

    def swap(match: re.Match[str]) -> str:
        found = match.group()
        swapped = table[found.lower()]
        return swapped.capitalize() if found[:1].isupper() else swapped

    return pattern.sub(swap, caption)
