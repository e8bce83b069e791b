"""A run's forecast, and the command that says it."""

import json
from dataclasses import replace
from functools import partial

import pytest

from mmkit.cli import main
from mmkit.config import load_experiment
from mmkit.config.experiment import BatchPlan
from mmkit.data.texts.tokenizers import from_hub
from mmkit.errors import UserError
from mmkit.train.needs import ask, trial
from mmkit.train.needs.ask import BERT, Question, forecasts, machine_of
from mmkit.train.needs.decoding import pictures_a_second
from mmkit.train.needs.devices import DEVICES, find, peak_of
from mmkit.train.needs.forecast import Forecast, Machine, settings_of
from mmkit.train.needs.invented import photograph
from mmkit.train.needs.memory import Sizes
from mmkit.train.needs.trial import Passed
from tests.train.fakes import change, tiny

MIB = 2**20
CARD = Machine(name="x", world=1, node=1, memory_gib=10.0, flops=1e12, precision="bf16")
PLAIN = Forecast(
    name="mine", machine=CARD, batch=BatchPlan(rank_batch=100, accumulation_steps=1, global_batch=100, world=1),
    sizes=Sizes(trained=10**8, frozen=0, teacher=0, buffers=0, gathered=0, passing=0, entered=0),
    passed=Passed(size=100, bytes=2000 * MIB, flops=100 * 10**9), slope=10.0 * MIB, engine="ddp", records=1000,
    steps=500, minutes=None, a_core=50.0, kept=2, models=1,
)  # fmt: skip


def test_rates_hours_and_disk():
    assert PLAIN.flops_a_sample == 10**9
    assert PLAIN.rate(0.4) == 400
    assert PLAIN.hours(0.4) == 500 * 100 / 400 / 3600
    assert replace(PLAIN, minutes=90).hours(0.4) == 1.5
    assert replace(PLAIN, machine=replace(CARD, world=8)).rate(0.4) == 3200
    unknown = replace(PLAIN, machine=replace(CARD, flops=None))
    assert (unknown.rate(0.4), unknown.hours(0.4), replace(PLAIN, steps=0).hours(0.4)) == (None, None, None)
    assert PLAIN.disk == 3 * 12 * 10**8 + 2 * 4 * 10**8
    numbers = PLAIN.numbers()
    assert numbers["decode.cores_a_process.at_40"] == 8
    assert numbers["samples_per_second.at_55"] == pytest.approx(550)
    assert numbers["index_gib"] == 100_000 / 2**30
    assert not {"samples_per_second.at_40", "records"} & replace(unknown, records=None).numbers().keys()


def test_the_largest_batch_is_the_last_that_fits():
    most = PLAIN.largest("ddp")
    assert PLAIN.memory("ddp", most) <= 10 < PLAIN.memory("ddp", most + 1)
    assert most > 100
    assert PLAIN.memory("ddp", 101) - PLAIN.memory("ddp", 100) == pytest.approx(10 / 1024 / 0.95)
    assert replace(PLAIN, machine=replace(CARD, memory_gib=2.0)).largest("ddp") == 0


def test_heads_that_contrast_meet_the_samples_of_all_processes():
    several = replace(PLAIN, machine=replace(CARD, world=3))
    more = replace(several, contrasts=True).memory("ddp") - several.memory("ddp")
    assert more == pytest.approx(6 * 4 * 100 * 200 / 2**30 / 0.95)


def test_its_lines():
    text = "\n".join(PLAIN.lines())
    for part in (
        "mine: 1 x x (10 GiB), 1 on a node, precision bf16, engine ddp",
        "batch: 100 a forward x 1 accumulated x 1 processes = 100 a step", "parameters: 100.0 M trained",
        "(the engine of this run)", "keeps 1.95 for its backward pass, 10.0 MiB each",
        "at 40% of it: 400 samples/s, 0.25 s a step, 2.1 minutes; 8.0 cores a process",
        "length: 500 steps over 1,000 records, each 50.00 times", "at most 4.1 for all that is kept",
    ):  # fmt: skip
        assert part in text, part
    assert "fsdp" not in text
    assert "does not fit" not in text
    several = "\n".join(replace(PLAIN, machine=replace(CARD, world=16, node=8)).lines())
    assert "ddp 0.75 (0.75 leave a node), fsdp" in several
    assert "the peak of x in bf16 is not known" in "\n".join(replace(PLAIN, machine=replace(CARD, flops=None)).lines())


def test_what_does_not_fit_is_refused_with_what_helps():
    assert PLAIN.refusal() is None
    small = replace(PLAIN, machine=replace(CARD, memory_gib=3.0), remedies=("data.rank_batch=5",))
    assert not small.fits
    assert small.refusal() == "mine: a process needs 4.7 GiB, and x has 3.0. What helps: data.rank_batch=5"
    assert "does not fit" in "\n".join(small.lines())


