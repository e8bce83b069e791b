"""The maps against other computations of the same, and what must not change them."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

import mmkit
import mmkit.nn.attention
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.images.variable_size import KeepShape
from mmkit.errors import UserError
from mmkit.explanation.explain import explain, explain_pairs
from mmkit.explanation.gradcam import ask, token_maps
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef
from tests.evals.parts import Pictures, predictor
from tests.sizes import albef_tiny, dual_tiny, siglip_tiny, vilt_tiny

TEXTS = ["a red square", "green", "a blue tile", "a purple box a pink square"]
three = partial(
    albef, image_size=32, max_tokens=16, patch=8, image_depth=2, image_width=32, image_heads=2, text_depth=1,
    fusion_depth=3, text_width=32, text_heads=2, embed_dim=16, dropout=0.0,
)  # fmt: skip
wide = partial(
    albef, image_size=(32, 48), max_tokens=16, patch=8, image_depth=1, image_width=32, image_heads=2, text_depth=1,
    fusion_depth=2, text_width=32, text_heads=2, embed_dim=16, dropout=0.0,
)  # fmt: skip


def noise(seed: int, size=(24, 24)) -> Image.Image:
    """A picture whose patches all differ."""
    pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return Image.fromarray(pixels.numpy()).resize((size[0], size[1]))


def maps_of(model, texts, pictures, of=None, **asked):
    pixels = [model.transform(picture) for picture in pictures]
    return token_maps(model, ask(model, **asked), pixels, of or list(range(len(texts))), texts)


def by_hand(model, text: str, picture: Image.Image, layer: int) -> tuple[torch.Tensor, float]:
    """The same without the class token of the picture."""
    found, score = attention_by_hand(model, text, model.transform(picture), layer)
    return found[:, :, 1:], score


def attention_by_hand(model, text: str, pixels: torch.Tensor, layer: int) -> tuple[torch.Tensor, float]:
    """Fusion layers written out for one pair, with the layer's attention as a variable: (H, L, P) and the logit."""
    ids = torch.tensor([model.tokenizer.encode(text, model.max_tokens)])
    with torch.no_grad():
        x = model.model.encode_text(ids, None).x[0]
        image = model.model.encode_image(pixels[None]).x[0]
    variable = None
    for number, block in enumerate(model.model.fusion.blocks):
        with torch.set_grad_enabled(number >= layer):
            x = block.norm1(x + block.attn(x[None])[0])
            heads, width = block.cross.heads, x.shape[1]
            q = (x @ block.cross.q.weight.T + block.cross.q.bias).view(-1, heads, width // heads)
            kv = image @ block.cross.kv.weight.T + block.cross.kv.bias
            k, v = (part.view(-1, heads, width // heads) for part in (kv[:, :width], kv[:, width:]))
            weights = (torch.einsum("lhd,phd->hlp", q, k) / (width // heads) ** 0.5).softmax(-1)
            if number == layer:
                variable = weights = weights.detach().requires_grad_()
            read = torch.einsum("hlp,phd->lhd", weights, v).flatten(1)
            x = block.norm_cross(x + block.cross.proj(read))
            x = block.norm2(x + block.mlp(x))
    logits = model.matcher().match_logits(x[:1])[0]
    (gradient,) = torch.autograd.grad(logits[1], variable)
    return (variable * gradient.clamp(min=0)).detach(), float(logits.softmax(0)[1].detach())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_equal_to_a_computation_by_hand(layer):
    model = predictor(3, model=three)
    for text, seed in zip(TEXTS, range(4), strict=True):
        wanted, score = by_hand(model, text, noise(seed), layer)
        for head in (None, 0, 1):
            found = maps_of(model, [text], [noise(seed)], target="itm", layer=layer, head=head)[0]
            cam = (wanted.mean(0) if head is None else wanted[head]).view(-1, 4, 4)
            assert torch.allclose(found.maps, cam, atol=1e-7, rtol=1e-4)
            assert found.score == pytest.approx(score, abs=1e-6)
        assert wanted[:, 0].sum() > 0  # [CLS] says something in every layer
        assert bool(wanted[:, 1:].sum() > 0) == (layer < 2)  # and words in all but the last


@pytest.mark.parametrize("target", ["itm", "itc"])
def test_one_pass_over_many_is_one_at_a_time(target):
    model = predictor(2, model=three)
    pictures = [noise(i) for i in range(3)]
    together = maps_of(model, TEXTS, pictures, of=[0, 1, 1, 2], target=target)
    for text, at, found in zip(TEXTS, [0, 1, 1, 2], together, strict=True):
        alone = maps_of(model, [text], [pictures[at]], target=target)[0]
        assert alone.maps.shape == found.maps.shape  # padding is no token
        assert torch.allclose(alone.maps, found.maps, atol=1e-8, rtol=1e-4)
        assert alone.score == pytest.approx(found.score, abs=1e-6)


def gradients_of_plain_run(model, run, monkeypatch):
    """All attention weights of a run of the model that nobody watches, with their gradients, by ``backward``."""
    kept, plain = [], mmkit.nn.attention.attention_weights

    def attend(q, k, v, mask, *, rate, causal):
        weights = plain(q, k, mask, causal)
        if weights.requires_grad:
            weights.retain_grad()
            kept.append(weights)
        return weights @ v

    monkeypatch.setattr(mmkit.nn.attention, "attend", attend)
    model.model.eval()
    run().sum().backward()
    monkeypatch.undo()
    return [(weights.detach(), weights.grad) for weights in kept]


@pytest.mark.parametrize("layer", [0, 1])
def test_one_stream(layer, monkeypatch):
    model = predictor(4, heads=("mixed",), model=vilt_tiny)
    ids = torch.tensor([model.tokenizer.encode(TEXTS[0], 12)])
    pixels = model.transform(noise(1))[None]
    inner = model.model

    def run():
        fused = inner.fuse(inner.encode_text(ids, None), [inner.image_context(inner.encode_image(pixels))])
        return model.matcher().match_logits(fused.first)[:, 1]

    weights, gradient = gradients_of_plain_run(model, run, monkeypatch)[layer]
    length = ids.shape[1]
    wanted = (weights * gradient.clamp(min=0)).mean(1)[0, :length, length + 1 :].view(length, 4, 4)
    found = maps_of(model, [TEXTS[0]], [noise(1)], target="itm", layer=layer)[0]
    assert torch.allclose(found.maps, wanted, atol=1e-8, rtol=1e-4)
    assert wanted.sum() > 0


@pytest.mark.parametrize("size", [albef_tiny, dual_tiny, siglip_tiny])
def test_similarity(size, monkeypatch):
    model = predictor(5, heads=(), model=size)
    ids = torch.tensor([model.tokenizer.encode(TEXTS[3], 12)])
    pixels = model.transform(noise(2))[None]
    inner, skipped = model.model, 0 if size is siglip_tiny else 1

    def run():
        with torch.no_grad():
            text = inner.embed_text(inner.encode_text(ids, None))
        return (inner.embed_image(inner.encode_image(pixels)) * text).sum(1)

    weights, gradient = gradients_of_plain_run(model, run, monkeypatch)[-1]
    wanted = (weights * gradient.clamp(min=0)).mean(1)[0, 0, skipped:].view(4, 4)
    found = explain(model, noise(2), TEXTS[3], target="itc")
    assert torch.allclose(found.sentence.raw, wanted, atol=1e-8, rtol=1e-4)
    assert wanted.sum() > 0
    assert found.words == ()
    assert found.target == "similarity"
    assert found.score == pytest.approx(float(run().detach()), abs=1e-6)


def test_pictures_that_are_not_square():
    model = predictor(1, model=wide)
    model.transform = EvalTransform(size=(32, 48))
    tall = noise(7, (30, 90))
    found = explain(model, tall, TEXTS[0], layer=0)
    assert found.sentence.raw.shape == found.words[0].map.grid.shape == (4, 6)
    assert found.sentence.pixels.shape == (90, 30) == found.words[1].map.pixels.shape
    wanted, _ = by_hand(model, TEXTS[0], tall, 0)
    assert torch.allclose(found.sentence.raw, wanted.mean(0).mean(0).view(4, 6), atol=1e-8, rtol=1e-4)


def test_pictures_of_unequal_shapes_share_a_pass():
    model = predictor(1, heads=("mixed",), model=vilt_tiny)
    model.transform = KeepShape(size=32, longest=64, multiple=8)
    pictures = [noise(1, (40, 20)), noise(2, (20, 40)), noise(3, (20, 20))]
    together = list(explain_pairs(model, pictures, TEXTS[:3], layer=0))
    for picture, text, found, shape in zip(pictures, TEXTS, together, [(4, 8), (8, 4), (4, 4)], strict=False):
        alone = explain(model, picture, text, layer=0)
        assert found.sentence.raw.shape == shape == alone.sentence.raw.shape
        assert torch.allclose(found.sentence.raw, alone.sentence.raw, atol=1e-8, rtol=1e-3)


def test_a_joint_transformer_reads_every_patch():
    model = predictor(1, heads=("mixed",), model=vilt_tiny)
    wanted = explain(model, noise(1), TEXTS[0]).sentence.raw
    model.model.image.max_patches = 5
    assert torch.equal(explain(model, noise(1), TEXTS[0]).sentence.raw, wanted)
    assert model.model.image.max_patches == 5


def test_hidden_words(monkeypatch):
    model = predictor(3, model=three)
    with pytest.raises(UserError, match='target="mlm" needs a head that guesses hidden words'):
        explain(model, noise(1), TEXTS[0], target="mlm")
    head = model.heads["mlm"] = MLM(model.model.spec)
    ids = model.tokenizer.encode(TEXTS[0], 12)
    found = explain(model, noise(1), TEXTS[0], target="mlm", layer=1)
    inner, pixels = model.model, model.transform(noise(1))[None]
    for word in found.words:
        masked = torch.tensor([[model.tokenizer.mask_id if i in word.tokens else token for i, token in enumerate(ids)]])

        def run(masked=masked, word=word):
            with torch.no_grad():
                image, text = inner.encode_image(pixels), inner.encode_text(masked, None)
            states = inner.fuse(text, [inner.image_context(image)]).text.x[0, list(word.tokens)]
            guesses = head.logits(states, inner.word_embeddings).log_softmax(-1)
            return guesses.gather(1, torch.tensor([[ids[i]] for i in word.tokens]))

        kept = gradients_of_plain_run(model, run, monkeypatch)
        (weights, gradient) = [pair for pair in kept if pair[0].shape[-1] == 17][1]
        wanted = (weights * gradient.clamp(min=0)).mean(1)[0, list(word.tokens), 1:].mean(0).view(4, 4)
        assert torch.allclose(word.map.raw, wanted, atol=1e-9, rtol=1e-3)
        assert wanted.sum() > 0
        assert word.probability == pytest.approx(float(run().detach().sum().exp()), rel=1e-3)
    assert (found.target, found.layer) == ("words", 1)
    assert found.score == pytest.approx(sum(word.probability for word in found.words) / len(found.words))
    assert explain(model, noise(1), TEXTS[0], target="mlm").layer == 2  # the last
    # many pairs, few rows in a pass
    several = list(
        explain_pairs(model, [noise(0), noise(1)], [TEXTS[3], TEXTS[0]], target="mlm", layer=1, batch_size=2)
    )
    for one, other in zip(several[1].words, found.words, strict=True):
        assert torch.allclose(one.map.raw, other.map.raw, atol=1e-9, rtol=1e-3)
        assert one.probability == pytest.approx(other.probability, rel=1e-3)
    assert several[1].figure().width > 400
    only = predictor(heads=(), model=vilt_tiny)
    only.heads = {"mlm": MLM(only.model.spec)}
    assert explain(only, noise(1), "red box").target == "words"


def test_any_function_of_the_fused_tokens():
    model = predictor(3, model=three)
    match = model.matcher().match_logits
    first = explain(model, noise(1), TEXTS[0], target=lambda fused: match(fused.first)[:, 1])
    assert torch.allclose(first.sentence.raw, explain(model, noise(1), TEXTS[0]).sentence.raw)
    assert first.target == "target"
    # a target that reads all tokens: the words have a say in the last layer too
    found = explain(model, noise(1), TEXTS[0], target=lambda fused: fused.text.x.mean((1, 2)), layer=-1)
    assert found.layer == 2
    assert sum(word.share for word in found.words) == pytest.approx(1)
    with pytest.raises(UserError, match=r"returned \(\) for 1 pairs"):
        explain(model, noise(1), TEXTS[0], target=lambda fused: fused.text.x.sum())


def test_leaves_the_model_as_it_was():
    model = predictor(3, model=three)
    model.model.train()
    before = explain(model, noise(1), TEXTS[0]).sentence.raw
    assert model.model.training
    assert all(p.grad is None for p in model.model.parameters())
    assert all(getattr(module, "watch", None) is None for module in model.model.modules())
    model.model.requires_grad_(False)  # a frozen model has maps too
    assert torch.allclose(explain(model, noise(1), TEXTS[0]).sentence.raw, before)
    assert explain(model, noise(1), TEXTS[0], target="itc").sentence.raw.sum() > 0


def test_words(caplog):
    model = predictor(3, model=three)
    found = explain(model, noise(1), "a red, square")
    assert [word.text for word in found.words] == ["a", "red", "square"]
    pieces = maps_of(model, ["a red, square"], [noise(1)])[0]
    assert torch.allclose(found.words[1].map.raw, pieces.maps[list(found.words[1].tokens)].mean(0))
    assert torch.allclose(found.sentence.raw, pieces.maps.mean(0))
    assert sum(word.share for word in found.words) == pytest.approx(1)
    joined = found.phrase("RED square")
    both = [*found.words[1].tokens, *found.words[2].tokens]
    assert torch.allclose(joined.raw, pieces.maps[both].mean(0))
    for heat in (found.sentence, joined, found.word("Square").map):
        assert heat.grid.max() == 1
        assert heat.grid.min() >= 0
        assert heat.pixels.dtype == torch.float32
        assert heat.pixels.min() >= 0
        assert heat.pixels.max() <= 1
        x, y = heat.peak
        assert heat.pixels[y, x] == heat.pixels.max()
    with pytest.raises(KeyError, match="no 'red box' in a row"):
        found.phrase("red box")
    assert not explain(model, noise(1), "a red square", words=False).words
    assert "maps are empty" not in caplog.text
    last = explain(model, noise(1), "a red square", layer=2)
    assert last.sentence.raw.sum() > 0
    assert not any(word.share for word in last.words)
    assert "Choose a lower layer" in caplog.text


def test_default_layers():
    model = predictor(3, model=three)
    assert explain(model, noise(1), "red").layer == 1
    assert explain(model, noise(1), "red", target="itc").layer == 1  # the last of two
    six = predictor(0, model=partial(three.func, **(three.keywords | {"fusion_depth": 6})))
    assert explain(six, noise(1), "red").layer == 2  # the third, as published


def test_problems_are_named(tmp_path):
    model, bare, dual = predictor(3, model=three), predictor(heads=("itc",)), predictor(heads=("itc",), model=dual_tiny)
    vilt = predictor(heads=("mixed",), model=vilt_tiny)
    fail = [
        (model, "red", {"layer": 3}, "layer=3: this model has 3 layers in which words read the picture, 0 to 2"),
        (model, "red", {"layer": -4}, "layer=-4"),
        (model, "red", {"head": 2}, "head=2: layer 1 has 2 heads, 0 to 1"),
        (model, "red", {"head": -1}, "head=-1"),
        (model, "red", {"target": "itc", "layer": 2}, "2 layers in the image tower"),
        (model, "red", {"target": "match"}, "target='match'"),
        (model, " ,;", {}, "there is no word in it"),
        (model, "", {}, "there is no word in it"),
        (model, "red", {"answer": "yes"}, "no head that answers"),
        (model, "red", {"answer": "yes", "target": "itm"}, "an answer is a target of its own"),
        (bare, "red", {"target": "itm"}, "cannot match"),
        (dual, "red", {"target": "itm"}, "cannot match"),
        (dual, "red", {"target": lambda fused: fused.text.x}, 'target="itc" explains the similarity'),
        (vilt, "red", {"target": "itc"}, "no joint space"),
    ]
    for which, text, asked, message in fail:
        with pytest.raises(UserError) as error:
            explain(which, noise(1), text, **asked)
        assert message in str(error.value)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png: not a picture"):
        explain(model, tmp_path / "a.png", "red")
    with pytest.raises(UserError, match=r"picture 0: .*int"):
        explain(model, 3, "red")
    with pytest.raises(UserError, match="2 images, 1 texts"):
        explain_pairs(model, [noise(1)] * 2, ["red"])


def test_a_text_that_does_not_fit(caplog):
    model = predictor(3, model=three)
    text = "a red square a blue tile a green box a purple tile"
    found = explain(model, noise(1), text)
    whole = text.split()
    assert 0 < len(found.unseen) < len(whole)
    assert whole[-len(found.unseen) :] == list(found.unseen)
    read = whole[: -len(found.unseen)]
    assert [word.text for word in found.words][: len(read)] == read
    assert len(found.words) <= len(read) + 1  # one may be read in part
    assert f"the last {len(found.unseen)} words have no part in the explanation: {found.unseen[0]}" in caplog.text
    assert found.figure().height == replace(found, unseen=()).figure().height + 20  # the figure says it
    caplog.clear()
    assert explain(model, noise(1), "a red square").unseen == ()
    assert not caplog.text
    list(explain_pairs(model, [noise(1)] * 3, [text, "red", text], words=False))
    assert caplog.text.count("longer than the 12 tokens") == 1
    assert "(and 1 more texts)" in caplog.text


def test_default_targets():
    assert explain(predictor(), noise(1), "red").target == "match"
    guessing = predictor()
    guessing.heads["mlm"] = MLM(guessing.model.spec)
    found = explain(guessing, noise(1), "a red box")  # words are found by what they were guessed from
    assert found.target == "words"
    assert torch.equal(found.sentence.raw, explain(guessing, noise(1), "a red box", target="mlm").sentence.raw)
    assert explain(guessing, noise(1), "a red box", target="itm").target == "match"
    del guessing.heads["itm"]
    assert explain(guessing, noise(1), "a red box").target == "words"
    assert explain(predictor(heads=("itc",), model=dual_tiny), noise(1), "red").target == "similarity"
    with pytest.raises(UserError, match=r"nothing of what could be explained here: mlm .* Its heads are: none"):
        explain(predictor(heads=(), model=vilt_tiny), noise(1), "red")


def test_pairs_in_batches_and_forms_of_pictures(tmp_path):
    model = predictor(1)
    source = Pictures(5)
    images = [source[i].image for i in range(5)]
    images[1].save(tmp_path / "1.png")
    images[3].save(tmp_path / "3.png")
    forms = [source[0], tmp_path / "1.png", images[2], (tmp_path / "3.png").read_bytes(), images[0]]
    texts = [*TEXTS, "red"]
    found = list(explain_pairs(model, forms, texts, batch_size=2))
    assert [e.text for e in found] == texts
    for image, text, e in zip([*images[:4], images[0]], texts, found, strict=True):
        assert torch.allclose(e.sentence.raw, mmkit.explain(model, image, text).sentence.raw, atol=1e-8, rtol=1e-4)
        assert e.picture.size == image.size == e.sentence.size[::-1]
