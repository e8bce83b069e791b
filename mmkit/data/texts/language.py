"""Whether a caption may be English or Chinese: by its letters, then by small words of other languages.

Not a language detector: it only has to keep others away from a rule that is made for these two. A caption without
evidence against it passes; words of another language inside an English sentence ("a sign that says El Perro") do not
count against it while the English ones are more. Left out: telling languages that share a script without any small
word, as in "perro rojo", where there is nothing to go by and nothing to swap either.
"""

from __future__ import annotations

import re

# Letters that neither language has: everything beyond Latin but Han (kana and Hangul too).
_OTHER_SCRIPT = re.compile(
    r"[^\W\d_\u0000-\u02af\u1e00-\u1eff\u3400-\u9fff\uf900-\ufaff\uff00-\uff5a\U00020000-\U0003ffff]"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ENGLISH = _set(
    """the of with and are an at by for from that this these those its his her their is it to on in two three four five
    several some many next near over under behind beside between above below front while who which there sitting
    standing holding wearing man woman people person dog cat white black red blue green yellow"""
)
# Small words that are common elsewhere and are no English words; and, so that nothing that they say is mirrored,
# what is left and right in the languages that share the script.
_FOREIGN = _set(
    """ein eine einen einem einer eines der das dem des und mit auf im ist sind neben über unter vor hinter
    un une le la les du au aux et sur avec dans est sont deux devant derrière à
    el los las una unos unas del con y en sobre dos junto al es está tres
    um uma uns umas os da das na nas em e o ao dois duas
    il lo gli uno di della dello nel nella su che
    een het op naast achter voor twee
    og på ett en av för till och är bredvid framför
    bir ve ile iki üç üzerinde yanında
    di dengan yang dua tiga sebuah seekor seorang latar
    z obok przed nad jest dwa dwie jeden oraz
    și cu pe lângă în două
    và của một trên với hai con cái
    links rechts linke rechte linken rechten linker rechter gauche droite gauches droites izquierda izquierdo derecha
    derecho esquerda esquerdo direita direito sinistra sinistro destra destro kiri kanan solda sağda solunda sağında
    sola sağa vänster höger venstre højre høyre lewo prawo lewej prawej lewa prawa vlevo vpravo vasemmalla oikealla
    balra jobbra stânga dreapta trái phải linkerkant rechterkant linksboven rechtsboven"""
)


def is_english_or_chinese(text: str) -> bool:
    """False where something speaks for another language, and not more for English."""
    is_ascii = text.isascii()
    if not is_ascii and _OTHER_SCRIPT.search(text):
        return False
    words = [word.lower() for word in _WORD.findall(text)]
    if is_ascii and _FOREIGN.isdisjoint(words):
        return True
    foreign = sum(word in _FOREIGN or not (word.isascii() or _is_han(word)) for word in words)
    return not foreign or foreign < sum(word in _ENGLISH for word in words)


def _is_han(word: str) -> bool:
    return any(char >= "\u3400" for char in word)