# ---- devices ---------------------------------------------------------------------------------------------------


def test_the_table_of_devices():
    names = [name for device in DEVICES for name in (device.name, *device.names)]
    assert len(set(names)) == len(names)
    assert find("H100").tflops == 989.5
    assert find("a100_80").memory_gib == 80
    with pytest.raises(UserError, match="--device h10: not in the table; did you mean h100"):
        find("h10")
    assert peak_of("NVIDIA H100 80GB HBM3", "bf16") == 989.5e12
    assert peak_of("NVIDIA H100 80GB HBM3", "no") is None
    assert peak_of("NVIDIA H100 of another make", "bf16") is None
    assert (peak_of("Tesla T4", "bf16"), peak_of("Tesla T4", "fp16")) == (None, 65e12)


@pytest.mark.parametrize(("device", "precision", "has", "flops"), [
    ("h100", "auto", "bf16", 989.5e12), ("h100", "no", "no", None), ("v100", "auto", "no", None),
    ("v100", "fp16", "fp16", 125e12), ("h100", "fp16", "fp16", 989.5e12),
])  # fmt: skip
def test_the_precision_that_a_run_has_on_a_card(device, precision, has, flops):
    machine = machine_of(tiny(run=dict(precision=precision)), Question(device=device, world=4))
    assert (machine.precision, machine.flops, machine.world, machine.node) == (has, flops, 4, 4)


def test_a_card_of_ones_own_and_this_machine():
    exp = tiny(run=dict(precision="auto"))
    own = machine_of(exp, Question(device="mine", memory_gib=64, tflops=100, world=16))
    assert (own.name, own.memory_gib, own.flops, own.node, own.gpu) == ("mine", 64, 1e14, 8, True)
    with pytest.raises(UserError, match=r"not in the table\. It has b200, "):
        machine_of(exp, Question(device="mine", memory_gib=64))
    with pytest.raises(UserError, match="v100 does not have it"):
        machine_of(tiny(run=dict(precision="bf16")), Question(device="v100"))
    here = machine_of(tiny(), Question(device="cpu", world=2, tflops=0.5))
    assert (here.gpu, here.precision, here.flops) == (False, "no", 5e11)
    assert here.memory_gib == pytest.approx(machine_of(tiny(), Question(device="cpu")).memory_gib / 2)


# ---- of experiments --------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """The parts that take seconds."""
    calls = []

    def tried(exp, task, size, *, gpu, precision, words):
        calls.append((exp, size, gpu, precision))
        checkpointing = exp.model.keywords.get("checkpointing", False) or exp.run.chunks > 1
        side = exp.data.image_size
        return Passed(size=size, bytes=round((100 + 200 * size) * MIB * (side / 32) ** 2 / (4 if checkpointing else 1)),
                      flops=10**9 * size)  # fmt: skip

    monkeypatch.setattr(trial, "tried", tried)
    monkeypatch.setattr(ask, "pictures_a_second", lambda exp: 100.0)
    return calls


def one(exp, **question):
    (found,) = forecasts(exp, Question(**question))
    return found


def test_clips_are_told_as_clips(quick):
    video = one(load_experiment("configs/pretrain/video.py:mini"), records=1000)
    assert any("(one core here: 100 clips/s;" in line for line in video.lines())
    assert one(tiny(), records=1000).shown == "pictures"


def test_a_forecast_of_an_experiment(quick):
    found = one(tiny(), world=2)
    assert [(size, gpu, precision) for _, size, gpu, precision in quick] == [(4, True, "no"), (2, True, "no")]
    assert found.slope == 200 * MIB
    assert (found.records, found.steps, found.batch.rank_batch, found.contrasts) == (40, 12, 4, True)
    assert (found.kept, found.models, found.engine, found.notes) == (2, 1, "ddp", ())
    epochs = one(change(tiny(), run=dict(steps=None, epochs=3)), records=80)
    assert (epochs.records, epochs.steps) == (80, 30)
    assert settings_of(change(tiny(), run=dict(best="x.y")))["models"] == 2


def absent(**_):
    raise UserError("x.jsonl: no such file")


