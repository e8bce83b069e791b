"""Every function in configs/ makes an experiment that validates, survives JSON, and takes two steps."""

import inspect
import json
import runpy
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

import mmkit
from mmkit.cli import main
from mmkit.config import Experiment, dump, load_experiment, official_rules, override, rebuild, validate
from mmkit.hub import folder as hub
from mmkit.train.loop import train
from mmkit.train.stages import train_stages

ROOT = Path(__file__).parent.parent / "configs"
SMALL = ["data.global_batch=4", "data.workers=0", "run.steps=2", "run.save_every_steps=0", "run.trackers=[]"]


def functions():
    for path in sorted(ROOT.rglob("*.py")):
        for name, value in runpy.run_path(str(path)).items():
            if inspect.isfunction(value) and value.__module__ == "<run_path>" and not name.startswith("_"):
                required = [p for p in inspect.signature(value).parameters.values() if p.default is p.empty]
                yield pytest.param(f"{path}:{name}", required, id=f"{path.relative_to(ROOT)}:{name}")


@pytest.mark.parametrize(("spec", "required"), list(functions()))
def test_it_is_an_experiment_that_survives_json(spec, required):
    if required:
        pytest.skip(f"needs {', '.join(p.name for p in required)}")
    experiment = validate(load_experiment(spec))
    assert isinstance(experiment, Experiment)
    again = rebuild(json.loads(json.dumps(dump(experiment))))
    assert dump(again) == dump(experiment)


def test_the_quickstart_takes_two_steps_of_each_stage(tmp_path):
    experiment = override(
        load_experiment(f"{ROOT}/quickstart.py:quickstart(size=36, kinds=8)"),
        [
            *SMALL, *(f"first.{change}" for change in SMALL), "data.train.n=40", "first.data.train.n=40",
            "first.evals.retrieval.source.n=6", "first.evals.retrieval_zh.source.n=6", "evals.vqa.source.n=12",
            "report.source.n=12", "first.report.source.n=6", "first.report.zeroshot.unseen=null",
        ],
    )  # fmt: skip
    metrics = train_stages(experiment, tmp_path / "run", save_model=hub.save)
    assert metrics["step"] == metrics["vqa.step"] == 2
    assert metrics["vqa.n"] == 12
    page = tmp_path / "run" / "report.html"
    first = page.read_text()
    assert "Questions about held-out scenes" in first
    page.unlink()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert page.read_text() == first


@pytest.mark.parametrize("name", ["classifier", "decoder"])
def test_easy_vqa_takes_two_steps_of_each_stage(name, tmp_path):
    experiment = override(
        load_experiment(f"{ROOT}/finetune/easy_vqa.py:{name}"),
        [*SMALL, *(f"first.{change}" for change in SMALL), "evals.vqa.source.n=12"],
    )
    metrics = train_stages(experiment, tmp_path / "run", save_model=hub.save)
    assert metrics["n"] == 12
    assert {"by_type.color", "pretrain.seen.top1", "pretrain.held_out.top1"} <= metrics.keys()


@pytest.mark.parametrize("name", ["classifier", "decoder"])
def test_vqa_reads_its_answers(name, tmp_path):
    (tmp_path / "answers.txt").write_text("yes\nno\n2\n")
    experiment = validate(load_experiment(f"{ROOT}/finetune/vqa.py:{name}(answers='{tmp_path}/answers.txt')"), world=8)
    assert experiment.heads["answer"].keywords["answers"] == ("yes", "no", "2")
    assert dump(rebuild(json.loads(json.dumps(dump(experiment))))) == dump(experiment)


@pytest.mark.parametrize("name", ["albef", "vilt", "clip", "siglip"])
def test_the_family_takes_two_steps_on_the_scenes(name, tmp_path):
    spec = f"{ROOT}/pretrain/{name}.py:mini(size=48, kinds=8)"
    small = [*SMALL, "data.train.n=40", "evals.retrieval.source.n=6"]
    metrics = train(override(load_experiment(spec), small), tmp_path / "run")
    assert metrics["step"] == 2
    assert 0 <= metrics["retrieval.t2i_r1"] <= 1
    assert metrics["zeroshot.classes"] == 8


RECORDS = ["albef.py:base", "albef.py:small", "vilt.py:base", "clip.py:base", "clip.py:lit", "siglip.py:base"]


@pytest.mark.parametrize("name", RECORDS)
def test_recipes_on_records_survive_json(name):
    experiment = validate(load_experiment(f"{ROOT}/pretrain/{name}(records='train.jsonl')"), world=8)
    assert dump(rebuild(json.loads(json.dumps(dump(experiment))))) == dump(experiment)


