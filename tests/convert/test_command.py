"""``mmkit convert`` there and back, and ``mmkit info`` of what is met on the way."""

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

import mmkit
from mmkit import hub
from mmkit.cli.main import main
from mmkit.heads.itm import ITM
from mmkit.models.sizes import albef
from mmkit.task import Task
from mmkit.train.init import initialise
from tests.convert.test_albef import assert_same
from tests.parity.oracle import cases, files, load, under
from tests.test_hub import make

PRETRAIN = cases(lambda names: "sd.text_encoder.cls.predictions.bias" in names)
RETRIEVAL = cases(lambda names: "sd.idx_queue" in names)


@pytest.fixture
def tokenizer(tmp_path):
    """BERT's tokenizer with as many words as a recorded model knows."""

    def make(words):
        folder = tmp_path / "words"
        folder.mkdir()
        lines = files("vocab/vocab.txt")[0].read_text().splitlines()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        chosen = special + [line for line in lines if line.isalpha() and line.isascii()][: words - 5]
        (folder / "vocab.txt").write_text("\n".join(chosen))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
        return str(folder)

    return make


@pytest.mark.parametrize("path", [*PRETRAIN, *RETRIEVAL], ids=lambda p: p.stem)
@pytest.mark.parametrize("form", ["pth", "bare", "stripped", "parallel"])
@torch.no_grad()
def test_there_and_back(path, form, tokenizer, tmp_path):
    meta, x = load(path)
    state = under(x, "sd.")
    if form == "stripped":
        state = {key: value for key, value in state.items() if "position_ids" not in key}
    content = {f"module.{key}": value for key, value in state.items()} if form == "parallel" else state
    torch.save(content if form == "bare" else {"model": content, "epoch": 29}, tmp_path / "theirs.pth")
    layout = "albef" if path in PRETRAIN else "albef-retrieval"
    words = tokenizer(meta["bert"]["vocab_size"])
    heads = ["--image-heads", str(meta["vit"]["heads"]), "--text-heads", str(meta["bert"]["num_attention_heads"])]
    out = tmp_path / "ours"
    assert main(["convert", "auto", str(tmp_path / "theirs.pth"), str(out), "--tokenizer", words, *heads]) == 0

    predictor = mmkit.load(out)
    embeds = predictor.model.embed_image(
        predictor.model.encode_image(x["in.image" if "in.image" in x else "step0.in.image"])
    )
    if "out.image_feat" in x:
        assert (embeds - x["out.image_feat"]).abs().max() < 5e-6
    assert predictor.can_match()
    assert len(predictor.encode_text(["a dog"])) == 1

    back = tmp_path / "back.pth"
    assert main(["convert", layout, str(out), str(back), "--reverse"]) == 0
    written = torch.load(back, weights_only=True)
    assert_same(written if form == "bare" else written["model"], content)


def test_info_of_a_converted_model_and_of_its_source(tokenizer, tmp_path, capsys):
    meta, x = load(PRETRAIN[0])
    source, out, found = tmp_path / "ALBEF.pth", tmp_path / "ours", tmp_path / "info.json"
    torch.save({"model": under(x, "sd."), "epoch": 29}, source)
    assert main(["info", str(source), "--json", str(found)]) == 0
    info = json.loads(found.read_text())
    assert info["layout"] == "albef"
    assert info["use"] == f"mmkit convert albef {source} OUT"
    assert info["beside.epoch"] == 29
    assert info["parameters"] == sum(v.numel() for k, v in under(x, "sd.").items())
    words = tokenizer(meta["bert"]["vocab_size"])
    main(["convert", "albef", str(source), str(out), "--tokenizer", words, "--image-heads", "2", "--text-heads", "2"])
    assert main(["info", str(out), "--json", str(found)]) == 0
    info = json.loads(found.read_text())
    assert info["model"] == "mmkit.models.sizes:albef"
    assert info["parameters.model.image"] == sum(v.numel() for k, v in under(x, "sd.visual_encoder.").items())
    side = meta["vit"]["image"]
    assert info["image_size"] in (f"{side}", f"{side}, {side}")
    assert info["vocab_size"] == meta["bert"]["vocab_size"]
    assert "BSD" in info["licence"]
    assert "ALBEF.pth" in info["origin"]


