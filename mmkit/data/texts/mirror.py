"""What becomes of left and right in a caption when its picture is mirrored: they change places, where they are places.

English and Chinese alone, and there only where the words around them leave no doubt ("on the left", "left of", "左边").
``None`` says "leave the picture as it is": the word may be a verb, a remainder, a privilege, an adverb ("a man left the
room", "right now"), or the caption may be of another language, whose words for left and right nobody here can check.
A wrong None costs one mirrored view; a wrong swap teaches a falsehood. Left out: text inside the picture, clock times,
points of the compass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from mmkit.data.texts.language import is_english_or_chinese

Edit = tuple[int, int, str]
"""The characters of a text from the first to before the second are replaced by the third."""

_ENGLISH = re.compile(r"\b(?:left|right)\w*", re.IGNORECASE)
_LETTERS = re.compile(r"[(\[](?:l|r|l[-/]r|r[-/]l)[)\]]|\b(?:L to R|R to L|L-R|R-L)\b", re.IGNORECASE)
_CHINESE = re.compile("[左右]")
_CHINESE_PLACE = re.compile(
    "(?<=[在从從由向往朝靠偏最居至到自])[左右](?![左右派翼撇])|(?<![左右座])[左右]"
    "(?=[边邊侧側面方手脚腳腿臂眼耳肩膝肘掌下上前后後转轉拐舷半角端图圖起一二三四部])"
)
# A token: a word with what joins its parts ("left-hand", "dog's"), or one sign.
_TOKEN = re.compile(r"\w+(?:['’]\w+)*(?:-\w+)*|[^\w\s]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SWAP = {"left": "right", "right": "left"}
_FORMS = {f"{side}{end}": f"{other}{end}" for side, other in _SWAP.items() for end in ("most", "ward", "wards", "hand")}
# Compounds with a hyphen: what may stand behind the side, and before it.
_BEHIND = _set("hand most side facing pointing turn hand-side center centre to-left to-right and-right and-left")
_BEFORE = _set("top bottom upper lower far mid middle center centre front back rear extreme")
# "on the left", "to its right"
_PLACING = _set("on to at from toward towards near by along off")
_OWNERS = _set("the its his her their my your our")
_EDGES = _set("top bottom upper lower far mid middle center centre front extreme rear very viewer's picture's image's")
# What may follow "on the right", so that it is a place and no adjective.
_NEARER = _set("in on at by near next above below behind under over from only")
_ENDS = _NEARER | _set(
    "of and or is are was were has have had with while who that which as there shows contains looks holds wears stands "
    "sits"
)
_PLACES = _set(
    "side sides hand corner corners edge half part portion end picture image photo photograph panel page column row "
    "third quarter quadrant margin border lane bank"
)
_BODY = _set(
    "hand hands arm arms leg legs foot feet eye eyes ear ears shoulder knee elbow wrist ankle thumb cheek wing paw "
    "paws hoof palm hip thigh heel shoe boot glove sleeve pocket headlight wheel"
)
_PRINTS = _set("print prints mark marks")
_TURNS = _set("turn turns arrow arrows lane exit")
_FACING = _set(
    "facing faces face looking looks look pointing points point heading heads turning turns turn turned leaning leans "
    "lean tilted tilting moving moves veering keep go going swing bending bends curving curves"
)
_STOPS = _set('. , ; : ! ? ( [ ) ] - – — / | " ” “')
_STARTS = (
    _OWNERS | _STOPS | {""} | _set("a an one with on in of and or from both front back raised upper lower no only")
)
_CONTRACTED = _set("that's it's what's he's she's who's there's here's one's let's")
_IDIOMS_OF = _set("way passage course late necessity")
_IDIOM_AFTER = {
    "left": _set("over behind alone out open luggage unattended for by"),
    "right": _set("now away here there angle angles answer before after up down to as when where"),
}
_IDIOMS = [["side", "by", "side"], ["hand", "in", "hand"], ["side", "up"], ["of", "way"], ["of", "passage"]]
_REMAINS = _set(
    "what what's whats all little much nothing nobody everything slice slices piece pieces bite bites half some only "
    "few one lot none any remains"
)


def swap_left_right(caption: str) -> str | None:
    """The caption of the mirrored picture; None where the picture should not be mirrored.

    A caption without such words comes back unchanged, if it may be English or Chinese.
    """
    edits = swaps(caption)
    return None if edits is None else edited(caption, edits)


@lru_cache(maxsize=4096)
def swaps(caption: str) -> Sequence[Edit] | None:
    """What ``swap_left_right`` changes, in order."""
    if not is_english_or_chinese(caption) or _LETTERS.search(caption):
        return None
    chinese = [] if caption.isascii() else _chinese(caption)
    if chinese is None:
        return None
    english = _english(edited(caption, chinese)) if _ENGLISH.search(caption) else []  # of one length with the caption
    return None if english is None else tuple(sorted(chinese + english))


def edited(text: str, edits: Sequence[Edit]) -> str:
    """The text with its edits, which stand in order."""
    if not edits:
        return text
    out, done = [], 0
    for start, end, new in edits:
        out += [text[done:start], new]
        done = end
    return "".join([*out, text[done:]])


def moved(span: tuple[int, int], edits: Sequence[Edit]) -> tuple[int, int]:
    """Where the characters ``span`` of a text stand after its edits; of a word that is replaced, all or none."""
    first, last = span
    start, end = first, last
    for begin, close, new in edits:
        grown = len(new) - (close - begin)
        if close <= first:
            start += grown
        elif begin < first:
            start += begin - first
        if close <= last:
            end += grown
        elif begin < last:
            end += close - last + grown
    return start, end


def _english(caption: str) -> list[Edit] | None:
    tokens = [(match.group(), match.start()) for match in _TOKEN.finditer(caption)]
    words = [word.lower().replace("’", "'") for word, _ in tokens]
    out: list[Edit] = []
    sure: list[bool] = []
    for number, (token, start) in enumerate(tokens):
        if _ENGLISH.search(token) is None:
            continue
        swapped = _compound(token) or (_cased(token, _SWAP[words[number]]) if words[number] in _SWAP else None)
        if swapped is None:
            return None
        sure.append(words[number] not in _SWAP or _is_place(words, number))
        out.append((start, start + len(token), swapped))
    return out if all(sure) else None


def _compound(token: str) -> str | None:
    """The other side's "left-hand", "leftmost", "upper-left"; None for anything else."""
    word = token.lower()
    if word in _FORMS:
        return _cased(token, _FORMS[word])
    first, _, rest = word.partition("-")
    before, _, last = word.rpartition("-")
    if first in _SWAP and rest in _BEHIND:
        if rest.rpartition("-")[2] in _SWAP:  # left-to-right
            rest = f"{rest.rpartition('-')[0]}-{first}"
        return _cased(token, f"{_SWAP[first]}-{rest}")
    if last in _SWAP and before in _BEFORE:
        return f"{token[: len(before) + 1]}{_cased(token[len(before) + 1 :], _SWAP[last])}"
    return None


