"""The head's tensors under the names of the official files and of transformers', there and back bit for bit."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from mmkit.convert.tables.table import read, write
from mmkit.errors import UserError
from projects.detection import tables
from projects.detection.decoders import Encoder, Map, Queries
from projects.detection.layers import DecoderLayer
from tests.parity.measure import assert_near, assert_same_state

WIDTH, HEADS, HIDDEN, DEPTH, QUERIES, OUTPUTS = 32, 4, 48, 2, 5, 7


def ours():
    sides = {"width": WIDTH, "heads": HEADS, "hidden": HIDDEN, "dropout": 0.0}
    return nn.ModuleDict(
        {
            "encoder": Encoder(DEPTH, **sides), "decoder": Queries(QUERIES, OUTPUTS, depth=DEPTH, **sides),
            "project": nn.Linear(64, WIDTH),
        }
    )  # fmt: skip


def official():
    """A state with the official names, whose layers are torch's own of the same form."""
    torch.manual_seed(0)
    made = nn.Module()
    made.transformer = nn.Module()
    made.transformer.encoder, made.transformer.decoder = nn.Module(), nn.Module()
    for part, layer in (("encoder", nn.TransformerEncoderLayer), ("decoder", nn.TransformerDecoderLayer)):
        layers = nn.ModuleList(layer(WIDTH, HEADS, HIDDEN, 0.0, batch_first=True) for _ in range(DEPTH))
        getattr(made.transformer, part).layers = layers
    made.transformer.decoder.norm = nn.LayerNorm(WIDTH)
    made.class_embed, made.query_embed = nn.Linear(WIDTH, OUTPUTS), nn.Embedding(QUERIES, WIDTH)
    made.bbox_embed = nn.Module()
    made.bbox_embed.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)])
    made.input_proj = nn.Conv2d(64, WIDTH, 1)
    return made


def test_official_files_go_through_both_ways_bit_for_bit():
    state = official().state_dict()
    rows = tables.rows("official", DEPTH, DEPTH)
    found = read(rows, state)
    assert {name.removeprefix(tables.HEAD) for name in found} == ours().state_dict().keys()
    back = write(rows, found)
    assert_same_state(back, state)
    with pytest.raises(UserError, match=r"missing class_embed\.bias"):
        read(rows, {name: value for name, value in state.items() if name != "class_embed.bias"})


def test_a_layer_of_the_official_file_computes_what_torchs_does():
    made = official()
    state = read(tables.rows("official", DEPTH, DEPTH), made.state_dict())
    prefix = f"{tables.HEAD}decoder.layers.1."
    layer = DecoderLayer(WIDTH, HEADS, HIDDEN, 0.0)
    layer.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    x, memory, none = torch.randn(2, QUERIES, WIDTH), torch.randn(2, 9, WIDTH), torch.zeros(1, 1, WIDTH)
    expected = made.transformer.decoder.layers[1](x, memory)
    torch.testing.assert_close(layer(x, none, memory, none, None), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[64], depths=[1], out_features=["stage1"])
    return DetrForObjectDetection(
        DetrConfig(
            d_model=WIDTH, encoder_layers=DEPTH, decoder_layers=DEPTH, encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN, num_queries=QUERIES,
            num_labels=OUTPUTS - 1, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
            backbone_config=backbone,
        )
    )  # fmt: skip


@pytest.mark.parity("DETR, from its own feature map", "transformers")
def test_transformers_files_and_modules_go_through_both_ways_and_are_one_model(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    found = {}
    for names, whole in (("released", load_file(tmp_path / "model.safetensors")), ("modules", theirs.state_dict())):
        state = {name: value for name, value in whole.items() if ".backbone." not in name}
        rows = tables.rows(names, DEPTH, DEPTH)
        found[names] = read(rows, state)
        back = write(rows, found[names])
        assert_same_state(back, state)
    assert all(torch.equal(found["released"][name], value) for name, value in found["modules"].items())


@pytest.mark.parity("DETR, from its own feature map", "transformers")
def test_the_whole_of_transformers_detr_from_its_own_feature_map(theirs):
    theirs.eval()
    head = ours().eval()
    state = {name: value for name, value in theirs.state_dict().items() if ".backbone." not in name}
    found = read(tables.rows("modules", DEPTH, DEPTH), state)
    head.load_state_dict({name.removeprefix(tables.HEAD): value for name, value in found.items()})
    pixels = torch.randn(2, 3, 32, 48)
    mask = torch.ones(2, 32, 48, dtype=torch.int64)
    mask[1, 24:], mask[1, :, 40:] = 0, 0
    with torch.no_grad():
        expected = theirs(pixels, pixel_mask=mask)
        (feature, real), *_ = theirs.model.backbone(pixels, mask)
        from mmkit.nn.sine import of_cells

        cells = head["project"](feature.flatten(2).mT)
        seen = Map(cells, of_cells(real.bool(), WIDTH), real.bool().flatten(1))
        got = head["decoder"](head["encoder"](seen))
    assert_near(got.logits[-1], expected.logits, 1e-5)
    assert_near(got.boxes[-1], expected.pred_boxes, 1e-5)