def test_what_cannot_be_converted_is_said(tokenizer, tmp_path, capsys):
    meta, x = load(PRETRAIN[0])
    save_file({key: value.clone() for key, value in under(x, "sd.").items()}, tmp_path / "a.safetensors")
    save_file({"strange.weight": torch.zeros(2)}, tmp_path / "b.safetensors")

    def says(*arguments):
        assert main(["convert", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    a, b, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "out"
    assert "looks like albef" in says("albef-retrieval", a, out)
    assert "no layout that mmkit knows" in says("auto", b, out)
    assert "there is no layout 'albeff'" in says("albeff", a, out)
    assert "--image-heads" in says("albef", a, out)
    words = tokenizer(meta["bert"]["vocab_size"] - 1)
    assert "--tokenizer" in says("albef", a, out, "--tokenizer", words, "--image-heads", 2, "--text-heads", 2)
    assert not out.exists()
    assert main(["info", str(b)]) == 0


@torch.no_grad()
def test_our_towers_are_read_by_timm_and_transformers(tmp_path):
    predictor, experiment = make()
    hub.save(tmp_path / "run", predictor, experiment)
    for layout in ("vit", "bert"):
        assert (
            main(["convert", layout, str(tmp_path / "run"), str(tmp_path / f"{layout}.safetensors"), "--reverse"]) == 0
        )
    model = predictor.model
    pixels = torch.randn(2, 3, 32, 32)
    vit = timm.create_model(
        "vit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    )
    vit.load_state_dict(load_file(tmp_path / "vit.safetensors"))
    ours = model.eval().encode_image(pixels).x
    assert (vit.eval().forward_features(pixels) - ours).abs().max() < 1e-5
    config = transformers.BertConfig(
        vocab_size=model.spec.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=16,
    )  # fmt: skip
    bert = transformers.BertForMaskedLM(config).eval()
    bert.load_state_dict(load_file(tmp_path / "bert.safetensors"))
    states = bert.bert(torch.arange(4)[None] + 5, output_hidden_states=True).hidden_states[1]  # text is the first layer
    assert (states - model.encode_text(torch.arange(4)[None] + 5, None).x).abs().max() < 1e-5
    with pytest.raises(SystemExit):
        main(["convert", "vit"])


@pytest.mark.parametrize("kind", ["vqa", "ve", "nlvr", "nlvr_pretrain"])
def test_the_layouts_of_other_tasks_are_known_and_start_a_training(kind, tmp_path, capsys):
    meta, x = load(files(f"albef_{kind}_tiny.safetensors")[0])
    path, out = tmp_path / "theirs.pth", tmp_path / "info.json"
    torch.save({"model": under(x, "sd.")}, path)
    assert main(["info", str(path), "--json", str(out)]) == 0
    info = json.loads(out.read_text())
    assert info["layout"] == ("albef-vqa" if kind == "vqa" else "albef-task")
    assert f"init={{\"image\": '{path}'}}" in info["use"]
    assert main(["convert", "auto", str(path), str(tmp_path / "ours")]) == 2
    assert "no whole model" in capsys.readouterr().err
    sizes, text = meta["vit"], meta["bert"]
    layers = 18 if kind.startswith("nlvr") else text["num_hidden_layers"]
    model = albef(
        text["vocab_size"], image_size=sizes["image"], max_tokens=text["max_position_embeddings"], patch=sizes["patch"],
        image_depth=sizes["depth"], image_width=sizes["width"], image_heads=sizes["heads"],
        text_depth=text["fusion_layer"], fusion_depth=layers - text["fusion_layer"], text_width=text["hidden_size"],
        text_heads=text["num_attention_heads"], text_mlp_width=text["intermediate_size"], embed_dim=8,
    )  # fmt: skip
    task = Task(model, {"itm": ITM(model.spec)}, momentum=None, alpha=0.0)
    origins = initialise(task, {"image": str(path), "text": str(path)})
    assert all("(100 %)" in origins[part] for part in ("model.image", "model.text", "model.fusion"))
    assert torch.equal(model.image.norm.weight, x["sd.visual_encoder.norm.weight"])
