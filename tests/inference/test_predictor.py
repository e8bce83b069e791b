from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.inference.predictor import Predictor, TokenBank
from mmkit.types import ModelSpec
from tests.evals.parts import Pictures, caption, predictor


@pytest.fixture(scope="module")
def model() -> Predictor:
    return predictor()


def pictures(n=7):
    return [Pictures(n)[i].image for i in range(n)]


def test_every_form_of_a_picture_gives_the_same_embedding(model, tmp_path):
    image = Image.radial_gradient("L").convert("RGB").resize((40, 30))
    image.save(tmp_path / "a.png")
    array = torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1)
    record = Record(image=tmp_path / "a.png", captions=(), image_id="a", key="a")
    forms = [
        image,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        record,
        array,
        array / 255,
    ]
    out = model.encode_image(forms)
    assert out.dtype == torch.float32
    assert out.shape == (7, 16)
    torch.testing.assert_close(out, out[:1].expand_as(out), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(model.encode_image(torch.stack([array, array])), out[:2], atol=1e-6, rtol=0)


@pytest.mark.gpu
def test_a_gpu_gives_the_numbers_of_the_cpu(model):
    images, texts = pictures(7), [caption(i) for i in range(7)]
    there = predictor().to("cuda")
    assert there.device.type == "cuda"
    for of in (
        lambda p: p.encode_image(images, 3), lambda p: p.encode_text(texts, 4), lambda p: p.match(images, texts),
    ):  # fmt: skip
        assert of(there).device.type == "cpu"
        torch.testing.assert_close(of(there), of(model), atol=1e-5, rtol=0)
    low = Predictor(there.model, there.heads, there.tokenizer, there.transform, 12, precision="bf16")
    assert not torch.equal(low.encode_image(images), there.encode_image(images))
    torch.testing.assert_close(low.encode_image(images), model.encode_image(images), atol=0.05, rtol=0)


def test_batches_and_padding_change_nothing(model):
    images, texts = pictures(), ["red", caption(3), "a red square and a very long brown box"]
    torch.testing.assert_close(model.encode_image(images, 3), model.encode_image(images, 64), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode_text(texts, 1), model.encode_text(texts), atol=1e-6, rtol=0)
    many = [(i, t) for i in images for t in texts]
    alone = torch.cat([model.match([i], [t]) for i, t in many])
    torch.testing.assert_close(model.match(*zip(*many, strict=True), batch_size=4), alone, atol=1e-5, rtol=0)
    assert ((alone > 0) & (alone < 1)).all()
    assert alone.std() > 1e-4
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, 16)
    assert model.match([], []).shape == (0,)


@pytest.mark.parametrize("pair_batch", [1, 3, 5, 100])
def test_pairs_from_cached_tokens_equal_pairs_one_by_one(model, pair_batch):
    images, texts = pictures(5), [caption(i) for i in range(6)]
    g = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randint(0, 5, (23,), generator=g), torch.randint(0, 6, (23,), generator=g)], 1)
    (tokens,) = model.image_tokens(images)
    bank = TokenBank(model.text_tokens(texts, 4), device_bytes=100)
    found = model.match_pairs(tokens, bank, pairs, pair_batch=pair_batch).sigmoid()
    wanted = torch.cat([model.match([images[i]], [texts[t]]) for i, t in pairs.tolist()])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_match_is_the_probability_of_the_second_class(model):
    images, texts = pictures(3), [caption(i) for i in range(3)]
    (image,), (text,) = model.image_tokens(images), model.text_tokens(texts)
    with torch.no_grad():
        cls = model.model.fuse(text, [model.model.image_context(image)]).first
        logits = model.heads["itm"].match_logits(cls)
    torch.testing.assert_close(model.match(images, texts), logits.softmax(1)[:, 1], atol=1e-6, rtol=0)
    bank, pairs = TokenBank([text]), torch.arange(3)[:, None].expand(-1, 2)
    raw = model.match_pairs(image, bank, pairs, score="match_logit")
    torch.testing.assert_close(raw, logits[:, 1], atol=1e-5, rtol=0)


