"""Files of transformers' Grounding DINO become models of ours, say the same, and go back bit for bit."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from mmkit.convert.layouts.layout import Choices
from mmkit.convert.tables.table import read, write
from mmkit.data.texts.prompts import Prompter
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.nn.sine import of_cells
from mmkit.types import Batch
from projects.grounding import layout
from projects.grounding.levels import Levels
from projects.grounding.tables import SWIN
from projects.grounding.test_parity import Bert
from tests.parity.measure import assert_near, assert_same_state

WIDTH, QUERIES, SIZE = 32, 5, (256, 320)
LAST = f"{SWIN}swin.layernorm"
WHOLE = pytest.mark.parity("Grounding DINO, the whole file, on Swin-T", "transformers")


@pytest.fixture(scope="module")
def theirs():
    """With random weights; its eager attention adds a mask of bools to the scores of the text tower, so not that."""
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(image_size=224, out_indices=[2, 3, 4]),
        text_config=BertConfig(
            vocab_size=1100, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
        ),
        d_model=WIDTH, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=QUERIES, max_text_len=16,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(config).eval()
    for name, parameter in model.named_parameters():
        if "text_param" in name or "vision_param" in name or "level_embed" in name:
            nn.init.normal_(parameter, std=0.5)
        elif "backbone" not in name or "norm" in name:
            nn.init.normal_(parameter, 0.5 if "norm" in name and "weight" in name else 0.0, 0.15)
    model.model.decoder.bbox_embed = model.bbox_embed  # one box head, as in a file
    return model


@pytest.fixture(scope="module")
def state(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def choices(theirs):
    return Choices(image_size=SIZE, config=theirs.config.to_dict())


def whole_of(made):
    model = made.model(vocab_size=made.vocab_size)
    return nn.ModuleDict({"model": model, "heads": nn.ModuleDict({"ground": made.heads["ground"](model.spec)})})


@pytest.fixture(scope="module")
def ours(state, choices):
    made = layout.GROUNDING_DINO.recipe(state, choices)
    whole = whole_of(made)
    whole.load_state_dict(read(made.rows, state))
    return whole.eval()


@WHOLE
def test_a_file_becomes_a_model_and_goes_back_bit_for_bit(state, ours):
    assert layout.GROUNDING_DINO.fits(state)
    assert not layout.GROUNDING_DINO.fits({"model.enc_output.weight": torch.zeros(1)})
    back = write(layout.GROUNDING_DINO.back(ours.state_dict()), ours.state_dict())
    assert_same_state(back, state)


def test_files_with_copies_of_the_box_head_and_without_the_swins_last_norm(state, choices):
    copies = {f"bbox_embed.1.{n.removeprefix('bbox_embed.0.')}": v for n, v in state.items() if n.startswith("bbox_")}
    copies |= {f"model.decoder.{n}": v for n, v in state.items() if n.startswith("bbox_")}
    old = {name: value for name, value in state.items() if not name.startswith(LAST)}
    made = layout.GROUNDING_DINO.recipe(old | copies, choices)
    found = read(made.rows, old | copies)
    back = write(layout.GROUNDING_DINO.back(found), found)
    assert back.keys() == old.keys()
    other = {**copies, "bbox_embed.1.layers.2.bias": torch.ones(4)}
    with pytest.raises(UserError, match=r"bbox_embed\.1\.layers\.2\.bias"):
        read(layout.GROUNDING_DINO.recipe(old | other, choices).rows, old | other)


@WHOLE
def test_it_says_of_a_picture_what_transformers_says(theirs, ours):
    prompter = Prompter(Bert())
    prompt = prompter.prompt([[prompter.tokens(phrase) for phrase in ("ab", "c", "de")]])
    pixels = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said = theirs(pixels, prompt.ids, attention_mask=prompt.mask.long())
        f = Features(ours["model"], Batch(pixels=pixels, image_id=torch.zeros(1).long(), targets={}))
        found, start = ours["heads"]["ground"].find(f, prompt)
    assert_near(start.boxes, said.init_reference_points, 1e-5)
    assert_near(found.logits[-1], said.logits[..., : prompt.ids.shape[1]], 1e-5)
    assert_near(found.boxes[-1], said.pred_boxes, 1e-5)
    assert found.boxes[-1].std() > 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder_bbox_embed_share": False}, "decoder_bbox_embed_share=False"),
        ({"positional_embedding_temperature": 10000}, "positional_embedding_temperature=10000"),
        ({"encoder_attention_heads": 3}, "no whole number of points for 3 heads"),
    ],
)
def test_what_a_config_says_that_the_head_has_not(state, choices, change, said):
    with pytest.raises(UserError, match=said):
        layout.GROUNDING_DINO.recipe(state, Choices(config={**choices.config, **change}))


def test_other_backbones_and_heads_are_refused(state, ours):
    table = f"{SWIN}encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"
    with pytest.raises(UserError, match=r"windows of 12 cells.*grounding-dino-base cannot be read"):
        layout.GROUNDING_DINO.recipe({**state, table: torch.zeros(23**2, 3)}, Choices())
    with pytest.raises(UserError, match="no such network"):
        layout.GROUNDING_DINO.recipe({n: v for n, v in state.items() if ".layers.2.blocks.5." not in n}, Choices())
    with pytest.raises(UserError, match="is no Swin"):
        layout.GROUNDING_DINO.recipe({n: v for n, v in state.items() if not n.startswith(SWIN)}, Choices())
    with pytest.raises(UserError, match="a Swin of torchvision"):
        layout.GROUNDING_DINO.back({"heads.ground.text.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="scaled=True"):
        layout.GROUNDING_DINO.back({**ours.state_dict(), "heads.ground.selection.align.bias": torch.zeros(())})


def test_maps_are_told_apart_and_need_pictures_of_one_size(ours):
    head, model = ours["heads"]["ground"], ours["model"]
    batch = Batch(pixels=torch.randn(1, 3, 64, 96), image_id=torch.zeros(1).long(), targets={})
    seen = head.map_of(Features(model, batch))
    assert seen.shapes == ((8, 12), (4, 6), (2, 3), (1, 2))
    parts = seen.places[0].split([96, 24, 6, 2])
    for part, shape, own in zip(parts, seen.shapes, head.levels.places, strict=True):
        sine = of_cells(torch.ones(1, *shape, dtype=torch.bool), WIDTH, 20.0)[0]
        torch.testing.assert_close(part - sine, own.expand(len(part), -1))
    with pytest.raises(UserError, match="pictures of one size"):
        head.levels(Features(model, replace(batch, pixel_mask=torch.ones(1, 64, 96, dtype=torch.bool))))
    with pytest.raises(UserError, match="multiple of 32"):
        Levels(model.spec, 48, layout.LAYERS)
