"""What ``mmkit convert`` says of options, places and files that it cannot use: before any work, with their names."""

import json
import pickle
import time
import zipfile

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mmkit.cli.main import main
from mmkit.convert.locate import locate
from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.tables.table import about, listed
from mmkit.errors import UserError
from tests.convert.test_family import random_weights
from tests.convert.test_vilt_vqa import WORDS, theirs
from tests.parity.oracle import cases, load, under

PRETRAIN = cases(lambda names: "sd.text_encoder.cls.predictions.bias" in names)


def says(capsys, *arguments, code=2):
    assert main(["convert", *map(str, arguments)]) == code
    said = " ".join(capsys.readouterr().err.split())
    assert not said.endswith((";", "; "))
    return said


@pytest.fixture
def source(tmp_path):
    """An official ALBEF, as a file; its state."""
    meta, x = load(PRETRAIN[0])
    state = {key: value.clone() for key, value in under(x, "sd.").items() if "_m." not in key and "queue" not in key}
    save_file(state, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors", state, meta


@pytest.mark.parametrize("option", ["--image-heads", "--text-heads"])
@pytest.mark.parametrize("heads", [0, -2, 5])
def test_heads_that_do_not_divide_a_width(option, heads, source, tmp_path, capsys):
    other = {"--image-heads": "--text-heads", "--text-heads": "--image-heads"}[option]
    said = says(capsys, "albef", source[0], tmp_path / "out", option, heads, other, 2)
    assert (
        f"{source[0]}, as albef: the {option[2:-6]} tower is 32 wide, which {heads} attention heads ({option}" in said
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_of_a_vilt(heads, tmp_path, capsys):
    theirs().save_pretrained(tmp_path / "theirs")
    assert f"which {heads} attention heads" in says(
        capsys, "auto", tmp_path / "theirs", tmp_path / "out", "--image-heads", heads
    )


def test_places(source, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/model.safetensors").write_bytes(source[0].read_bytes())
    assert "file: is a file; OUT is a new folder" in says(capsys, "albef", source[0], tmp_path / "file")
    assert "cannot be written (" in says(capsys, "albef", source[0], tmp_path / "file/out")
    assert "full: is not empty" in says(capsys, "albef", source[0], tmp_path / "full")
    (tmp_path / "full/config.json").write_text("{}")
    assert "full: holds a model already" in says(capsys, "albef", source[0], tmp_path / "full")
    said = says(capsys, "albef", tmp_path / "theirs", tmp_path / "theirs/out")
    assert f"theirs/out: lies inside {tmp_path}/theirs" in said
    assert "nowhere: no such file" in says(capsys, "albef", tmp_path / "nowhere", tmp_path / "out")

    def denied(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    said = says(capsys, "albef", source[0], tmp_path / "out")
    assert f"out: cannot be written ({tmp_path}: Permission denied)" in said
    assert not (tmp_path / "out").exists()


def test_a_forgotten_reverse_is_said(tmp_path, capsys):
    (tmp_path / "ours").mkdir()
    save_file(
        {"model.image.cls": torch.ones(1), "heads.itm.classify.bias": torch.ones(2)},
        tmp_path / "ours/model.safetensors",
    )
    for layout in ("auto", "albef"):
        said = says(capsys, layout, tmp_path / "ours", tmp_path / "again.pth")
        assert "a model of mmkit already" in said
        assert "add --reverse" in said


def test_options_without_a_use(source, tmp_path, capsys):
    (tmp_path / "answers.txt").write_text("yes\nno")
    out, answers = tmp_path / "out", ["--answers", tmp_path / "answers.txt"]
    (tmp_path / "huge.pt").write_bytes(b"PK")
    said = says(capsys, "albef", tmp_path / "huge.pt", out, *answers)  # before the file is read
    assert "--answers: of no use for the layout albef (official ALBEF, pre-training); it is for albef-vqa, vilt" in said
    assert "--answers: of no use" in says(capsys, "auto", source[0], out, *answers)
    assert "--activation: of no use" in says(capsys, "auto", source[0], out, "--activation", "gelu")
    assert "--text-heads: of no use for the layout vilt" in says(capsys, "vilt", source[0], out, "--text-heads", 2)
    model = transformers.ViltForImageAndTextRetrieval(theirs().config)
    model.save_pretrained(tmp_path / "theirs")
    said = says(capsys, "vilt-transformers", tmp_path / "theirs", out, *answers)
    assert "model.safetensors, as vilt-transformers: --answers: this ViLT has no classifier of answers" in said


class Script(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.conv1(x)


def test_a_torchscript_archive_is_told_from_damage(tmp_path):
    torch.jit.script(Script()).save(tmp_path / "ViT-B-32.pt")
    with pytest.raises(
        UserError, match=r"ViT-B-32\.pt: refused\. This is a TorchScript archive: it holds a pro"
    ) as said:
        read_checkpoint(tmp_path / "ViT-B-32.pt")
    for way in ("hf:openai/clip-vit-base-patch32", "open_clip:ViT-B-32/openai", "state_dict", "safetensors"):
        assert way in str(said.value)
    assert "weights_only" not in str(said.value)


class Odd:
    def __reduce__(self):
        return print, ("it ran",)


def test_no_advice_to_read_unsafely_is_passed_on(tmp_path, capsys):
    kinds = {"new.pth": {}, "old.pth": {"_use_new_zipfile_serialization": False}}
    for name, how in kinds.items():
        torch.save({"model": {"a": torch.zeros(1)}, "x": Odd()}, tmp_path / name, **how)
    for protocol in (0, 2, 4):
        (tmp_path / f"{protocol}.pth").write_bytes(pickle.dumps({"x": Odd()}, protocol=protocol))
    torch.save({"a": torch.zeros(300)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:900])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "words.pth").write_text("nothing of the kind")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a/readme.txt", "x")
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(UserError, match=rf"{path.name}: (refused|damaged)") as said:
            read_checkpoint(path)
        for word in ("weights_only", "safe_globals", "arbitrary code execution"):
            assert word not in str(said.value), path.name
    assert "it ran" not in capsys.readouterr().out


def test_a_strange_file_is_told_by_its_keys(source, tmp_path, capsys):
    path, state, _ = source
    out, lacks = tmp_path / "out", "text_encoder.cls.predictions.bias"
    save_file({k: v for k, v in state.items() if k != lacks}, tmp_path / "b.safetensors")
    assert "b.safetensors: is not of the layout albef; it has itm_head.bias, " in says(
        capsys, "albef", tmp_path / "b.safetensors", out
    )
    save_file({"strange.weight": torch.zeros(2)}, tmp_path / "d.safetensors")
    said = says(capsys, "auto", tmp_path / "d.safetensors", out)
    assert "its layout cannot be guessed; it has strange.weight. The layouts that mmkit knows: albef, albef-vqa" in said
    assert "is not of the layout albef-vqa; it looks like albef (official ALBEF, pre-training)" in says(
        capsys, "albef-vqa", path, out
    )


def test_a_key_too_much_is_said_with_file_and_layout(source, tmp_path, capsys):
    path, state, _ = source
    save_file(state | {"extra.x": torch.zeros(1)}, path)
    said = says(capsys, "auto", path, tmp_path / "out", "--image-heads", 2, "--text-heads", 2)
    assert said.endswith(f"{path}, as albef: the checkpoint does not have this layout: unknown extra.x")


def test_what_is_dropped_is_printed(tokenizer, tmp_path, capsys):
    model = random_weights(transformers.ViltForQuestionAnswering(theirs().config))
    model.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/model.safetensors"
    save_file(load_file(file) | {"mpp_score.bias": torch.zeros(2)}, file)
    said = says(capsys, "auto", file, tmp_path / "out", "--tokenizer", tokenizer(WORDS), code=0)
    assert "dropped: the head of masked patch prediction (1 tensors: mpp_score.bias)" in said
    assert list(json.loads((tmp_path / "out/conversion.json").read_text())["dropped"]) == ["mpp_score.bias"]


def test_a_hub_that_does_not_answer_costs_no_minute(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmkit.network.hub_answers", lambda: False)
    begun = time.monotonic()
    said = says(capsys, "albef", source[0], tmp_path / "out", "--image-heads", 2, "--text-heads", 2)
    assert "as albef: the tokenizer google-bert/bert-base-uncased is not on this machine" in said
    assert "give --tokenizer FOLDER" in said
    with pytest.raises(UserError, match=r"hf:a/b: not in the cache.*it cannot be reached.*fetch https://"):
        locate("hf:a/b")
    with pytest.raises(UserError, match="no name of the hub"):
        locate("hf:a b/c/d")
    with pytest.raises(
        UserError, match=r"timm:resnet18\.a1_in1: timm has no such model.*did you mean \['resnet18\.a1_in1k'"
    ):
        locate("timm:resnet18.a1_in1")
    with pytest.raises(UserError, match=r"did you mean \['vit_base_patch16_224'"):
        locate("timm:vit_base_patch16_22")
    monkeypatch.setattr("mmkit.convert.locate.cached", lambda repository, names: tmp_path / repository)
    assert locate("timm:resnet18.a1_in1k") == tmp_path / "timm/resnet18.a1_in1k"
    assert locate("hf:a/b") == tmp_path / "a/b"
    assert time.monotonic() - begun < 5


def test_a_hub_that_does_not_answer_is_found_out_at_once(monkeypatch):
    from mmkit.network import hub_answers

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    assert not hub_answers()
    assert time.monotonic() - begun < 5


def test_how_names_are_listed(tmp_path):
    assert listed(2, missing=["a", "b", "c"], unknown=["d"]) == "missing a, b and 1 more; unknown d"
    assert listed(missing=["a"]) == "missing a"
    assert listed() == ""
    for said, expected in (("x", f"{tmp_path}, as y: x"), (f"{tmp_path}: x", f"{tmp_path}: x")):
        with pytest.raises(UserError) as error, about(tmp_path, ", as y"):
            raise UserError(said)
        assert str(error.value) == expected