def test_albef_on_records_takes_two_steps(tmp_path):
    for i in range(8):
        Image.new("RGB", (40, 30), (30 * i, 0, 0)).save(tmp_path / f"{i}.png")
    lines = [json.dumps({"image": f"{i}.png", "caption": f"shade {i} of red, two words {i * 7}"}) for i in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    spec = f"{ROOT}/pretrain/albef.py:small(records='{tmp_path}/train.jsonl', res=32, vocab_size=60, epochs=1)"
    experiment = override(load_experiment(spec), ["data.global_batch=4", "data.workers=0", "run.trackers=[]"])
    assert train(experiment, tmp_path / "run")["step"] == 2


def test_the_paper_decays_as_its_code_does():
    """Everything but what is a vector or a bias: the temperature, [CLS] and the positions too."""
    from configs.pretrain.albef import base

    assert base().optim.rules == official_rules()


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Pictures of one's own: sixteen to train in each form that is read, a test set, two class folders."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for i in range(16):
        colour = "red" if i % 2 else "blue"
        file = folder / "classes" / colour / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, i, 0) if i % 2 else (0, i, 200)).save(file)
        rows.append({"image": str(file.relative_to(folder)), "caption": f"{colour}, number {i}"})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, mark in (("train.csv", ","), ("test.csv", ","), ("train.tsv", "\t")):
        lines = [[row["image"], f'"{row["caption"]}"'] for row in (rows[:6] if name == "test.csv" else rows)]
        (folder / name).write_text("\n".join(mark.join(line) for line in [["image", "caption"], *lines]))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    for row in rows:
        (folder / "pictures").mkdir(exist_ok=True)
        name = Path(row["image"]).name
        (folder / "pictures" / name).write_bytes((folder / row["image"]).read_bytes())
        (folder / "pictures" / name).with_suffix(".txt").write_text(row["caption"])
    return folder


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.tsv", "train.parquet", "pictures"])
def test_albef_mini_reads_own_pictures_in_each_form(own_data, name):
    experiment = validate(load_experiment(f"{ROOT}/pretrain/albef.py:mini(records='{own_data / name}')"))
    assert dump(rebuild(json.loads(json.dumps(dump(experiment))))) == dump(experiment)
    captions = sorted(caption for record in experiment.data.train() for caption in record.captions)
    assert captions == sorted(f"{'red' if i % 2 else 'blue'}, number {i}" for i in range(16))


def test_own_pictures_to_a_report_which_is_written_again(own_data, tmp_path, capsys):
    """With its test set and its class folders; and by ``mmkit report`` when it is lost, with others if wished."""
    call = f"records='{own_data}/train.csv', test='{own_data}/test.csv', classes='{own_data}/classes', size=24"
    out = tmp_path / "run"
    small = ["data.global_batch=4", "run.steps=2", "run.trackers=[]", "optim.warmup_frac=0"]
    assert main(["train", f"{ROOT}/pretrain/albef.py:mini({call})", "--out", str(out), "--set", *small]) == 0
    page = out / "report.html"
    first = page.read_text()
    assert "blue, number" in first
    assert "16 pictures, 2 classes" in first
    page.unlink()
    numbers = tmp_path / "numbers.json"
    assert main(["report", str(out), "--json", str(numbers)]) == 0
    assert page.read_text() == first
    found = json.loads(numbers.read_text())
    assert found["zeroshot.top1"] == json.loads((out / "numbers.json").read_text())["zeroshot.top1"]
    assert main(["report", str(out), "--data", str(own_data / "train.jsonl")]) == 0
    assert "16 pictures, 2 classes" in page.read_text()
    assert page.read_text() != first
    assert main(["report", str(own_data)]) == 2
    assert "not the folder of a run" in capsys.readouterr().err
    answers_twelve_questions(own_data, out, tmp_path)


def answers_twelve_questions(own_data, start, tmp_path):
    """From the pre-trained model to one that answers, its model and words never named."""
    rows = [
        f"classes/{'red' if i % 2 else 'blue'}/{i}.png,what colour?,{'red' if i % 2 else 'blue'}" for i in range(12)
    ]
    (own_data / "asked.csv").write_text("\n".join(["image,question,answers", *rows]))
    spec = f"{ROOT}/finetune/vqa.py:mini(records='{own_data}/asked.csv', start='{start}', size=24)"
    out = tmp_path / "asked"
    small = ["run.steps=2", "run.trackers=[]", "optim.warmup_frac=0"]
    assert main(["train", spec, "--out", str(out), "--set", *small]) == 0
    assert json.loads((out / "experiment.json").read_text())["args"]["data"]["args"]["global_batch"] == 12
    assert set(mmkit.load(out).heads["answer"].answers) == {"red", "blue"}
    assert "Questions of yours" in (out / "report.html").read_text()
