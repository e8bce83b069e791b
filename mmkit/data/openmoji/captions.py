"""Captions of the built-in scenes in fourteen languages.

Each language has several ways to say where one emoji is from another, made so that bare names need no inflection.
English adds articles. Left out: agreement of number and gender.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random
from string import Formatter

from mmkit.data.openmoji.kinds import emoji_name

# Names in English that take no "a": masses. Names in -s count as plural, but for these.
_MASS = frozenset(("bread", "spaghetti", "popcorn", "sushi", "thread", "tennis", "bowling", "ping pong", "cooking"))
_SINGULAR = frozenset(("bus", "octopus", "cactus", "rhinoceros", "hippopotamus"))


@dataclass(frozen=True)
class Phrases:
    """One language. In ``left`` a is left of b, in ``above`` a is above b; the opposites come from exchanging them.

    single: one emoji. joined: a scene of two relations. ground: a scene and the colour of its background.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    above: tuple[str, ...]
    below: tuple[str, ...]
    large: str
    small: str
    single: tuple[str, ...]
    joined: str
    ground: str
    colours: str


COLOUR_ORDER = ("white", "grey", "pink", "red", "orange", "yellow", "green", "blue", "purple", "brown")

PHRASES = {
    "en": Phrases(
        ("{a} to the left of {b}", "{a} left of {b}", "{a} on the left and {b} on the right"),
        ("{a} to the right of {b}", "{a} right of {b}", "{a} on the right and {b} on the left"),
        ("{a} above {b}", "{a} over {b}", "{a} at the top and {b} at the bottom"),
        ("{a} below {b}", "{a} under {b}", "{a} at the bottom and {b} at the top"),
        "large {x}", "small {x}", ("{a}", "a picture of {a}", "a drawing of {a}"), "{one}, {two}",
        "{scene} on {colour} background", "white grey pink red orange yellow green blue purple brown",
    ),
    "de": Phrases(
        ("{a} links von {b}", "links {a}, rechts {b}"), ("{a} rechts von {b}", "rechts {a}, links {b}"),
        ("{a} über {b}", "oben {a}, unten {b}"), ("{a} unter {b}", "unten {a}, oben {b}"),
        "{x} in groß", "{x} in klein", ("{a}", "ein Bild: {a}"), "{one}; {two}",
        "{scene} vor {colour}", "Weiß Grau Rosa Rot Orange Gelb Grün Blau Lila Braun",
    ),
    "fr": Phrases(
        ("{a} à gauche de {b}", "à gauche {a}, à droite {b}"), ("{a} à droite de {b}", "à droite {a}, à gauche {b}"),
        ("{a} au-dessus de {b}", "en haut {a}, en bas {b}"), ("{a} au-dessous de {b}", "en bas {a}, en haut {b}"),
        "{x} en grand", "{x} en petit", ("{a}", "une image : {a}"), "{one} ; {two}",
        "{scene} sur fond {colour}", "blanc gris rose rouge orange jaune vert bleu violet marron",
    ),
    "es": Phrases(
        ("{a} a la izquierda de {b}", "a la izquierda {a}, a la derecha {b}"),
        ("{a} a la derecha de {b}", "a la derecha {a}, a la izquierda {b}"),
        ("{a} encima de {b}", "arriba {a}, abajo {b}"), ("{a} debajo de {b}", "abajo {a}, arriba {b}"),
        "{x} en grande", "{x} en pequeño", ("{a}", "una imagen: {a}"), "{one}; {two}",
        "{scene} sobre fondo {colour}", "blanco gris rosa rojo naranja amarillo verde azul morado marrón",
    ),
    "it": Phrases(
        ("{a} a sinistra di {b}", "a sinistra {a}, a destra {b}"),
        ("{a} a destra di {b}", "a destra {a}, a sinistra {b}"),
        ("{a} sopra {b}", "in alto {a}, in basso {b}"), ("{a} sotto {b}", "in basso {a}, in alto {b}"),
        "{x} in grande", "{x} in piccolo", ("{a}", "un'immagine: {a}"), "{one}; {two}",
        "{scene} su sfondo {colour}", "bianco grigio rosa rosso arancione giallo verde blu viola marrone",
    ),
    "pt": Phrases(
        ("{a} à esquerda de {b}", "à esquerda {a}, à direita {b}"),
        ("{a} à direita de {b}", "à direita {a}, à esquerda {b}"),
        ("{a} acima de {b}", "em cima {a}, embaixo {b}"), ("{a} abaixo de {b}", "embaixo {a}, em cima {b}"),
        "{x} em tamanho grande", "{x} em tamanho pequeno", ("{a}", "uma imagem: {a}"), "{one}; {two}",
        "{scene} sobre fundo {colour}", "branco cinza rosa vermelho laranja amarelo verde azul roxo marrom",
    ),
    "id": Phrases(
        ("{a} di kiri {b}", "{a} di sebelah kiri {b}"), ("{a} di kanan {b}", "{a} di sebelah kanan {b}"),
        ("{a} di atas {b}",), ("{a} di bawah {b}",),
        "{x} besar", "{x} kecil", ("{a}", "gambar {a}"), "{one}, {two}",
        "{scene} dengan latar {colour}", "putih abu-abu pink merah jingga kuning hijau biru ungu cokelat",
    ),
    "tr": Phrases(
        ("solda {a}, sağda {b}",), ("sağda {a}, solda {b}",), ("üstte {a}, altta {b}",), ("altta {a}, üstte {b}",),
        "büyük {x}", "küçük {x}", ("{a}", "bir resim: {a}"), "{one}; {two}",
        "{colour} zemin üzerinde {scene}", "beyaz gri pembe kırmızı turuncu sarı yeşil mavi mor kahverengi",
    ),
    "ru": Phrases(
        ("слева {a}, справа {b}",), ("справа {a}, слева {b}",), ("сверху {a}, снизу {b}",), ("снизу {a}, сверху {b}",),
        "крупно {x}", "мелко {x}", ("{a}", "рисунок: {a}"), "{one}; {two}",
        "{scene} на {colour} фоне",
        "белом сером розовом красном оранжевом жёлтом зелёном голубом фиолетовом коричневом",
    ),
    "zh": Phrases(
        ("{a}在{b}左边", "{b}的左边是{a}", "左边是{a}，右边是{b}"),
        ("{a}在{b}右边", "{b}的右边是{a}", "右边是{a}，左边是{b}"),
        ("{a}在{b}上面", "{b}的上面是{a}", "上面是{a}，下面是{b}"),
        ("{a}在{b}下面", "{b}的下面是{a}", "下面是{a}，上面是{b}"),
        "大的{x}", "小的{x}", ("{a}", "一张{a}的图片", "画着{a}"), "{one}，{two}",
        "{scene}，{colour}背景", "白色 灰色 粉色 红色 橙色 黄色 绿色 蓝色 紫色 棕色",
    ),
    "ja": Phrases(
        ("{b}の左に{a}", "左に{a}、右に{b}"), ("{b}の右に{a}", "右に{a}、左に{b}"),
        ("{b}の上に{a}", "上に{a}、下に{b}"), ("{b}の下に{a}", "下に{a}、上に{b}"),
        "大きな{x}", "小さな{x}", ("{a}", "{a}の絵"), "{one}、{two}",
        "{scene}、背景は{colour}", "白 灰色 ピンク 赤 オレンジ 黄色 緑 青 紫 茶色",
    ),
    "ko": Phrases(
        ("{b} 왼쪽에 {a}", "왼쪽에 {a}, 오른쪽에 {b}"), ("{b} 오른쪽에 {a}", "오른쪽에 {a}, 왼쪽에 {b}"),
        ("{b} 위에 {a}", "위에 {a}, 아래에 {b}"), ("{b} 아래에 {a}", "아래에 {a}, 위에 {b}"),
        "큰 {x}", "작은 {x}", ("{a}", "{a} 그림"), "{one}, {two}",
        "{scene}, {colour} 배경", "흰색 회색 분홍색 빨간색 주황색 노란색 초록색 파란색 보라색 갈색",
    ),
    "fa": Phrases(
        ("{a} سمت چپ {b}",), ("{a} سمت راست {b}",), ("{a} بالای {b}",), ("{a} زیر {b}",),
        "{x} بزرگ", "{x} کوچک", ("{a}", "تصویر {a}"), "{one}، {two}",
        "{scene} روی زمینهٔ {colour}", "سفید خاکستری صورتی قرمز نارنجی زرد سبز آبی بنفش قهوه‌ای",
    ),
    "ar": Phrases(
        ("{a} على يسار {b}",), ("{a} على يمين {b}",), ("{a} فوق {b}",), ("{a} تحت {b}",),
        "{x} بحجم كبير", "{x} بحجم صغير", ("{a}", "صورة {a}"), "{one}، {two}",
        "{scene} على خلفية {colour}", "بيضاء رمادية وردية حمراء برتقالية صفراء خضراء زرقاء بنفسجية بنية",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What a caption tells: the emoji, their size words ("large", "small" or ""), how each stands to the one before
    (the first has ""), and the colour of the background ("" when it is not told).
    """

    emoji: tuple[str, ...]
    sizes: tuple[str, ...]
    relations: tuple[str, ...]
    colour: str


OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


Said = tuple[tuple[str, int | None], ...]
"""A text in its parts, each with the number of the emoji that it names, or None."""


def caption(scene: Scene, language: str, rng: Random) -> str:
    """One way to say what is in the scene: every emoji, its size if it stands out, relations, often the colour.

    Without colour and relations the emoji are listed, in any order.
    """
    return text_of(say(scene, language, rng))


def text_of(said: Said) -> str:
    """The whole text."""
    return "".join([text for text, _ in said])


def phrases_of(said: Said) -> list[tuple[tuple[int, int], int]]:
    """(characters, emoji) of each part that names one, in order: counted while the text is put together."""
    found, end = [], 0
    for text, emoji in said:
        start, end = end, end + len(text)
        if emoji is not None:
            found.append(((start, end), emoji))
    return found


def say(scene: Scene, language: str, rng: Random) -> Said:
    """``caption`` in its parts."""
    phrases, things = PHRASES[language], list(_things(scene.emoji, scene.sizes, language))
    if not scene.colour and not any(scene.relations):
        rng.shuffle(things)
        return listed(things, phrases.joined)
    if len(things) == 1:
        text = filled(rng.choice(phrases.single), a=things[0])
    else:
        text = _relate(phrases, scene.relations[1], things[1], things[0], rng)
    for i in range(2, len(things)):
        again = emoji_name(scene.emoji[i - 1], language)  # told before, so without its size
        again = f"the {again}" if language == "en" else again
        more = _relate(phrases, scene.relations[i], things[i], ((again, i - 1),), rng)
        text = filled(phrases.joined, one=text, two=more)
    if len(things) > 1 and rng.random() < 0.4:
        return text
    colour = phrases.colours.split()[COLOUR_ORDER.index(scene.colour)]
    if language == "en":
        colour = with_article(colour, colour)
    return filled(phrases.ground, scene=text, colour=((colour, None),))


@lru_cache(maxsize=1024)
def _things(emoji: tuple[str, ...], sizes: tuple[str, ...], language: str) -> tuple[Said, ...]:
    numbered = enumerate(zip(emoji, sizes, strict=True))
    return tuple(((named(one, size, language), number),) for number, (one, size) in numbered)


def listed(things: Sequence[Said], joined: str) -> Said:
    """All of these, one behind the other. joined: how two stand beside one another, "{one}, {two}"."""
    (_, _), (between, _) = _parts(joined)
    out = list(things[0])
    for thing in things[1:]:
        out += [(between, None), *thing]
    return tuple(out)


def filled(template: str, **values: Said) -> Said:
    """A template with its fields filled, in parts."""
    out: list[tuple[str, int | None]] = []
    for text, field in _parts(template):
        out += [(text, None)] if text else []
        out += values[field] if field else ()
    return tuple(out)


@cache
def _parts(template: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((text, field) for text, field, _, _ in Formatter().parse(template))


@cache
def named(emoji: str, size: str, language: str) -> str:
    """The emoji with its size word, in English with an article."""
    name = emoji_name(emoji, language)
    phrases = PHRASES[language]
    words = (phrases.large if size == "large" else phrases.small).format(x=name) if size else name
    return with_article(words, name) if language == "en" else words


def with_article(words: str, name: str) -> str:
    """English words with "a" or "an" before them, unless their name is a mass, a plural or a proper name."""
    if name in _MASS or is_plural(name) or (name[0].isupper() and words == name):
        return words
    vowel = words[0] in "aeiou" and not words.startswith(("uni", "eu", "ewe", "one"))
    return f"{'an' if vowel else 'a'} {words}"


def is_plural(name: str) -> bool:
    """Whether an English name is a plural: "grapes"."""
    last = name.split(" with ")[0].split(" of ")[0].split()[-1]
    unlike = _SINGULAR | _MASS
    return last.endswith("s") and not last.endswith("ss") and not {name, last} & unlike and not name[0].isupper()


def with_the(name: str) -> str:
    """An English name with "the", unless it is a proper name."""
    return name if name[0].isupper() and not name.startswith(("Statue", "Tokyo")) else f"the {name}"


def _relate(phrases: Phrases, relation: str, a: Said, b: Said, rng: Random) -> Said:
    # The same place can be told from either side.
    if rng.random() < 0.5:
        relation, a, b = OPPOSITE[relation], b, a
    return filled(rng.choice(getattr(phrases, relation)), a=a, b=b)
