"""Our Grounding DINO against transformers': fusion, masks, every layer's logits and boxes, loss, gradients."""

import pytest
import torch
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoFusionLayer,
    generate_masks_with_special_tokens_and_transfer_map,
)

from mmkit.data.texts.prompts import Prompter
from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.both_ways import BothWays
from projects.grounding.layers import Decoder, EnhancerLayer, Map, Selection, Words
from projects.grounding.losses import matches_of, sums
from tests.parity.measure import assert_near

OUTPUT, GRADIENT = 2e-5, 1e-4
NEAR = {"atol": 2e-5, "rtol": 1e-4}
WIDTH, QUERIES = 32, 5
DOT, CLS, SEP = 1012, 101, 102


LABELS = [
    {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.4]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.6, 0.2]])},
]
"""Of two pictures with the same prompt of three phrases."""


class Bert:
    """A tokenizer with BERT's special ids, in which a letter is a token."""

    pad_id, unk_id, cls_id, sep_id = 0, 100, CLS, SEP

    def encode(self, text, max_tokens, kind="caption"):
        return [CLS, *(DOT if letter == "." else 200 + ord(letter) for letter in text if letter != " "), SEP]


def config(**more):
    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
            out_features=["stage2", "stage3"], out_indices=[2, 3],
        ),
        text_config=BertConfig(
            vocab_size=1100, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=QUERIES, num_feature_levels=2, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, fusion_droppath=0.0, max_text_len=16,
        attn_implementation="eager", auxiliary_loss=True, two_stage=True, **more,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def large(module):
    for name, parameter in module.named_parameters():
        std = 0.1 if parameter.ndim > 1 else 0.2
        torch.nn.init.normal_(parameter, 0.5 if "norm" in name and "weight" in name else 0.0, std)
    return module.eval()


def linear(ours, theirs):
    ours.load_state_dict(theirs.state_dict())


def attention(ours, theirs, norm):
    for mine, other in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out_proj")):
        linear(getattr(ours, mine), getattr(theirs, other))
    linear(ours.norm, norm)


def feed(ours, theirs, norm):
    linear(ours.fc1, theirs.fc1), linear(ours.fc2, theirs.fc2), linear(ours.norm, norm)


def look(ours, theirs, norm):
    for mine, other in (
        ("offsets", "sampling_offsets"), ("weights", "attention_weights"), ("value", "value_proj"),
        ("out", "output_proj"),
    ):  # fmt: skip
        linear(getattr(ours.deformable, mine), getattr(theirs, other))
    linear(ours.norm, norm)


def fusion(ours, theirs):
    for mine, other in (
        ("q", "vision_proj"), ("k", "text_proj"), ("v_image", "values_vision_proj"), ("v_text", "values_text_proj"),
        ("out_image", "out_vision_proj"), ("out_text", "out_text_proj"),
    ):  # fmt: skip
        linear(getattr(ours, mine), getattr(theirs.attn, other))
    linear(ours.norm_image, theirs.layer_norm_vision), linear(ours.norm_text, theirs.layer_norm_text)
    ours.scale_image.data, ours.scale_text.data = theirs.vision_param.data, theirs.text_param.data


def perceptron(ours, theirs):
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        linear(mine, other)


def test_fusion_both_ways_with_masks_on_both_sides():
    theirs = large(GroundingDinoFusionLayer(config()))
    ours = BothWays(WIDTH, WIDTH, 32, 2, scale=1e-4)
    fusion(ours, theirs)
    image, text = torch.randn(2, 6, WIDTH), torch.randn(2, 4, WIDTH)
    cells, words = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    cells[1, 4:], words[1, 2:] = False, False
    (expected, _), (said, _) = theirs(image, text, ~cells, ~words)
    seen, read = ours(image, text, cells, words)
    torch.testing.assert_close(seen, expected, **NEAR)
    torch.testing.assert_close(read, said, **NEAR)


@pytest.mark.parametrize("rows", [["ab", "c"], ["abc"], ["a", "bc", "d"]])
def test_masks_and_positions_of_phrases(rows):
    prompter = Prompter(Bert())
    longest = [prompter.tokens(phrase) for phrase in ("abcd", "ab", "cd", "ef")]
    prompt = prompter.prompt([[prompter.tokens(phrase) for phrase in rows], longest])
    reads, positions = generate_masks_with_special_tokens_and_transfer_map(
        prompt.ids, torch.tensor([CLS, SEP, DOT, 1029])
    )
    assert torch.equal(prompt.reads, reads)
    assert torch.equal(prompt.positions, positions)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(1)
    theirs = large(GroundingDinoForObjectDetection(config()))
    model = theirs.model
    theirs.bbox_embed[1] = theirs.bbox_embed[0]
    model.decoder.bbox_embed = theirs.bbox_embed
    ours = torch.nn.ModuleDict(
        {
            "enhancer": torch.nn.ModuleList(EnhancerLayer(WIDTH, 4, 64, 0.0, levels=2, points=4) for _ in range(2)),
            "selection": Selection(WIDTH, scaled=False),
            "decoder": Decoder(QUERIES, 2, WIDTH, 4, 64, 0.0, levels=2, points=4, scaled=False),
        }
    ).eval()
    for mine, other in zip(ours["enhancer"], model.encoder.layers, strict=True):
        fusion(mine.fusion, other.fusion_layer)
        text = other.text_enhancer_layer
        attention(mine.text.attn, text.self_attn, text.layer_norm_before)
        feed(mine.text.mlp, text, text.layer_norm_after)
        look(mine.look, other.deformable_layer.self_attn, other.deformable_layer.self_attn_layer_norm)
        feed(mine.mlp, other.deformable_layer, other.deformable_layer.final_layer_norm)
    selection, decoder = ours["selection"], ours["decoder"]
    linear(selection.project, model.enc_output), linear(selection.norm, model.enc_output_norm)
    perceptron(selection.box, model.encoder_output_bbox_embed)
    linear(decoder.content, model.query_position_embeddings)
    for mine, other in zip(decoder.layers, model.decoder.layers, strict=True):
        attention(mine.attn, other.self_attn, other.self_attn_layer_norm)
        attention(mine.words, other.encoder_attn_text, other.encoder_attn_text_layer_norm)
        look(mine.look, other.encoder_attn, other.encoder_attn_layer_norm)
        feed(mine.mlp, other, other.final_layer_norm)
    linear(decoder.norm, model.decoder.layer_norm)
    perceptron(decoder.place, model.decoder.reference_points_head)
    perceptron(decoder.box, theirs.bbox_embed[0])
    return ours, theirs


@pytest.mark.parity("Grounding DINO, from given tokens", "transformers")
def test_every_layer_the_loss_and_its_gradients(pair):
    ours, theirs = pair
    prompter = Prompter(Bert())
    row = [prompter.tokens(phrase) for phrase in ("ab", "c", "def")]
    prompt = prompter.prompt([row, row])
    mask = torch.ones(2, 64, 64, dtype=torch.long)
    mask[1, 48:], mask[1, :, 48:] = 0, 0
    pixels = torch.randn(2, 3, 64, 64) * mask[:, None]
    given = {}
    hook = theirs.model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    said = theirs(pixels, prompt.ids, attention_mask=prompt.mask.long(), pixel_mask=mask, labels=LABELS)
    hook.remove()
    seen = Map(
        given["vision_features"].detach(), given["vision_position_embedding"].detach(),
        tuple(given["spatial_shapes_list"]), ~given["vision_attention_mask"],
    )  # fmt: skip
    text = Words(given["text_features"].detach(), prompt.mask, prompt.reads, prompt.positions)
    torch.testing.assert_close(seen.shares(), given["valid_ratios"])
    for layer in ours["enhancer"]:
        seen, text = layer(seen, text)
    torch.testing.assert_close(seen.cells, said.encoder_last_hidden_state_vision, **NEAR)
    torch.testing.assert_close(text.x, said.encoder_last_hidden_state_text, **NEAR)
    start = ours["selection"](seen, text, QUERIES)
    assert start.real is None
    torch.testing.assert_close(start.boxes, said.init_reference_points, **NEAR)
    found = ours["decoder"](start, seen, text)
    size = prompt.ids.shape[1]
    layers = [*said.auxiliary_outputs, {"logits": said.logits, "pred_boxes": said.pred_boxes}]
    assert len(layers) == len(found.logits)
    theirs_logits = torch.stack([other["logits"][..., :size] for other in layers])
    assert_near(found.logits, theirs_logits, OUTPUT, "logits of every layer")
    assert_near(found.boxes, torch.stack([other["pred_boxes"] for other in layers]), OUTPUT, "boxes of every layer")

    whole = torch.tensor([0.5, 0.5, 1.0, 1.0])
    truth = Truth(
        torch.stack([LABELS[0]["boxes"], torch.stack([LABELS[1]["boxes"][0], whole])]),
        torch.tensor([[0, 2], [1, 0]]), torch.tensor([2, 1]), torch.tensor([0, 1, 2]),
    )  # fmt: skip
    total, _ = sums(found, prompt, truth, matches_of(found, prompt, truth, Costs(label=1.0)))
    loss = (2 * total.label + 5 * total.box + 2 * total.giou) / 3
    weights = {"ce": 2.0, "bbox": 5.0, "giou": 2.0}
    expected = sum(
        weights[name.split("_")[1]] * value for name, value in said.loss_dict.items()
        if "enc" not in name and "cardinality" not in name
    )  # fmt: skip
    assert_near(loss, expected, OUTPUT, "loss", "loss")
    loss.backward()
    expected.backward()
    decoder, other = ours["decoder"], theirs.model.decoder
    for name, mine, its in (
        ("mlp", decoder.layers[1].mlp.fc1.weight, other.layers[1].fc1.weight),
        ("words", decoder.layers[1].words.k.weight, other.layers[1].encoder_attn_text.key.weight),
        ("self-attention", decoder.layers[1].attn.v.weight, other.layers[1].self_attn.value.weight),
        ("offsets", decoder.layers[1].look.deformable.offsets.bias, other.layers[1].encoder_attn.sampling_offsets.bias),
    ):  # fmt: skip
        assert_near(mine.grad, its.grad, GRADIENT, name, "gradients")
