"""ViLT that answers questions: files of transformers and official ones, to a model that answers, and back."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import mmkit
from mmkit.cli.main import main
from mmkit.convert.tables import vilt as convert
from mmkit.convert.tables.table import Dropped, read, write
from mmkit.errors import UserError
from tests.convert.test_family import pictures, random_weights, tower
from tests.parity.measure import assert_near
from tests.parity.measure import assert_same_state as assert_same

OUTPUT = 1e-5
WORDS = 60
ANSWERS = ("yes", "no", "2", "a dog", "red", "on the left", "0")
QUESTIONS = ["What is this?", "is it red", "x", "how many very small dogs are on the left of many other things there"]
layouts = pytest.mark.parametrize("layout", ["vilt", "vilt-transformers"])


def theirs(answers=ANSWERS):
    config = transformers.ViltConfig(
        vocab_size=WORDS, image_size=32, patch_size=8, max_position_embeddings=12, max_image_length=-1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-6,
        id2label=dict(reversed(list(enumerate(answers)))), **tower(),
    )  # fmt: skip
    return random_weights(transformers.ViltForQuestionAnswering(config), std=0.4)


def official(state):
    """The same weights under the official names; the classifier's are written out here."""
    body = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    body |= {f"rank_output.{part}": torch.zeros(shape) for part, shape in (("weight", (1, 32)), ("bias", 1))}
    ours = read_whole(body)
    found = write(convert.table_of_ours(ours, (8, 8), "official"), ours)
    found = {name: value for name, value in found.items() if not name.startswith("rank_output.")}
    return found | {f"vqa_{name}": value for name, value in state.items() if name.startswith("classifier.")}


def published(layout, model, folder):
    """As they are published: the official file alone, that of transformers with its config."""
    folder.mkdir()
    if layout == "vilt-transformers":
        model.save_pretrained(folder)
        return folder / "model.safetensors"
    torch.save({"state_dict": official(model.state_dict()), "epoch": 3}, folder / "vilt_vqa.ckpt")
    return folder / "vilt_vqa.ckpt"


def read_whole(state):
    return read(convert.table(state), state)


