"""``mmkit convert`` there and back, and ``mmkit info`` of what is met on the way."""

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.cli.main import main
from mmkit.heads.base import Candidates
from mmkit.heads.itm import ITM
from mmkit.hub import folder as hub
from mmkit.models.sizes.albef import albef
from mmkit.task import Task
from mmkit.train.init import initialise
from tests.hub.test_folder import make
from tests.parity.measure import assert_near
from tests.parity.measure import assert_same_state as assert_same
from tests.parity.oracle import cases, files, load, under

PRETRAIN = cases(lambda names: "sd.text_encoder.cls.predictions.bias" in names)
RETRIEVAL = cases(lambda names: "sd.idx_queue" in names)
VQA = cases(lambda names: "sd.text_decoder.cls.predictions.bias" in names)
ENTAILMENT = [path for path in cases(lambda names: "sd.cls_head.0.weight" in names) if "shared" not in load(path)[0]]


LAYOUTS = {"albef": PRETRAIN, "albef-retrieval": RETRIEVAL, "albef-vqa": VQA, "albef-ve": ENTAILMENT}
NAMES = {"albef": "pre-training", "albef-retrieval": "retrieval", "albef-vqa": "VQA", "albef-ve": "visual entailment"}
FILES = [
    pytest.param(
        layout, path, id=path.stem, marks=pytest.mark.parity(f"ALBEF, {NAMES[layout]}", "the official code, recorded")
    )
    for layout, paths in LAYOUTS.items() for path in paths
]  # fmt: skip


@pytest.mark.parametrize(("layout", "path"), FILES)
@pytest.mark.parametrize("form", ["pth", "bare", "stripped", "student", "parallel"])
@torch.no_grad()
def test_there_and_back(layout, path, form, tokenizer, tmp_path):
    meta, x = load(path)
    state = under(x, "sd.")
    if form == "stripped":
        state = {key: value for key, value in state.items() if "position_ids" not in key}
    if form == "student":
        state = {key: value for key, value in state.items() if not any(p in key for p in ("_m.", "queue"))}
    content = {f"module.{key}": value for key, value in state.items()} if form == "parallel" else state
    torch.save(content if form == "bare" else {"model": content, "epoch": 29}, tmp_path / "theirs.pth")
    words = tokenizer(meta["bert"]["vocab_size"])
    heads = ["--image-heads", str(meta["vit"]["heads"]), "--text-heads", str(meta["bert"]["num_attention_heads"])]
    if layout == "albef-vqa":
        (tmp_path / "answers.json").write_text(json.dumps(["a dog", "yes", "two"]))
        heads += ["--answers", str(tmp_path / "answers.json")]
    out = tmp_path / "ours"
    assert main(["convert", "auto", str(tmp_path / "theirs.pth"), str(out), "--tokenizer", words, *heads]) == 0

    predictor = mmkit.load(out)
    tokens = predictor.model.encode_image(x["in.image" if "in.image" in x else "step0.in.image"])
    if "out.image_feat" in x:
        assert_near(predictor.model.embed_image(tokens), x["out.image_feat"], 5e-6, "image_feat")
    if layout in ("albef", "albef-retrieval"):
        assert predictor.can_match()
        assert len(predictor.encode_text(["a dog"])) == 1
    else:
        says_what_the_file_said(layout, predictor, tokens, x)

    back = tmp_path / "back.pth"
    assert main(["convert", layout, str(out), str(back), "--reverse"]) == 0
    written = torch.load(back, weights_only=True)
    assert_same(written if form == "bare" else written["model"], content)


def says_what_the_file_said(layout, predictor, tokens, x):
    model, context = predictor.model, predictor.model.image_context(tokens)
    if layout == "albef-ve":
        fused = model.fuse(model.encode_text(x["in.input_ids"], x["in.attention_mask"].bool()), [context])
        logits = predictor.heads["label"].logits(fused)
        assert predictor.heads["label"].classes == ("contradiction", "neutral", "entailment")
        assert_near(logits, x["eval.prediction"], 5e-6, "eval.prediction")
    else:
        head = predictor.heads["answer"]
        assert head.answers == ("a dog", "yes", "two")
        mask = x["rank.answer_mask"].bool()
        answers = Candidates(x["rank.answer_ids"], mask)
        head.top = int(x["rank.k"])
        fused = model.fuse(model.encode_text(x["in.question_ids"], x["in.question_mask"].bool()), [context])
        chosen, probability = head.rank(fused, answers, head.top)
        assert torch.equal(chosen, x["rank.topk_ids"])
        assert_near(probability, x["rank.topk_probs"], 5e-6, "topk_probs")


def test_info_of_a_converted_model_and_of_its_source(tokenizer, tmp_path, capsys):
    meta, x = load(PRETRAIN[0])
    source, out, found = tmp_path / "ALBEF.pth", tmp_path / "ours", tmp_path / "info.json"
    torch.save({"model": under(x, "sd."), "epoch": 29}, source)
    assert main(["info", str(source), "--json", str(found)]) == 0
    info = json.loads(found.read_text())
    assert info["layout"] == "albef"
    assert info["use"].startswith(f"mmkit convert albef {source} OUT")
    assert info["beside.epoch"] == 29
    foreign = info["parameters"]
    words = tokenizer(meta["bert"]["vocab_size"])
    main(["convert", "albef", str(source), str(out), "--tokenizer", words, "--image-heads", "2", "--text-heads", "2"])
    assert main(["info", str(out), "--json", str(found)]) == 0
    info = json.loads(found.read_text())
    assert info["model"] == "mmkit.models.sizes.albef:albef"
    assert info["parameters"] == foreign
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
    assert "its layout cannot be guessed; it has" in says("auto", b, out)
    assert "there is no layout 'albeff'" in says("albeff", a, out)
    assert "--image-heads" in says("albef", a, out)
    words = tokenizer(meta["bert"]["vocab_size"] + 1)
    assert "--tokenizer" in says("albef", a, out, "--tokenizer", words, "--image-heads", 2, "--text-heads", 2)
    assert not out.exists()
    assert main(["info", str(b)]) == 0


def test_a_tensor_of_another_shape_is_named(tokenizer, tmp_path, capsys):
    meta, x = load(PRETRAIN[0])
    state = {key: value.clone() for key, value in under(x, "sd.").items()}
    name = "visual_encoder.blocks.0.mlp.fc1.bias"
    size = len(state[name])
    save_file(state | {name: state[name][1:].clone()}, tmp_path / "c.safetensors")
    words = tokenizer(meta["bert"]["vocab_size"])
    heads = ["--tokenizer", words, "--image-heads", "2", "--text-heads", "2"]
    assert main(["convert", "albef", str(tmp_path / "c.safetensors"), str(tmp_path / "out"), *heads]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"model.image.blocks.0.mlp.fc1.bias would be {size - 1}, and" in said
    assert f"should be {size}" in said
    assert not (tmp_path / "out").exists()


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
    names = {"vqa": "albef-vqa", "ve": "albef-ve", "nlvr": "albef-nlvr2", "nlvr_pretrain": "albef-assignment"}
    assert info["layout"] == names[kind]
    assert str(path) in info["use"]
    if kind.startswith("nlvr"):
        assert main(["convert", "auto", str(path), str(tmp_path / "ours")]) == 2
        assert "projects/nlvr2/layout.py:" in capsys.readouterr().err
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
