"""What ``save_pretrained`` of transformers writes for each class, to the same outputs here and back to the same file.

It leaves out what is tied, and writes a bare body without the prefix that its names have below a head.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.cli.main import main
from mmkit.convert.tables import bert, clip, vilt, vit
from mmkit.convert.tables.table import Dropped, read, write
from mmkit.errors import UserError
from mmkit.heads.mlm import MLM
from tests.convert.test_family import pictures, random_weights, tower
from tests.parity.measure import assert_near
from tests.parity.measure import assert_same_state as assert_same

WORDS, OUTPUT = 60, 1e-5
TEXTS = ["what is this", "x", "it is red", "a very long text about many things"]
CLASSES = {
    "ViltModel": (), "ViltForMaskedLM": ("mlm",), "ViltForImageAndTextRetrieval": ("itm",),
    "ViltForQuestionAnswering": ("answer",),
}  # fmt: skip


def config(**changes):
    labels = {"id2label": {0: "yes", 1: "no", 2: "red"}}
    sizes = {"vocab_size": WORDS, "image_size": 32, "patch_size": 8, "max_position_embeddings": 12}
    fixed = {"max_image_length": -1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.ViltConfig(**(tower() | labels | sizes | fixed | changes))


def made(kind, tie=True, **changes):
    settings = config(**changes)
    settings.tie_word_embeddings = tie  # its constructor does not listen to this one
    return random_weights(getattr(transformers, kind)(settings), std=0.4)


def ours_of(source, tokenizer, out, layout="auto"):
    assert main(["convert", layout, str(source), str(out), "--tokenizer", tokenizer]) == 0
    return mmkit.load(out)


def batch_of(words):
    tokens = transformers.AutoTokenizer.from_pretrained(words)(
        TEXTS, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    process = transformers.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    return {**tokens, **process(pictures(), return_tensors="pt")}


def fused_of(predictor, batch):
    model = predictor.model
    image = model.image_context(model.encode_image(batch["pixel_values"], batch["pixel_mask"].bool()))
    return model.fuse(model.encode_text(batch["input_ids"], batch["attention_mask"].bool()), [image])


def logits_of(kind, predictor, fused):
    heads, words = predictor.heads, predictor.model.word_embeddings
    if kind == "ViltForMaskedLM":
        return heads["mlm"].logits(fused.text.x, words)
    if kind == "ViltForQuestionAnswering":
        return heads["answer"].logits(fused)
    logits = heads["itm"].match_logits(fused.first)
    return logits[:, 1:] - logits[:, :1]


@pytest.mark.parity("ViLT, each class as saved", "transformers")
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_each_class_of_vilt_as_it_is_saved(kind, tie, tokenizer, tmp_path):
    model, words = made(kind, tie), tokenizer(WORDS)
    model.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs/model.safetensors")
    assert (vilt.WORDS in saved) == (kind == "ViltForMaskedLM" and not tie)
    predictor = ours_of(tmp_path / "theirs", words, tmp_path / "ours")
    assert tuple(predictor.heads) == CLASSES[kind]
    batch = batch_of(words)
    fused = fused_of(predictor, batch)
    found = model(**batch)
    if kind == "ViltModel":
        length = batch["input_ids"].shape[1]
        assert_near(fused.text.x, found.last_hidden_state[:, :length], OUTPUT)
    else:
        logits = logits_of(kind, predictor, fused)
        assert found.logits.std() > 0.02
        assert_near(logits[:, : found.logits.shape[1]], found.logits, OUTPUT)
    assert (
        main(["convert", "vilt-transformers", str(tmp_path / "ours"), str(tmp_path / "b.safetensors"), "--reverse"])
        == 0
    )
    assert_same(load_file(tmp_path / "b.safetensors"), saved)


@torch.no_grad()
def test_what_is_written_back_is_read_by_transformers(tokenizer, tmp_path):
    model, words = made("ViltForMaskedLM"), tokenizer(WORDS)
    model.save_pretrained(tmp_path / "theirs")
    ours_of(tmp_path / "theirs", words, tmp_path / "ours")
    (tmp_path / "back").mkdir()
    (tmp_path / "back/config.json").write_text((tmp_path / "theirs/config.json").read_text())
    out = tmp_path / "back/model.safetensors"
    assert main(["convert", "vilt-transformers", str(tmp_path / "ours"), str(out), "--reverse"]) == 0
    again, said = transformers.ViltForMaskedLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    batch = batch_of(words)
    assert_near(again.eval()(**batch).logits, model(**batch).logits, OUTPUT)


@torch.no_grad()
def test_a_tied_head_goes_to_the_official_names_and_back(tokenizer, tmp_path):
    """There the matrix always has a name of its own, and would be random without it."""
    model, words = made("ViltForMaskedLM", layer_norm_eps=1e-6), tokenizer(WORDS)
    model.save_pretrained(tmp_path / "theirs")
    tied = ours_of(tmp_path / "theirs", words, tmp_path / "ours")
    out = tmp_path / "official.ckpt"
    assert main(["convert", "vilt", str(tmp_path / "ours"), str(out), "--reverse"]) == 0
    state = torch.load(out, weights_only=True)
    assert torch.equal(state[vilt.WORDS], state["text_embeddings.word_embeddings.weight"])
    assert main(["convert", "vilt", str(out), str(tmp_path / "b"), "--tokenizer", words, "--image-heads", "4"]) == 0
    untied, batch = mmkit.load(tmp_path / "b"), batch_of(words)
    kind = "ViltForMaskedLM"
    assert torch.equal(logits_of(kind, untied, fused_of(untied, batch)), logits_of(kind, tied, fused_of(tied, batch)))


@pytest.mark.parametrize("names", [("mlm_score.bias",), ("mlm_score.bias", "mlm_score.decoder.bias")])
def test_the_bias_comes_back_under_the_names_of_the_files_age(names, tokenizer, tmp_path):
    made("ViltForMaskedLM", tie=False).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/model.safetensors"
    state = load_file(file)
    bias = state.pop("mlm_score.decoder.bias")
    save_file(state | {name: bias.clone() for name in names}, file)
    ours_of(tmp_path / "theirs", tokenizer(WORDS), tmp_path / "ours")
    out = tmp_path / "b.safetensors"
    assert main(["convert", "vilt-transformers", str(tmp_path / "ours"), str(out), "--reverse"]) == 0
    assert_same(load_file(out), load_file(file))


def test_an_untied_file_without_its_matrix_is_damaged(tmp_path, capsys):
    made("ViltForMaskedLM", tie=False).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if name != vilt.WORDS}, file)
    assert main(["convert", "auto", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    assert "tie_word_embeddings=false, but there is no mlm_score.decoder.weight" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertLMHeadModel"])
@torch.no_grad()
def test_each_class_of_bert_as_it_is_saved(kind, tmp_path):
    cfg = transformers.BertConfig(**tower(), vocab_size=WORDS, max_position_embeddings=12, is_decoder="LM" in kind[4:6])
    random_weights(getattr(transformers, kind)(cfg), std=0.3).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    head = kind != "BertModel"
    assert not [name for name in saved if ".decoder." in name]
    rows = bert.table(saved, text_depth=1, fusion_depth=1, mlm="heads.mlm" if head else None)
    ours = read(rows, saved)
    assert ("heads.mlm.bias" in ours) == head
    back = write(bert.table_of_ours(ours, mlm="heads.mlm" if head else None), ours)
    beside = {row.theirs for row in rows if isinstance(row, Dropped)}
    tied = {f"cls.predictions.decoder.{part}" for part in ("weight", "bias")} if head else set()
    assert back.keys() == saved.keys() - beside | tied
    save_file({name: value.clone() for name, value in back.items()}, tmp_path / "model.safetensors")
    again, said = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    assert {name.removeprefix("bert.") for name in said["missing_keys"]} <= {n.removeprefix("bert.") for n in beside}
    assert not said["unexpected_keys"]
    assert_same({n: v for n, v in again.state_dict().items() if n in saved and n not in beside},
                {n: v for n, v in saved.items() if n not in beside})  # fmt: skip


def test_an_untied_bert_is_refused_both_ways(tmp_path):
    cfg = transformers.BertConfig(**tower(), vocab_size=WORDS, max_position_embeddings=12, tie_word_embeddings=False)
    random_weights(transformers.BertForMaskedLM(cfg)).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"decoder\.weight should hold the same values"):
        read(bert.table(saved, text_depth=2, mlm="heads.mlm"), saved)
    plain = {name: value for name, value in saved.items() if ".decoder." not in name}
    ours = read(bert.table(plain, text_depth=2, mlm="heads.mlm"), plain)
    with pytest.raises(UserError, match="one of its own"):
        bert.table_of_ours(ours | {"heads.mlm.words": torch.zeros(WORDS, 32)}, mlm="heads.mlm")


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_clip_and_siglip_share_no_tensors_as_they_are_saved(kind, tmp_path):
    text = tower(vocab_size=WORDS, max_position_embeddings=12)
    cfg = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=tower(image_size=32, patch_size=8))
    model = getattr(transformers, f"{kind}Model")(cfg)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    ours = read(clip.table(saved), saved)
    rows = clip.table_of_ours(ours, (8, 8), "transformers")
    assert_same(write([row for row in rows if not getattr(row, "old", False)], ours), saved)


def test_a_vit_in_the_names_of_transformers_is_told_what_to_do(tmp_path, capsys):
    model = transformers.ViTModel(transformers.ViTConfig(**tower(), image_size=32, patch_size=8))
    model.save_pretrained(tmp_path / "theirs")
    assert main(["convert", "auto", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "model.safetensors: its layout cannot be guessed; it is a ViT in the names of transformers" in said
    assert "timm:NAME" in said
    saved = load_file(tmp_path / "theirs/model.safetensors")
    with pytest.raises(UserError, match=r"the names of transformers.*timm:NAME"):
        vit.table(saved)


def test_the_record_names_only_what_differs(tokenizer, tmp_path):
    made("ViltForMaskedLM").save_pretrained(tmp_path / "theirs")
    predictor = ours_of(tmp_path / "theirs", tokenizer(WORDS), tmp_path / "ours")
    assert json.loads((tmp_path / "ours/conversion.json").read_text())["names"] == {}
    assert isinstance(predictor.heads["mlm"], MLM)
    assert predictor.heads["mlm"].words is None
