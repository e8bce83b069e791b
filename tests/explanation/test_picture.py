"""The figure: sizes, what is drawn where, and long or foreign texts."""

import pytest
import torch
from PIL import Image, ImageFont

from mmkit.data.images.centre_crop import CentreCrop
from mmkit.errors import UserError
from mmkit.explanation.explain import explain
from mmkit.explanation.explained import Explanation
from mmkit.explanation.maps import Evidence, HeatMap, Word, seen_box
from mmkit.explanation.picture import STOPS, Style, coloured, overlay, wrapped
from tests.evals.parts import predictor
from tests.explanation.test_gradcam import noise

HOT = torch.zeros(4, 6)
HOT[1, 4] = 2.0


def explanation(words: int, text: str = "a text") -> Explanation:
    heat = HeatMap(HOT, (40, 60))
    made = tuple(Word(f"word{i}" * (1 + i % 3), (i,), heat, 1 / words) for i in range(words))
    return Explanation(
        picture=Image.new("RGB", (60, 40), "white"), text=text, target="match", score=0.5, layer=0, head=None,
        sentence=heat, words=made,
    )  # fmt: skip


def test_heat_lies_where_the_evidence_is():
    heat = HeatMap(HOT, (40, 60))
    assert 40 <= heat.peak[0] < 50
    assert 10 <= heat.peak[1] < 20
    picture = overlay(Image.new("RGB", (60, 40), (255, 255, 255)), heat)
    assert picture.size == (60, 40)
    red, green, blue = picture.getpixel(heat.peak)
    assert red > green + 60
    assert red > blue + 30
    assert min(picture.getpixel((5, 35))) > 240  # nothing there: the picture shows
    pale = overlay(Image.new("RGB", (60, 40), (255, 255, 255)), heat, strength=0.1).getpixel(heat.peak)
    assert pale[1] > green + 60


def test_no_evidence_is_no_heat():
    heat = HeatMap(torch.zeros(2, 2), (8, 8))
    assert not heat.pixels.any()
    assert not heat.grid.any()
    assert overlay(Image.new("RGB", (8, 8), "white"), heat).getextrema() == ((255, 255),) * 3


def test_colours():
    assert coloured(torch.tensor([[0.0, 0.25, 1.0, 7.0]]))[0].tolist() == [
        list(STOPS[0]), list(STOPS[1]), list(STOPS[4]), list(STOPS[4])
    ]  # fmt: skip


@pytest.mark.parametrize("words", [0, 1, 3, 5, 30])
def test_every_figure_fits(words):
    made = explanation(words, "many words " * 20).figure(Style(large=220, max_words=24))
    assert made.mode == "RGB"
    assert made.width == 2 * 220 + 16 + 48
    edge = made.crop((made.width - 8, 0, made.width, made.height))
    assert edge.getextrema() == ((255, 255),) * 3  # nothing runs out of the frame
    assert made.height > 200


def test_texts_are_wrapped():
    font = ImageFont.load_default(20)
    lines = wrapped("one two three four five six seven", font, 120, most=9)
    assert " ".join(lines) == "one two three four five six seven"
    assert len(lines) > 2
    assert all(font.getlength(line) <= 120 for line in lines)
    assert len(wrapped("x" * 200, font, 120, most=3)) == 3
    assert len(wrapped("猫头鹰拳击手套" * 9, font, 120, most=99)) > 3


def test_files(tmp_path):
    made = explanation(2)
    made.save(tmp_path / "new" / "a.png")
    assert Image.open(tmp_path / "new" / "a.png").format == "PNG"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"b\.png: cannot be written"):
        made.save(tmp_path / "file" / "b.png")
    for name in ("a.jpg", "a", "png"):
        with pytest.raises(UserError, match=f"{name}: the name must end in .png"):
            made.save(tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(UserError, match=r"none\.ttf: cannot be read"):
        made.save(tmp_path / "c.png", Style(font=tmp_path / "none.ttf"))


def test_what_a_crop_leaves_out_has_no_heat():
    model = predictor()
    model.transform = CentreCrop(size=32)
    found = explain(model, noise(1, (64, 32)), "red")
    assert seen_box(model.transform, found.picture) == (16, 0, 48, 32) == found.sentence.seen
    heat = found.sentence.pixels
    assert heat.shape == (32, 64)
    assert not heat[:, :16].any()
    assert not heat[:, 48:].any()
    square = explain(model, noise(1, (64, 32)).crop((16, 0, 48, 32)), "red").sentence
    assert torch.allclose(heat[:, 16:48], square.pixels, atol=1e-5)
    assert square.pixels.max() > 0.9
    assert found.overlay(size=50).size == (50, 25)
    assert seen_box(model.transform, noise(1, (96, 48))) == (24, 0, 72, 48)


def test_a_phrase_is_the_mean_over_its_tokens():
    maps = [HeatMap(torch.tensor([[value]]), (4, 4)) for value in (1.0, 4.0)]
    words = Word("red", (1,), maps[0], 0.5), Word("canoe", (2, 3), maps[1], 0.5)
    evidence = Evidence(
        picture=Image.new("RGB", (4, 4)), text="red canoe", target="match", score=1.0, layer=0, head=None,
        sentence=maps[0], words=words,
    )  # fmt: skip
    assert evidence.phrase("Red canoe").raw.item() == 3.0
