"""What a run starts from: a ViT, a BERT, an ALBEF, a model of our own; by path, or a name that cannot be fetched."""

import logging
from functools import partial

import huggingface_hub
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

from mmkit.config import dump, override, rebuild
from mmkit.data.texts.tokenizers import from_hub
from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef
from mmkit.models.sizes.dual import lit
from mmkit.models.sizes.vilt import vilt
from mmkit.task import Task
from mmkit.train.init import initialise
from mmkit.train.loop import train
from tests.convert.test_bert import MINILM
from tests.parity.oracle import cases, load, under
from tests.sizes import lit_tiny
from tests.train.fakes import change, tiny

PRETRAIN = cases(lambda names: "out.loss_mlm" in names)


def task(
    vocab=60, *, image_size=32, tokens=16, heads=("itc", "itm", "mlm"), width=32, mlp=48, text=2, fusion=3, **options
) -> Task:
    torch.manual_seed(1)
    model = albef(
        vocab, image_size=image_size, max_tokens=tokens, patch=8, image_depth=3, image_width=32, image_heads=4,
        text_depth=text, fusion_depth=fusion, text_width=width, text_heads=4, text_mlp_width=mlp, embed_dim=16,
        **options,
    )  # fmt: skip
    made = {"itc": partial(ITC, queue_size=8), "itm": ITM, "mlm": MLM}
    return Task(model, {name: made[name](model.spec) for name in heads})