def _is_place(words: list[str], at: int) -> bool:
    """Whether "left" or "right" at a place in a caption is a place in the picture for certain."""
    side, other = words[at], _SWAP[words[at]]
    before = ["", "", *words[:at]][-2:]
    after = [*words[at + 1 : at + 4], "", "", ""][:3]
    if _coordinated(words, at, other):
        return True
    if after[0] in _IDIOM_AFTER[side] or after[:2] in _IDIOMS or after in _IDIOMS:
        return False
    return (
        (not any(before) and after[0] in ("", ":", ")", "-", "–", "—"))  # "left", "Left: a dog"
        or (before[1] in _STOPS and (after[0] == ":" or (before[1] in "([" and after[0] in ")]")))
        or _of(words[:at], after)
        or _after_article(side, before, after)
        or _sided(before, after)
        or _after_preposition(side, before, after)
        or _after_verb(before, after)
        or (after[0] in _TURNS and before[1] in _STARTS)
    )


def _coordinated(words: list[str], at: int, other: str) -> bool:
    """As in "left and right", "from left to right"; not "left and right after"."""
    for step in (1, -1):
        joint, end = at + step, at + 2 * step
        if 0 <= end < len(words) and words[end] == other and words[joint] in ("and", "or", "to", "/", "&"):
            last = max(at, end)
            after = words[last + 1] if last + 1 < len(words) else ""
            return after not in _IDIOM_AFTER[words[last]] | {"at", "in", "on", "next"}
    return False


def _of(before: list[str], after: list[str]) -> bool:
    """As in "left of the tree"; not what is left of the cake, nor one who left of his own accord."""
    noun = after[1].isalpha() and after[1] not in _IDIOMS_OF and after[2] != "own"
    return after[0] == "of" and noun and not _REMAINS & set(before)


def _after_article(side: str, before: list[str], after: list[str]) -> bool:
    """As in "the left is", "the upper left corner", "on its right", "the left man" (not "the right man")."""
    if before[1] in _EDGES:
        return _ended(after) or (_follows(after) and after[0] != "in") or after[0] in _BODY
    if before[1] not in _OWNERS:
        return False
    if before[0] in _PLACING and (_ended(after) or _follows(after)):
        return True
    if before[1] == "the" and after[0] in ("is", "has", "shows", "contains", "of"):
        return True
    noun = after[0].isalpha() and after[0] not in _OWNERS | _ENDS | {"a", "an", "to", "this", "that"}
    return side == "left" and before[1] != "her" and noun


def _after_preposition(side: str, before: list[str], after: list[str]) -> bool:
    """As in "man on left", "from right"; but not "hold on right next to it"."""
    if before[1] not in _PLACING:
        return False
    return _ended(after) or (_follows(after) and not (side == "right" and after[0] in _NEARER))


def _after_verb(before: list[str], after: list[str]) -> bool:
    """As in "looking left", "turn right at the corner"; but not "looking right at the camera"."""
    onward = after[0] in ("at", "on", "onto", "into") and before[1].startswith("turn")
    joined = after[0] in ("and", "or", "while", "with", "arrow", "only", "sign")
    return before[1] in _FACING and (_ended(after) or onward or joined)


def _sided(before: list[str], after: list[str]) -> bool:
    """As in "the left side", "his right hand", "left ear": a side of something that has two, after an article or so."""
    opens = before[1] in _STARTS or before[1] in _EDGES or (before[1].endswith("'s") and before[1] not in _CONTRACTED)
    return opens and (after[0] in _PLACES or (after[0] in _BODY and after[1] not in _PRINTS))


def _ended(after: list[str]) -> bool:
    return not after[0] or after[0] in _STOPS


def _follows(after: list[str]) -> bool:
    """Whether what follows "on the right" leaves it a place, and makes no adjective of it ("on the right track")."""
    gerund = after[0].endswith("ing") and after[0] not in ("wing", "thing", "building", "king", "string", "ring")
    return after[0] in _ENDS or after[0] in _PLACES or gerund


def _cased(like: str, word: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[:1].isupper() else word


def _chinese(caption: str) -> list[Edit] | None:
    """All of them in Chinese, or None where one is no place for certain ("左右", "左派")."""
    places = list(_CHINESE_PLACE.finditer(caption))
    if len(places) < len(_CHINESE.findall(caption)):
        return None
    return [(found.start(), found.end(), "右" if found.group() == "左" else "左") for found in places]