def says(capsys, *arguments):
    assert main(["convert", *map(str, arguments)]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parity("ViLT, VQA", "transformers")
@layouts
@torch.no_grad()
def test_it_answers_as_transformers_do_and_goes_back(layout, tokenizer, tmp_path):
    model, words, ours = theirs(), tokenizer(WORDS), tmp_path / "ours"
    source = published(layout, model, tmp_path / "theirs")
    arguments = ["auto", str(source), str(ours), "--tokenizer", words, "--image-heads", "4"]
    if layout == "vilt":
        (tmp_path / "vqa_dict.json").write_text(json.dumps(dict(enumerate(ANSWERS))))
        arguments += ["--answers", str(tmp_path / "vqa_dict.json")]
    assert main(["convert", *arguments]) == 0
    predictor = mmkit.load(ours)
    head = predictor.heads["answer"]
    assert head.answers == ANSWERS

    tokens = transformers.AutoTokenizer.from_pretrained(words)(
        QUESTIONS, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    process = transformers.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    batch = process(pictures(), return_tensors="pt")
    expected = model(**tokens, pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask).logits
    assert expected.std(0).min() > 0.02
    own = predictor.model
    image = own.image_context(own.encode_image(batch.pixel_values, batch.pixel_mask.bool()))
    fused = own.fuse(own.encode_text(tokens.input_ids, tokens.attention_mask.bool()), [image])
    assert_near(head.logits(fused), expected, OUTPUT)
    found = [dict(row) for row in predictor.answer(pictures(), QUESTIONS, top=len(ANSWERS))]
    assert_near(torch.tensor([[row[answer] for answer in ANSWERS] for row in found]), expected.sigmoid(), OUTPUT)

    back = tmp_path / f"back{source.suffix}"
    assert main(["convert", layout, str(ours), str(back), "--reverse"]) == 0
    if layout == "vilt":
        written, was = (torch.load(path, weights_only=True)["state_dict"] for path in (back, source))
    else:
        written, was = load_file(back), load_file(source)
    assert_same(written, was)
    other = {"vilt": "vilt-transformers", "vilt-transformers": "vilt"}[layout]
    crossed = tmp_path / "crossed.safetensors"
    assert main(["convert", other, str(ours), str(crossed), "--reverse"]) == 0
    name = "classifier" if layout == "vilt" else "vqa_classifier"
    assert torch.equal(load_file(crossed)[f"{name}.3.weight"], model.classifier[3].weight)


def test_the_command_asks_it(tokenizer, tmp_path):
    source, words = published("vilt-transformers", theirs(), tmp_path / "theirs"), tokenizer(WORDS)
    ours, picture = tmp_path / "ours", tmp_path / "0.png"
    pictures()[0].save(picture)
    assert main(["convert", "vilt-transformers", str(source), str(ours), "--tokenizer", words]) == 0
    assert main(["vqa", "--model", str(ours), "--image", str(picture), "--question", "what?", "--device", "cpu",
                 "--top", "3", "--json", str(tmp_path / "found.json")]) == 0  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())["answers"]
    expected = mmkit.load(ours).answer([picture], ["what?"], top=3)[0]
    assert [(row["answer"], row["score"]) for row in found] == expected


def test_answers_of_ones_own_take_the_place_of_the_configs(tokenizer, tmp_path):
    source, words = published("vilt-transformers", theirs(), tmp_path / "theirs"), tokenizer(WORDS)
    own = [f"answer {i}" for i in range(len(ANSWERS))]
    (tmp_path / "own.txt").write_text("\n".join(own))
    arguments = ["--tokenizer", words, "--answers", str(tmp_path / "own.txt")]
    assert main(["convert", "auto", str(source), str(tmp_path / "ours"), *arguments]) == 0
    assert mmkit.load(tmp_path / "ours").heads["answer"].answers == tuple(own)


@layouts
def test_without_its_answers_there_is_no_model(layout, tmp_path, capsys):
    source, out = published(layout, theirs([f"LABEL_{i}" for i in range(7)]), tmp_path / "theirs"), tmp_path / "out"
    (tmp_path / "six.txt").write_text("\n".join(ANSWERS[:6]))
    (tmp_path / "odd.json").write_text('{"0": "yes", "2": "no"}')
    heads = ["--image-heads", 4]
    assert "tells 7 answers apart" in (said := says(capsys, layout, source, out, *heads))
    assert "--answers FILE" in said
    said = says(capsys, layout, source, out, *heads, "--answers", tmp_path / "six.txt")
    assert "--answers: 6 answers, and the classifier tells 7 apart" in said
    assert "0, 1, 2" in says(capsys, layout, source, out, "--answers", tmp_path / "odd.json")
    assert not out.exists()


def test_an_answer_that_stands_twice(tokenizer, tmp_path, capsys):
    source, out = published("vilt-transformers", theirs(), tmp_path / "theirs"), tmp_path / "out"
    (tmp_path / "twice.json").write_text(json.dumps([*ANSWERS[:6], "yes"]))
    arguments = ["--tokenizer", tokenizer(WORDS), "--answers", tmp_path / "twice.json"]
    assert "[6]: 'yes' stands in [0] already" in says(capsys, "auto", source, out, *arguments)
    assert not out.exists()


def test_a_config_with_too_few_answers(tmp_path, capsys):
    source = published("vilt-transformers", theirs(), tmp_path / "theirs")
    config = json.loads((source.parent / "config.json").read_text())
    for labels, why in (({"0": "yes", "1": "no"}, "id2label: 2 answers"), ({"1": "yes"}, "id2label: should hold")):
        (source.parent / "config.json").write_text(json.dumps(config | {"id2label": labels}))
        assert f"config.json: {why}" in says(capsys, "auto", source, tmp_path / "out")
    (source.parent / "config.json").unlink()
    assert "no config.json" in says(capsys, "auto", source, tmp_path / "out", "--image-heads", 4)


def test_with_a_matching_layer_there_and_back():
    """A matching layer beside the classifier reads the same pooler; both of ours are given it."""
    state = official(theirs().state_dict())
    state |= {"itm_score.fc.weight": torch.randn(2, 32), "itm_score.fc.bias": torch.randn(2)}
    ours = read_whole(state)
    assert torch.equal(ours["heads.itm.pool.weight"], ours["heads.answer.pool.weight"])
    assert_same(write(convert.table_of_ours(ours, (8, 8), "official"), ours), state)
    for part in ("weight", "bias"):
        changed = ours | {f"heads.answer.pool.{part}": ours[f"heads.answer.pool.{part}"] + 1}
        with pytest.raises(UserError, match="one pooler"):
            convert.table_of_ours(changed, (8, 8), "official")
    bare = {name: value for name, value in ours.items() if not name.startswith("heads.answer.pool")}
    with pytest.raises(UserError, match="pooler=True"):
        convert.table_of_ours(bare, (8, 8), "transformers")


def test_classifiers_of_other_tasks_are_left_or_refused(tmp_path, capsys):
    config = theirs().config
    config.num_images, config.num_labels = 2, 2
    model = transformers.ViltForImagesAndTextClassification(config)
    model.save_pretrained(tmp_path / "alike")
    said = says(capsys, "auto", tmp_path / "alike", tmp_path / "out")
    assert "classifier.0.weight reads 2 pictures at once" in said
    assert "ViltForImagesAndTextClassification" in said
    words = transformers.ViltForTokenClassification(config).state_dict()
    assert {row.theirs for row in convert.table(words) if isinstance(row, Dropped)} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    config.modality_type_vocab_size = 3  # as NLVR2 is published
    model = transformers.ViltForImagesAndTextClassification(config)
    model.save_pretrained(tmp_path / "theirs")
    model.classifier = torch.nn.Identity()
    model.save_pretrained(tmp_path / "bare")
    for folder in ("theirs", "bare"):
        assert "several pictures (NLVR2" in says(capsys, "auto", tmp_path / folder, tmp_path / "out")
    assert "token_type_embeddings.weight: 3 rows" in says(capsys, "auto", tmp_path / "bare", tmp_path / "out")


def test_a_broken_classifier_is_an_error():
    state = theirs().state_dict()
    with pytest.raises(UserError, match=r"missing classifier\.1\.bias"):
        read_whole({name: value for name, value in state.items() if name != "classifier.1.bias"})
    with pytest.raises(UserError, match=r"unknown classifier\.5\.weight"):
        read_whole(state | {"classifier.5.weight": torch.zeros(1)})