def test_training_flags_and_gradients_are_left_as_they_were():
    own = predictor()
    own.model.train()
    own.model.image.eval()
    before = {name: part.training for name, part in own.model.named_modules()}
    for _ in own.image_tokens(pictures(3), 1):
        assert torch.is_grad_enabled()
        assert {name: part.training for name, part in own.model.named_modules()} == before
    own.match(pictures(1), ["red"])
    assert {name: part.training for name, part in own.model.named_modules()} == before


def test_bf16_is_near_and_returns_float32(model):
    low = Predictor(model.model, model.heads, model.tokenizer, model.transform, 12, precision="bf16")
    out = low.encode_image(pictures())
    assert out.dtype == torch.float32
    assert not torch.equal(out, model.encode_image(pictures()))
    torch.testing.assert_close(out, model.encode_image(pictures()), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["nowhere.png"], "nowhere.png: no such picture"),
        ([pictures(1)[0], b"x"], "picture 1: not a picture"),
        ([torch.zeros(30, 30, 3)], r"picture 0: .*\(3, height, width\)"),
        ([torch.randn(3, 8, 8)], "picture 0: a float picture has values from 0 to 1.*Do not normalise"),
        ([torch.zeros(3, 8, 8, dtype=torch.int64)], "uint8"),
        ([torch.zeros(3, 0, 8)], r"picture 0: .*\(3, height, width\)"),
        ([Image.new("RGB", (0, 8))], "picture 0: 0 x 8 pixels"),
        (Image.new("RGB", (8, 8)), r"not one \(.*Image\); write \[image\]"),
        (Path("a.png"), r"write \[image\]"),
        ("a.png", r"write \[image\]"),
        (torch.zeros(3, 8, 8), r"write \[image\]"),
        (torch.zeros(8, 8), r"\(n, 3, height, width\)"),
        (None, "images must be a list of pictures"),
        ([None], "picture 0: something of type NoneType is not a picture"),
    ],
)
def test_bad_pictures_are_named(model, images, message):
    with pytest.raises(UserError, match=message):
        model.encode_image(images)


def test_bad_texts_and_missing_parts_are_named(model):
    with pytest.raises(UserError, match=r"write \[text\]"):
        model.encode_text("a dog")
    with pytest.raises(UserError, match="texts must be a list of strings"):
        model.encode_text(None)
    with pytest.raises(UserError, match="1 images do not go with 2 texts"):
        model.match(pictures(1), ["a", "b"])
    with pytest.raises(UserError, match=r"cannot match.*heads are: itc"):
        predictor(heads=("itc",)).match(pictures(1), ["a"])


def test_generators_are_lists(model):
    images, texts = pictures(3), [caption(i) for i in range(3)]
    assert torch.equal(model.encode_image(image for image in images), model.encode_image(images))
    assert torch.equal(model.encode_text(text for text in texts), model.encode_text(texts))
    assert torch.equal(model.match(iter(images), iter(texts)), model.match(images, texts))


@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_nothing_are_refused(model, size):
    for call in (
        lambda: model.encode_image(pictures(1), batch_size=size), lambda: model.encode_text(["a"], batch_size=size),
        lambda: model.match(pictures(1), ["a"], batch_size=size),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"batch_size={size}: must be at least 1"):
            call()


def test_texts_that_are_cut_are_counted_and_said_once(caplog):
    own, long = predictor(), "a red square " * 9
    own.encode_text(["a red square", "a box"])
    assert not caplog.messages
    own.encode_text([long, "a red square", long], batch_size=1)
    (said,) = caplog.messages
    assert said == "2 of 3 texts are longer than this model reads and were cut to 12 tokens; the longest has 46"
    own.encode_text([long])
    assert len(caplog.messages) == 1
    own = predictor()
    with own.encoder.counting():
        own.encode_text([long])
        own.match(pictures(2), [long, "red"], batch_size=1)
    assert "1 of 2 texts" in caplog.messages[1]  # one that is read twice counts once


def test_a_dual_encoder_cannot_match(model):
    own = predictor()
    spec = own.model.spec
    own.model.spec = ModelSpec(**{**vars(spec), "fuses": False})
    with pytest.raises(UserError, match="two towers"):
        own.match(pictures(1), ["a"])