def test_what_is_not_known_is_said_and_nothing_is_downloaded(quick):
    exp = change(tiny(), data=dict(train=partial(absent)), run=dict(steps=None, epochs=3))
    found = one(exp)
    assert (found.records, found.steps) == (None, 0)
    assert found.notes == ("records are not counted (x.jsonl: no such file): give --records N for steps and hours",)
    assert one(exp, records=80).notes == ()
    hub = one(change(exp, data=dict(train=partial(lambda path: absent(), path="hf:somebody/pictures"))))
    assert hub.notes[0].startswith("records that lie on the hub")
    bert = change(tiny(), tokenizer=partial(from_hub, name="bert-base-uncased"))
    assert any("30,522 words" in note for note in one(bert).notes)
    assert one(bert, vocabulary=60).notes == ()
    assert one(bert).sizes.trained - one(bert, vocabulary=60).sizes.trained == (BERT - 60) * 33  # a word and its bias


def test_remedies_have_the_numbers_that_fit(quick):
    exp = change(tiny(), data=dict(rank_batch=8, global_batch=None))
    need = one(exp, world=2).memory("ddp")
    found = one(exp, world=2, device="mine", tflops=1, memory_gib=need - 0.5)
    assert not found.fits
    assert found.remedies[0].startswith("data.rank_batch=4 data.accumulation_steps=2 (the same step; 2.4 GiB")
    assert found.memory("ddp", 4, 2) <= need - 0.5
    assert any(remedy.startswith("run.chunks=4 (1.9 GiB") for remedy in found.remedies)
    assert any(remedy.startswith("model.checkpointing=true (1.9 GiB") for remedy in found.remedies)
    tight = one(exp, world=2, device="mine", tflops=1, memory_gib=1.6)
    assert tight.remedies == ()
    assert "nothing helps but a card with more memory" in tight.refusal()


def test_the_other_engines_and_smaller_pictures_are_remedies_too(quick, monkeypatch):
    big = change(tiny(), model=partial(tiny().model, image_size=256), data=dict(image_size=256))
    found = one(big, device="mine", tflops=1, memory_gib=50)
    assert any("model.image_size=160 data.image_size=160" in remedy for remedy in found.remedies)
    monkeypatch.setattr(ask.Forecast, "memory", lambda self, engine, *_: {"ddp": 9.0, "fsdp": 3.0, "hsdp": 5.0}[engine])
    found = one(tiny(), world=2, device="mine", tflops=1, memory_gib=4)
    assert [remedy for remedy in found.remedies if "engine" in remedy] == ["run.engine=fsdp (3.0 GiB)"]


def test_pictures_are_counted_in_this_processs_own_time():
    jpeg = photograph(40, 60)
    assert jpeg[:2] == b"\xff\xd8"
    exp = change(tiny(), data=dict(image_size=512))
    pictures_a_second(exp, 0)  # the first pictures load libraries
    small = pictures_a_second(tiny(), 0.05)
    assert small > 2 * pictures_a_second(exp, 0.05) > 0


# ---- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from mmkit.config import Experiment\nfrom tests.train.fakes import tiny\n\n\n"
        "def mine(size: int = 32) -> Experiment:\n    return tiny()\n"
    )
    return str(file)


def test_the_command(config, tmp_path, capsys, quick):
    out = tmp_path / "plan.json"
    assert (
        main(["plan", config, "--world", "2", "--device", "a100-40", "--set", "run.steps=7", "--json", str(out)]) == 0
    )
    numbers = json.loads(out.read_text())
    assert numbers["world"] == 2
    assert numbers["steps"] == 7
    assert numbers["gib"]["process"]["ddp"] == pytest.approx(
        1.5 + (900 / 1024 + numbers["gib"]["state"]["ddp"]) / 0.95, 0.001
    )
    assert "tiny: 2 x a100-40" in capsys.readouterr().out


def test_the_command_refuses_what_cannot_fit_after_saying_why(config, tmp_path, capsys, quick):
    out = tmp_path / "plan.json"
    code = main(["plan", config, "--device", "x", "--tflops", "1", "--memory", "2", "--json", str(out)])
    said = capsys.readouterr()
    assert code == 2
    assert "does not fit" in said.out
    assert "tiny: a process needs 3.2 GiB, and x has 2.0. What helps: data.rank_batch=" in said.err
    assert json.loads(out.read_text())["fits"] is False


@pytest.mark.parametrize(("words", "message"), [
    (["--world", "0"], "--world 0: must be greater than 0"), (["--memory", "-1"], "--memory -1.0"),
    (["--gpus-per-node", "0"], "--gpus-per-node 0"), (["--device", "tpu"], "--device tpu: not in the table"),
    (["--world", "3"], "data.global_batch = 8 is not rank_batch"), (["--records", "nan"], None),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(config, capsys, words, message, quick):
    if message is None:
        with pytest.raises(SystemExit):
            main(["plan", config, *words])
        return
    assert main(["plan", config, *words]) == 2
    assert message in capsys.readouterr().err
