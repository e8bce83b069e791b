"""The heads that write captions against transformers' BLIP and GIT, at tiny random sizes: outputs, loss, gradients."""

from dataclasses import replace

import pytest
import torch
from transformers import GitConfig, GitForCausalLM
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from mmkit.features import Features
from mmkit.heads.captioning import Captioner, PrefixCaptioner
from mmkit.types import ModelSpec, Tokens
from tests.examples import batch
from tests.parity.measure import assert_near

OUTPUT, GRADIENT = 1e-5, 5e-5
SPEC = ModelSpec(image_width=12, text_width=16, fused_width=16, embed_dim=8, vocab_size=40, fuses=True)
SIZES = {"depth": 2, "heads": 2, "mlp_width": 32, "max_tokens": 16, "dropout": 0.0, "types": 1}
PARTS = ("weight", "bias")


def layer_of(theirs, prefix, cross):
    """Our names -> theirs of one of BERT's layers; works on weights and on gradients."""
    names = {
        "attn.proj": "attention.output.dense", "norm1": "attention.output.LayerNorm", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense", "norm2": "output.LayerNorm",
    }  # fmt: skip
    joined = {"attn.qkv": ("attention.self", ("query", "key", "value"))}
    if cross:
        names |= {
            "cross.q": "crossattention.self.query", "cross.proj": "crossattention.output.dense",
            "norm_cross": "crossattention.output.LayerNorm",
        }  # fmt: skip
        joined["cross.kv"] = ("crossattention.self", ("key", "value"))
    found = {f"{ours}.{part}": theirs[f"{prefix}.{other}.{part}"] for ours, other in names.items() for part in PARTS}
    for ours, (other, three) in joined.items():
        for part in PARTS:
            found[f"{ours}.{part}"] = torch.cat([theirs[f"{prefix}.{other}.{name}.{part}"] for name in three])
    return found


def decoder_of(theirs, root, cross):
    """Of embeddings and layers below ``root``."""
    found = {
        "decoder.embeddings.words.weight": theirs[f"{root}.embeddings.word_embeddings.weight"],
        "decoder.embeddings.positions.weight": theirs[f"{root}.embeddings.position_embeddings.weight"],
        **{f"decoder.embeddings.norm.{part}": theirs[f"{root}.embeddings.LayerNorm.{part}"] for part in PARTS},
    }
    for i in range(2):
        layer = layer_of(theirs, f"{root}.encoder.layer.{i}", cross)
        found |= {f"decoder.blocks.{i}.{name}": value for name, value in layer.items()}
    return found


def blip_of(theirs):
    transform = "cls.predictions.transform"
    return decoder_of(theirs, "bert", cross=True) | {
        **{f"vocabulary.dense.{part}": theirs[f"{transform}.dense.{part}"] for part in PARTS},
        **{f"vocabulary.norm.{part}": theirs[f"{transform}.LayerNorm.{part}"] for part in PARTS},
        "vocabulary.bias": theirs["cls.predictions.bias"],
    }


def git_of(theirs):
    project = "git.visual_projection.visual_projection"
    names = (("decoder.source", f"{project}.0"), ("decoder.source_norm", f"{project}.1"))
    return decoder_of(theirs, "git", cross=False) | {
        f"{ours}.{part}": theirs[f"{other}.{part}"] for ours, other in names for part in PARTS
    }


def begun(head, theirs, names_of):
    """The head with their weights, all of them drawn anew; returns which of its parameters they have."""
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
        found, own = (
            names_of({name: p.detach() for name, p in theirs.named_parameters()}),
            dict(head.named_parameters()),
        )
        own["decoder.embeddings.types.weight"].zero_()
        for name, value in found.items():
            own[name].copy_(value)
    return found.keys()


def compare(head, theirs, names_of, names):
    """Gradients; of what joins keys with others, the bias of keys, which softmax ignores, is left out."""
    wanted = names_of({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    assert wanted.keys() == names
    largest, own = max(g.abs().max().item() for g in wanted.values()), dict(head.named_parameters())
    for name, other in wanted.items():
        ours = own[name].grad
        if name.endswith(("attn.qkv.bias", "cross.kv.bias")):
            keeps = (0, 2) if "qkv" in name else (1,)
            ours, other = (torch.cat([g.chunk(max(keeps) + 1)[i] for i in keeps]) for g in (ours, other))
        cancels = largest if any(part in name for part in ("attn.qkv", "cross.q.", "cross.kv")) else 0.0
        assert_near(ours, other, GRADIENT, name, "gradients", cancels)


def f_with(ids_BL, prompt, image):
    """Features whose picture is given; nothing is learned of the prompt."""
    labels_BL = torch.cat([ids_BL[:, 1:], torch.full_like(ids_BL[:, :1], -100)], 1)
    labels_BL[:, : prompt - 1] = -100
    at = (labels_BL.flatten() != -100).nonzero()[:, 0]
    targets = {"caption_ids": ids_BL, "caption_index": at, "caption_labels": labels_BL.flatten()[at]}
    f = Features(None, replace(batch(len(ids_BL)), targets=targets))
    f.image = image
    return f


@pytest.mark.parity("captions by cross-attention", "transformers, BLIP")
def test_blips_decoder():
    torch.manual_seed(0)
    config = BlipTextConfig(
        vocab_size=40, hidden_size=16, encoder_hidden_size=12, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        label_smoothing=0.1, bos_token_id=1, eos_token_id=3, pad_token_id=0, sep_token_id=3, is_decoder=True,
        tie_word_embeddings=True,
    )  # fmt: skip
    theirs, head = BlipTextLMHeadModel(config), Captioner(SPEC, **SIZES)
    names = begun(head, theirs, blip_of)
    assert head.state_dict().keys() - names == {"decoder.embeddings.types.weight"}
    image, ids = torch.randn(3, 5, 12), torch.randint(4, 40, (3, 9))
    labels = ids.where(torch.arange(9) >= 3, -100)
    expected = theirs(ids, encoder_hidden_states=image, labels=labels, return_dict=True)
    states = head.decoder(ids, head.decoder.context(Tokens(image)))
    assert_near(head.vocabulary.logits(states, head.decoder.word_embeddings), expected.logits, OUTPUT, "logits")
    out = head(f_with(ids, 3, Tokens(image)))
    assert_near(out.loss, expected.loss.squeeze(), OUTPUT, "loss", "loss")
    assert out.count == 3 * 6
    out.loss.backward()
    expected.loss.backward()
    compare(head, theirs, blip_of, names)


@pytest.mark.parity("captions by a prefix", "transformers, GIT")
def test_the_prefix_form_is_git():
    """Up to the last states: GIT's output layer is not tied to the words, and has no transform."""
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
    theirs, head = GitForCausalLM(config), PrefixCaptioner(SPEC, **SIZES)
    names = begun(head, theirs, git_of)
    pixels, ids = torch.randn(2, 3, 8, 8), torch.randint(4, 40, (2, 7))
    with torch.no_grad():
        seen = theirs.git.image_encoder(pixels).last_hidden_state
    expected = theirs.git(ids, pixel_values=pixels).last_hidden_state[:, seen.shape[1] :]
    states = head.decoder(ids, head.decoder.context(Tokens(seen)))
    assert_near(states, expected, OUTPUT, "states")
    weigh = torch.randn(states.shape)
    (states * weigh).sum().backward()
    (expected * weigh).sum().backward()
    compare(head, theirs, git_of, names)