@pytest.fixture
def deit(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("deit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4)
    torch.save({"model": model.state_dict()}, tmp_path / "deit.pth")
    return tmp_path / "deit.pth"


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
    )
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_towers_shares_teacher_and_log(deit, bert, caplog):
    caplog.set_level(logging.INFO, "mmkit")
    made = task(image_size=(48, 32))
    before = {name: p.clone() for name, p in made.named_parameters()}
    origins = initialise(made, {"image": str(deit), "text": str(bert)})
    assert origins["model.image"] == f"{deit} (100 %)"
    assert origins["model.text"] == f"{bert} (100 %)"
    assert origins["heads.mlm"] == f"{bert} (100 %)"
    assert origins["model.image_proj"] == origins["heads.itm"] == "at random"
    assert 50 < float(origins["model.fusion"].split("(")[1].split(" ")[0]) < 90
    assert "fresh: blocks.*.cross" in origins["model.fusion"]
    for name, p in made.named_parameters():
        fresh = "cross" in name or not name.startswith(("model.image.", "model.text.", "model.fusion.", "heads.mlm"))
        assert name.startswith("ema.") or torch.equal(p, before[name]) == fresh or p.eq(0).all() or p.eq(1).all(), name
    for name, p in made.ema["model"].named_parameters():
        assert torch.equal(p, made.model.get_parameter(name))
    assert "4x4 grid resized to 6x4" in caplog.text
    assert "the first 16 of 20 text positions" in caplog.text
    assert "classifier" in caplog.text


def test_the_real_bert_of_a_package():
    made = task(30_522, tokens=600, width=384, mlp=1536, text=3, fusion=3, heads=("itm", "mlm"), dropout=0.0)
    made.model.text.blocks[0].attn.heads = 12
    origins = initialise(made, {"text": str(MINILM)})
    assert "99 %" in origins["model.text"] or "100 %" in origins["model.text"]
    assert {part for part, origin in origins.items() if origin != "at random"} == {"model.text", "model.fusion"}
    assert origins["heads.mlm"] == "at random"  # it has no vocabulary head
    assert from_hub(name=str(MINILM)).vocab_size == made.model.spec.vocab_size


def test_an_official_albef_and_heads_that_one_of_the_two_lacks(tmp_path):
    meta, x = load(PRETRAIN[0])
    torch.save({"model": under(x, "sd."), "epoch": 29}, tmp_path / "ALBEF.pth")
    vit, cfg = meta["vit"], meta["bert"]
    model = albef(
        cfg["vocab_size"], image_size=48, max_tokens=12, patch=vit["patch"], image_depth=vit["depth"],
        image_width=vit["width"], image_heads=vit["heads"], text_depth=cfg["fusion_layer"],
        fusion_depth=cfg["num_hidden_layers"] - cfg["fusion_layer"], text_width=cfg["hidden_size"],
        text_heads=cfg["num_attention_heads"], text_mlp_width=cfg["intermediate_size"],
        embed_dim=meta["cfg"]["embed_dim"],
    )  # fmt: skip
    made = Task(model, {"itc": ITC(model.spec, 8), "itm": ITM(model.spec)})
    origins = initialise(made, {"model": str(tmp_path / "ALBEF.pth")})
    assert all("(100 %)" in origin for origin in origins.values())
    assert {"model.image", "model.text_proj", "heads.itm"} <= origins.keys()
    assert torch.equal(made.heads["itm"].classify.weight, x["sd.itm_head.weight"])
    assert torch.equal(made.model.image_proj.weight, x["sd.vision_proj.weight"])


def test_a_model_of_our_own(tmp_path):
    first = task(image_size=(32, 48))
    state = {
        name: p
        for name, p in first.state_dict().items()
        if name.startswith(("model.", "heads.")) and "queue" not in name
    }
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model": {"args": {"image_size": {"tuple": [32, 48]}}}}')
    second = task(image_size=(48, 32))
    initialise(second, {"model": str(tmp_path)})
    assert torch.equal(second.model.text_proj.weight, first.model.text_proj.weight)
    assert not torch.equal(
        second.model.image.positions.table, first.model.image.positions.table
    )  # as many, another grid
    save_file(state | {"model.text_proj.weight": torch.ones(16, 32, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.text_proj\.weight holds torch\.int8, no plain weights"):
        initialise(second, {"model": str(tmp_path)})


def test_a_foreign_temperature_is_brought_within_bounds(tmp_path):
    first = task()
    first.model.temperature.value.data.fill_(3.0)
    state = {n: p for n, p in first.state_dict().items() if n.startswith(("model.", "heads.")) and "queue" not in n}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model": {"args": {"image_size": 32}}}')
    second = task()
    initialise(second, {"model": str(tmp_path)})
    assert torch.equal(second.model.text_proj.weight, first.model.text_proj.weight)
    assert second.model.temperature.value.item() == second.ema["model"].temperature.value.item() == 0.5


@pytest.mark.parametrize(
    ("init", "options", "says"),
    [
        ({"image": "BERT"}, {}, "not a ViT"),
        ({"text": "DEIT"}, {}, "not a BERT"),
        ({"model": "DEIT"}, {}, "whole model"),
        ({"text": "BERT"}, {"vocab": 61}, "60 words.*tokenizer 61"),
        ({"text": "BERT"}, {"width": 64}, "init.text.*choose a model of its size"),
        ({"txt": "BERT"}, {}, "no such tower"),
        ({"image": "nowhere.pth"}, {}, "init.image = nowhere.pth: no such file"),
    ],
)
def test_what_does_not_fit_is_said(init, options, says, deit, bert):
    paths = {"DEIT": str(deit), "BERT": str(bert)}
    with pytest.raises(UserError, match=says):
        initialise(task(**options), {tower: paths.get(source, source) for tower, source in init.items()})


def test_another_number_of_heads_is_refused(bert):
    made = task()
    made.model.text.blocks[0].attn.heads = 8
    with pytest.raises(UserError, match="num_attention_heads is 4"):
        initialise(made, {"text": str(bert)})


@pytest.mark.parametrize(
    ("source", "address"),
    [
        (
            "timm:deit_base_patch16_224",
            "huggingface.co/timm/deit_base_patch16_224.fb_in1k/resolve/main/model.safetensors",
        ),
        (
            "hf:google-bert/bert-base-uncased",
            "huggingface.co/google-bert/bert-base-uncased/resolve/main/model.safetensors",
        ),
    ],
)
def test_without_a_network_it_says_what_to_fetch(source, address, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    tower = "image" if source.startswith("timm") else "text"
    with pytest.raises(UserError, match=address):
        initialise(task(), {tower: source})
    with pytest.raises(UserError, match=r"timm:deit_basse.*did you mean .*deit_base"):
        initialise(task(), {"image": "timm:deit_basse_patch16_224"})


def test_a_run_says_its_start_and_resumes_without_the_file(tmp_path, deit, bert, caplog):
    caplog.set_level(logging.INFO, "mmkit")
    exp = change(
        tiny(),
        model=partial(
            albef, image_size=32, max_tokens=16, patch=8, image_depth=3, image_width=32, image_heads=4, text_depth=2,
            fusion_depth=3, text_width=32, text_heads=4, text_mlp_width=48, embed_dim=16, dropout=0.0,
        ),
        init={"image": str(deit)}, run={"steps": 4, "stop_after_steps": 1, "save_every_steps": 1},
    )  # fmt: skip
    train(exp, tmp_path / "run")
    assert f"initialised: model.image from {deit} (100 %)" in caplog.text
    assert "model.fusion, " in caplog.text.split("(100 %); ")[1].split(" at random")[0]
    deit.unlink()
    train(change(exp, run={"stop_after_steps": None}), tmp_path / "run", resume=True)
    assert "initialised: every part from the checkpoint" in caplog.text
    with pytest.raises(UserError, match=r"deit\.pth: no such file"):
        train(exp, tmp_path / "other")


def test_a_config_with_a_start_is_dumped_and_rebuilt():
    exp = tiny(init={"text": "hf:google-bert/bert-base-uncased"})
    assert rebuild(dump(exp), allow=("tests",)).init == {"text": "hf:google-bert/bert-base-uncased"}
    assert override(exp, ["init.text=elsewhere"]).init == {"text": "elsewhere"}


@torch.no_grad()
def test_both_towers_of_a_dual_encoder(deit, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=16,
    )  # fmt: skip
    other = transformers.BertModel(config).eval()
    other.save_pretrained(tmp_path / "tower")
    model = lit(
        60, image_size=32, max_tokens=16, patch=8, image_depth=3, image_width=32, image_heads=4, text_depth=2,
        text_width=32, text_heads=4, embed_dim=16,
    )  # fmt: skip
    made = Task(model, {"itc": ITC(model.spec, 0)}, momentum=None, alpha=0.0)
    origins = initialise(made, {"image": str(deit), "text": str(tmp_path / "tower")})
    assert origins["model.image"] == f"{deit} (100 %)"
    assert origins["model.text"] == f"{tmp_path / 'tower'} (100 %)"
    assert origins["model.text_proj"] == "at random"
    ids = torch.arange(7)[None] + 5
    expected = other(ids).last_hidden_state
    assert (model.eval().encode_text(ids, None).x - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_frozen_tower_that_nothing_fills_is_refused(bert):
    model = lit_tiny(60)
    made = Task(model, {"itc": ITC(model.spec, 0)}, momentum=None, alpha=0.0)
    with pytest.raises(UserError, match=r"model\.image is frozen, and 0 of its .* init=\{'image': "):
        initialise(made, {})


def test_the_one_stream_of_vilt(deit):
    model = vilt(60, image_size=(48, 32), max_tokens=16, patch=8, depth=3, width=32, heads=4)
    made = Task(model, {"itm": ITM(model.spec, negatives="random")}, momentum=None, alpha=0.0)
    assert initialise(made, {"image": str(deit)})["model.image"] == f"{deit} (100 %)"
    theirs = torch.load(deit, weights_only=True)["model"]
    assert torch.equal(model.image.blocks[2].mlp.fc1.weight, theirs["blocks.2.mlp.fc1.weight"])
    assert len(model.image.positions.table) == 1 + 6 * 4
