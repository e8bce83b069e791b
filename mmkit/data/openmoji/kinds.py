"""Which emoji the built-in data use, and what they are called.

Unicode sorts emoji into groups; from each a number of kinds is taken that are clear when small and not near-doubles of
one another (one dog, not five). ``KINDS`` alternates between the groups, so that its first n are as varied as all.
People are a grid of profession x woman or man x skin tone. One cell in four is kept out of training: each of its parts
occurs there, the whole never. Names are Unicode's own (CLDR), from the package ``emoji``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Literal, get_args

from mmkit.errors import UserError

Pool = Literal["all", "boxed", "unboxed"]
"""Which kinds: all, those with boxes in training for detection, or those without."""

GROUPS = {
    "animals": "🐕 🐈 🐎 🐄 🐖 🐑 🐐 🐪 🐘 🦏 🦛 🐁 🐇 🐿️ 🦔 🦇 🐻 🐨 🐼 🦥 🦘 🦃 🐓 🐧 🕊️ 🦅 🦆 🦢 🦉 🦩 🦚 🦜 🐸"
    " 🐊 🐢 🦎 🐍 🐉 🦕 🐋 🐬 🦭 🐟 🦈 🐙 🐚 🦀 🦞 🦐 🦑 🐌 🦋 🐛 🐜 🐝 🐞 🕷️ 🦂 🦊 🦁 🐒 🦍 🦓 🦌 🦒 🦨 🦦",
    "food": "🍇 🍉 🍊 🍋 🍌 🍍 🍎 🍐 🍒 🍓 🥝 🍅 🥥 🥑 🍆 🥕 🌽 🌶️ 🥦 🧅 🥜 🍞 🥐 🥨 🥞 🧀 🍖 🍔 🍟 🍕 🌭 🌮 🥚"
    " 🍳 🍿 🍙 🍝 🍣 🍦 🍩 🍪 🎂 🍫 🍭 🍯 🍼 ☕ 🍷 🍺",
    "nature": "💐 🌹 🌻 🌷 🌱 🌲 🌴 🌵 🍀 🍁 🍄 🌙 ☀️ ⭐ ☁️ 🌈 ⚡ ❄️ ☃️ 🔥 💧 🌊 🪐 🌋",
    "travel": "🚂 🚌 🚑 🚒 🚓 🚕 🚗 🚚 🚜 🏍️ 🛵 🚲 🛹 ⚓ ⛵ 🛶 🚢 ✈️ 🚁 🚀 🛸 🏠 🏰 ⛪ 🗼 🗽 ⛲ ⛺ 🎡 🚦 🌉",
    "objects": "⌚ 📱 💻 🖨️ 💡 🔦 📷 📺 📻 ☎️ 🔋 📖 ✉️ 📦 ✏️ 🖍️ ✂️ 🔒 🔑 🔨 🪓 🔧 🧲 🔬 🔭 💉 🚪 🪑 🛏️ 🚽 🛁 🧹 🧺 🪣"
    " 🧯 🛒 🕯️ 🧭 ⏰ ⌛ 🌂 🎈 🎁 💎 👑 🎩 👓 👕 👖 👗 🧦 👠 👞 🎒 💍 🔔 🎸 🎺 🎻 🥁 🎹 🎤",
    "activities": "⚽ 🏀 🏈 🎾 🎳 🏓 🥊 🎯 🪁 🎮 🎲 🧩 🧸 🏆 🏅 🎨 🧵 🎣 🛷 🎭",
    "faces": "😀 😂 😍 😎 😭 😡 😱 😴 🤢 🤠 🤡 👻 👽 🤖 💀 🎃 🎅 ❤️ 👀 👍 👣",
}

PROFESSIONS = ("⚕️", "🎓", "🏫", "🌾", "🍳", "🔧", "🏭", "💼", "🔬", "💻", "🎤", "🎨", "✈️", "🚀", "🚒", "⚖️")
PERSONS = ("👩", "👨")
SKIN_TONES = ("🏻", "🏼", "🏽", "🏾", "🏿")
LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")


# Asked for the first while one of the others is shown: "yes" and "no" both have a point.
_DISPUTED = (
    "🐟 🦈", "🐻 🐼 🐨 🧸", "🐛 🐜 🐝 🐞 🕷️ 🦂 🦋", "🚗 🚕 🚓", "🚢 ⛵ 🛶", "🐒 🦍", "🐈 🦁", "🐚 🐌", "🦕 🐉", "🐉 🦕",
    "☎️ 📱", "🌹 💐", "🌷 💐", "🌻 💐", "❄️ ☃️", "☁️ 🌈", "🔥 🌋", "🥚 🍳", "🍞 🥐 🍔 🌭", "🍙 🍣", "🍣 🍙", "📦 🎁",
    "💎 💍", "👓 😎", "❤️ 😍", "😀 😂 😍 😎 🤠 🤡", "😭 😂", "🏍️ 🛵", "🛵 🏍️", "🚑 🚒", "⌚ ⏰", "🎩 ☃️ 🤠", "⚡ 🔋 🧲",
    "🏠 ⛪ 🏰", "🧺 🛒", "🌊 💧", "💧 😭 😂", "🔦 💡", "🍼 🍷", "☕ 🍺", "⭐ 🏅",
)  # fmt: skip
_VAGUE = frozenset("👀")
_ALSO = {asked: frozenset(shown) for asked, *shown in (row.split() for row in _DISPUTED)}


def is_absent(asked: str, shown: Sequence[str]) -> bool:
    """Whether it is beyond dispute that a picture of the emoji ``shown`` has no ``asked``: a shark may pass for a fish,
    and nearly everything has eyes.
    """
    return asked not in shown and asked not in _VAGUE and not (asked in _ALSO and _ALSO[asked] & set(shown))


def is_vague(asked: str) -> bool:
    """Whether one cannot well ask for it at all."""
    return asked in _VAGUE


def _alternate() -> tuple[str, ...]:
    # Each group is stretched over the whole list, so that any beginning of it has the groups in proportion.
    placed = [(i / len(g.split()), n, e) for n, g in enumerate(GROUPS.values()) for i, e in enumerate(g.split())]
    return tuple(emoji for _, _, emoji in sorted(placed))


KINDS = _alternate()
"""All plain kinds; ``kinds=200`` means the first 200."""


def people(*, held_out: bool) -> tuple[str, ...]:
    """Women and men of 16 professions in 5 skin tones: the 120 of training, or the 40 that it never shows."""
    cells = product(enumerate(PROFESSIONS), enumerate(PERSONS), enumerate(SKIN_TONES))
    return tuple(
        f"{person}{tone}\u200d{profession}"
        for (p, profession), (g, person), (t, tone) in cells
        if ((p + 2 * g + t) % 4 == 0) == held_out
    )


def first_kinds(kinds: int) -> tuple[str, ...]:
    """The first so many plain kinds; UserError when there are fewer."""
    if not 1 <= kinds <= len(KINDS):
        raise UserError(f"openmoji: kinds={kinds}, but there are 1 to {len(KINDS)} kinds")
    return KINDS[:kinds]


def unboxed_kinds(kinds: int = 200) -> tuple[str, ...]:
    """Every fifth of the first so many kinds: those that captions name and no training for detection boxes."""
    return first_kinds(kinds)[4::5]


def pool_of(kinds: int, pool: Pool) -> tuple[str, ...]:
    """All of the first so many kinds, those that may be boxed, or the others; UserError where there are none."""
    if pool not in get_args(Pool):
        raise UserError(f"openmoji: pool={pool!r}; there are {', '.join(get_args(Pool))}")
    whole, unboxed = first_kinds(kinds), frozenset(unboxed_kinds(kinds))
    found = tuple(e for e in whole if pool == "all" or (e in unboxed) == (pool == "unboxed"))
    if not found:
        raise UserError(f"openmoji: kinds={kinds} are too few for pool={pool!r}; give at least 5")
    return found


def check_language(language: str) -> None:
    """UserError when the language has no names."""
    if language not in LANGUAGES:
        raise UserError(f"openmoji: no names in language {language!r}; there are {', '.join(LANGUAGES)}")


@cache
def emoji_name(emoji: str, language: str = "en") -> str:
    """The emoji's name in words: "woman firefighter dark skin tone", "消防车"."""
    check_language(language)
    try:
        import emoji as package
    except ImportError as error:
        raise missing("emoji") from error
    if language != "en":
        package.config.load_language(language)
    known = package.EMOJI_DATA[emoji]
    name: str = known[language]
    return name.strip(":").replace("_", " ")


def emoji_names(emoji: Sequence[str], language: str = "en") -> list[str]:
    """The names of several."""
    return [emoji_name(e, language) for e in emoji]


def missing(package: str) -> UserError:
    """The error for a package of the extra that is not installed."""
    return UserError(f'the openmoji data need the package {package}; install the extra: pip install "mmkit[demo]"')
