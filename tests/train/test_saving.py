"""What a run keeps and takes up again, by stand-ins: random states of each process, the scaler, the best model."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from mmkit.config import Run
from mmkit.files import write_json, write_text
from mmkit.train import saving
from mmkit.train.resuming import Meta
from mmkit.train.saving import Saving


class Scaler:
    loaded = None

    def state_dict(self):
        return {"scale": 4.0}

    def load_state_dict(self, state):
        self.loaded = state


def made(out, **changes):
    run = Run(steps=9, seed=40, best="e.value")
    engine = SimpleNamespace(full_state=lambda: None, whole=lambda first_only: nullcontext())
    parts = dict(engine=engine, scaler=Scaler(), predictor=lambda: "model", save_model=None)
    return Saving(out=out, run=run, experiment={}, **parts | changes)


META = Meta(step=7, world=2, product="highest", precision="fp16", threads=1, records=5, experiment={})


@pytest.mark.parametrize(("states", "seeds", "taken"), [(["a", "b"], [], ["b"]), (["a"], [40 + 7000 + 1], [])])
def test_each_process_takes_up_its_own_random_state_or_has_one_of_its_own(tmp_path, monkeypatch, states, seeds, taken):
    found = {"seeds": [], "taken": [], "loaded": []}
    state = {"rest": {}, "optimizer": {"step": 7}, "scaler": {"scale": 8.0}, "random": states}
    monkeypatch.setattr(saving.resuming, "load_meta", lambda source: META)
    monkeypatch.setattr(saving.checkpoint, "load_state", lambda source: state)
    monkeypatch.setattr(
        saving.checkpoint, "load_into", lambda source, engine, state: found["loaded"].append(state["optimizer"])
    )
    monkeypatch.setattr(saving, "world_size", lambda: 2)
    monkeypatch.setattr(saving, "rank", lambda: 1)
    monkeypatch.setattr(saving, "seed_all", found["seeds"].append)
    monkeypatch.setattr(saving, "set_random_state", found["taken"].append)
    one = made(tmp_path)
    assert one.restore(tmp_path) is META
    assert found == {"seeds": seeds, "taken": taken, "loaded": [{"step": 7}]}
    assert one.scaler.loaded == {"scale": 8.0}
    assert one.saved == 7


def test_after_a_save_the_oldest_go_and_the_model_is_there(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(saving.checkpoint, "save", lambda *args: found.append("state"))
    monkeypatch.setattr(saving.resuming, "rotate", lambda root, keep: found.append((root, keep)))
    one = made(tmp_path, save_model=lambda folder, model, experiment: found.append((folder, model)))
    one.save(META)
    assert found == ["state", (tmp_path / "checkpoints", 2), (tmp_path, "model")]
    assert one.saved == 7


def test_the_scaler_is_saved(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(saving.checkpoint, "save", lambda root, meta, state, scaler: found.append(scaler))
    made(tmp_path).save(META)
    made(tmp_path, scaler=None).save(META)
    assert found == [{"scale": 4.0}, None]


def test_nothing_of_a_half_written_best_model_gets_into_the_next(tmp_path):
    write_json(tmp_path / "data.json", {"records": 5})
    write_text(tmp_path / ".best.part" / "old", "of a process that was killed")
    one = made(tmp_path, save_model=lambda folder, model, experiment: write_text(folder / "model", model))
    one.note_best(4, {"e.value": 0.5})
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["best.json", "data.json", "model"]
    assert [path.name for path in tmp_path.glob(".best*")] == []
