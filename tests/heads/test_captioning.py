"""The heads that write captions: what they learn from, equality with transformers' BLIP and GIT, what they start as."""

from dataclasses import replace
from random import Random

import pytest
import torch
from PIL import Image
from transformers import GitConfig, GitForCausalLM
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from mmkit.data.loader import PairDataset
from mmkit.data.records import Record
from mmkit.data.targets import CaptionTokens, Given, RawTargets
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.captioning import Captioner, PrefixCaptioner
from mmkit.train.checks import check_classes
from mmkit.types import ModelSpec, Tokens
from tests.examples import batch, task

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


def f_with(ids_BL, labels_BL, image):
    """Features whose picture is given, and whose caption labels are those that are not -100."""
    at = (labels_BL.flatten() != -100).nonzero()[:, 0]
    targets = {"caption_ids": ids_BL, "caption_index": at, "caption_labels": labels_BL.flatten()[at]}
    f = Features(None, replace(batch(len(ids_BL)), targets=targets))
    f.image = image
    return f


def shifted(ids_BL, prompt):
    """The label of each position: the next token; none of the prompt, none at the end."""
    labels = torch.cat([ids_BL[:, 1:], torch.full_like(ids_BL[:, :1], -100)], 1)
    labels[:, : prompt - 1] = -100
    return labels


def test_it_equals_blips_decoder():
    torch.manual_seed(0)
    config = BlipTextConfig(
        vocab_size=40, hidden_size=16, encoder_hidden_size=12, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        label_smoothing=0.1, bos_token_id=1, eos_token_id=3, pad_token_id=0, sep_token_id=3, is_decoder=True,
        tie_word_embeddings=True,
    )  # fmt: skip
    theirs = BlipTextLMHeadModel(config).eval()
    head = Captioner(SPEC, types=1, **SIZES).eval()
    copy_bert(theirs.bert.encoder.layer, head.decoder.blocks, cross=True)
    own, bert = head.decoder.embeddings, theirs.bert.embeddings
    with torch.no_grad():
        bert.word_embeddings.weight.normal_()
        bert.position_embeddings.weight.normal_()
        own.words.weight.copy_(bert.word_embeddings.weight)
        own.positions.weight.copy_(bert.position_embeddings.weight)
        own.types.weight.zero_()
        transform = theirs.cls.predictions.transform
        head.vocabulary.dense.load_state_dict(transform.dense.state_dict())
        head.vocabulary.norm.load_state_dict(transform.LayerNorm.state_dict())
        head.vocabulary.bias.copy_(theirs.cls.predictions.bias.normal_())
    image, ids = torch.randn(3, 5, 12), torch.randint(4, 40, (3, 9))
    labels = ids.where(torch.arange(9) >= 3, -100)
    expected = theirs(ids, encoder_hidden_states=image, labels=labels, return_dict=True)
    context = head.decoder.context(Tokens(image))
    logits = head.vocabulary.logits(head.decoder(ids, context), head.decoder.word_embeddings)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    out = head(f_with(ids, shifted(ids, prompt=3), Tokens(image)))
    torch.testing.assert_close(out.loss, expected.loss.squeeze(), rtol=1e-5, atol=1e-6)
    assert out.count == 3 * 6


def copy_bert(layers, blocks, cross):
    """The weights of BERT's layers as transformers names them."""
    with torch.no_grad():
        for layer, block in zip(layers, blocks, strict=True):
            own = layer.attention.self
            parts = [own.query, own.key, own.value]
            for p in layer.parameters():
                p.normal_(std=0.3)
            block.attn.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
            block.attn.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
            pairs = [(block.attn.proj, layer.attention.output.dense), (block.norm1, layer.attention.output.LayerNorm)]
            if cross:
                other = layer.crossattention.self
                block.cross.q.load_state_dict(other.query.state_dict())
                block.cross.kv.weight.copy_(torch.cat([other.key.weight, other.value.weight]))
                block.cross.kv.bias.copy_(torch.cat([other.key.bias, other.value.bias]))
                pairs += [
                    (block.cross.proj, layer.crossattention.output.dense),
                    (block.norm_cross, layer.crossattention.output.LayerNorm),
                ]
            pairs += [
                (block.mlp.fc1, layer.intermediate.dense), (block.mlp.fc2, layer.output.dense),
                (block.norm2, layer.output.LayerNorm),
            ]  # fmt: skip
            for mine, theirs in pairs:
                mine.load_state_dict(theirs.state_dict())


def test_the_prefix_form_equals_git():
    torch.manual_seed(1)
    vision = {
        "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    config = GitConfig(
        vision_config=vision, vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1,
        intermediate_size=32, max_position_embeddings=16, hidden_dropout_prob=0.0, eos_token_id=3, pad_token_id=0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = GitForCausalLM(config).eval()
    head = PrefixCaptioner(SPEC, types=1, **SIZES).eval()
    copy_bert(theirs.git.encoder.layer, head.decoder.blocks, cross=False)
    project = theirs.git.visual_projection.visual_projection
    own, git = head.decoder.embeddings, theirs.git.embeddings
    with torch.no_grad():
        head.decoder.source.load_state_dict(project[0].state_dict())
        head.decoder.source_norm.load_state_dict(project[1].state_dict())
        own.words.weight.copy_(git.word_embeddings.weight.normal_())
        own.positions.weight.copy_(git.position_embeddings.weight.normal_())
        own.types.weight.zero_()
    pixels, ids = torch.randn(2, 3, 8, 8), torch.randint(4, 40, (2, 7))
    with torch.no_grad():
        seen = theirs.git.image_encoder(pixels).last_hidden_state
        expected = theirs.git(ids, pixel_values=pixels).last_hidden_state[:, seen.shape[1] :]
    states = head.decoder(ids, head.decoder.context(Tokens(seen)))
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)


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
