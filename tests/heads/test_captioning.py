"""The heads that write captions: what they learn from, what they start as."""

from random import Random

import pytest
import torch
from PIL import Image

from mmkit.data.loader import PairDataset
from mmkit.data.records import Record
from mmkit.data.targets import CaptionTokens, Given, RawTargets
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from mmkit.heads.captioning import Captioner
from mmkit.train.checks import check_classes
from mmkit.types import ModelSpec
from tests.examples import task

SPEC = ModelSpec(image_width=12, text_width=16, fused_width=16, embed_dim=8, vocab_size=40, fuses=True)
SIZES = {"depth": 2, "heads": 2, "mlp_width": 32, "max_tokens": 16, "dropout": 0.0}


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(["a dog on the left", "a red canoe on the right of a dog"] * 3, 64)


def test_a_caption_teaches_each_word_and_its_end_after_the_prompt(tokenizer):
    encoder = CaptionTokens(Given(tokenizer=tokenizer), prompt="a dog", max_tokens=20)
    captions = ("a red canoe", "on the right of a dog")
    out = encoder.collate([encoder.encode({"caption": caption}, Random(0)) for caption in captions])
    prompt = tokenizer.encode("a dog", None)
    words = [tokenizer.encode(caption, None)[1:] for caption in captions]
    for row, own in enumerate(words):
        assert out["caption_ids"][row, : len(prompt) + len(own)].tolist() == [*prompt, *own]
    assert out["caption_labels"].tolist() == [*words[0], tokenizer.sep_id, *words[1], tokenizer.sep_id]
    width = out["caption_ids"].shape[1]
    first = len(prompt) - 1  # the last word of the prompt predicts the first of the caption
    assert out["caption_index"].tolist() == [
        row * width + i for row in (0, 1) for i in range(first, first + len(words[row]) + 1)
    ]


def test_a_caption_that_is_cut_does_not_teach_an_end(tokenizer):
    encoder = CaptionTokens(Given(tokenizer=tokenizer), max_tokens=4)
    ids = encoder.encode({"caption": "a red canoe on the right of a dog"}, Random(0))["ids"]
    assert len(ids) == 4
    assert tokenizer.sep_id not in ids


def test_a_prompt_that_leaves_no_room_is_refused(tokenizer):
    with pytest.raises(UserError, match="no room"):
        CaptionTokens(Given(tokenizer=tokenizer), prompt="a red canoe on the right", max_tokens=5)


class One:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        picture = Image.new("RGB", (8, 8))
        return Record(image=picture, captions=("a dog on the left",), image_id="0", key="0", targets={"label": 3})


def mirrored(image, caption, rng):
    return torch.zeros(3, 8, 8), caption.replace("left", "right")


@pytest.mark.parametrize("reads", [True, False])
def test_the_targets_see_the_caption_as_the_view_turned_it_if_they_read_it(tokenizer, reads):
    seen = []

    class Sees(RawTargets):
        reads_caption = reads

        def encode(self, targets, rng):
            seen.append(dict(targets))
            return {}

    data = PairDataset(source=One(), transform=mirrored, tokenizer=tokenizer, max_tokens=8, targets=Sees())
    data[0, 0]
    read = {"caption": "a dog on the right", "caption_number": 0, "captions": ("a dog on the left",)}
    assert seen == [{"label": 3} | (read if reads else {})]


def test_head_and_targets_must_agree(tokenizer):
    head, given = Captioner(SPEC, prompt="a picture of", **SIZES), Given(tokenizer=tokenizer)
    check_classes({"caption": head}, CaptionTokens(given, prompt="a picture of", max_tokens=16))
    for wrong in (CaptionTokens(given, max_tokens=16), CaptionTokens(given, prompt="a picture of", max_tokens=20)):
        with pytest.raises(UserError, match=r"heads\.caption.*both the same"):
            check_classes({"caption": head}, wrong)
    with pytest.raises(UserError, match="CaptionTokens"):
        check_classes({"caption": head}, RawTargets())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(UserError, match="smoothing"):
        Captioner(SPEC, smoothing=smoothing, **SIZES)


def test_it_starts_as_the_fusion_layers():
    state = dict(task(["itc", "itm", "mlm"]).state_dict())
    spec = task(["itc"]).model.spec
    head = Captioner(spec, depth=2, heads=2, max_tokens=12)
    found = head.inherit(state)
    own = dict(head.named_parameters())
    missing = own.keys() - found.keys()
    assert not {name for name in missing if "blocks.0" in name or "words" in name or "vocabulary" in name}
    name = "decoder.blocks.0.cross.kv.weight"
    assert torch.equal(found[name], state["model.fusion.blocks.0.cross.kv.weight"])
    assert found["decoder.embeddings.positions.weight"].shape == own["decoder.embeddings.positions.weight"].shape
