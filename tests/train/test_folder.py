"""Whose a folder is: nothing of the user's is touched, one run writes at a time, an abandoned one is begun again."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mmkit import files
from mmkit.errors import UserError
from mmkit.files import write_json
from mmkit.hub import folder as hub
from mmkit.train import folder, lock, loop
from mmkit.train.folder import look
from mmkit.train.loop import train
from mmkit.train.stages import train_stages
from tests.train.fakes import Squares, change, tiny, weights
from tests.train.test_stages import two_stages

ROOT = Path(__file__).parents[2]
THEIRS = (
    "checkpoints/my_gan_epoch200.pth", "checkpoints/step-00000001/notes.txt", "tokenizer/mine.json",
    "tensorboard/events", "metrics.jsonl", "model.safetensors", "best.json", "numbers.json", "experiment.json",
    "command.txt", "thesis.txt", ".hidden", "best/model.safetensors",
)  # fmt: skip


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"precious {name}")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def abandoned(out):
    """A run that stopped before its first checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "take_step", lambda self, batches: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            train(tiny(), out)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, name, resume):
    put(tmp_path, name)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"is not empty \(.+\), and no unfinished run of mmkit .*; nothing was touched"):
        train(tiny(run=dict(steps=3)), tmp_path, resume)
    assert contents(tmp_path) == before


def test_a_saved_model_is_kept_even_as_the_one_to_start_from(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path / "run", save_model=hub.save)
    model = tmp_path / "model"
    hub.save(model, hub.load(tmp_path / "run"), json.loads((tmp_path / "run" / "experiment.json").read_text()))
    before = contents(model)
    with pytest.raises(UserError, match="is not empty"):
        train(tiny(init={"model": str(model)}), model)
    assert contents(model) == before


def test_a_run_without_its_checkpoints_keeps_its_model(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path, save_model=hub.save)
    shutil.rmtree(tmp_path / "checkpoints")
    before = contents(tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match="is not empty"):
            train(tiny(run=dict(steps=3)), tmp_path, resume)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("steps", [3, 12])
def test_a_run_is_not_begun_again(tmp_path, steps):
    train(tiny(run=dict(stop_after_steps=3, steps=steps)), tmp_path)
    before = contents(tmp_path)
    state = "a finished run" if steps == 3 else "a run already"
    with pytest.raises(UserError, match=rf"holds {state} \(step-00000003\); add --resume .* or give another --out"):
        train(tiny(), tmp_path)
    assert contents(tmp_path) == before


def test_only_a_torn_checkpoint_is_refused_by_name(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path)
    (tmp_path / "checkpoints" / "step-00000003" / "state.pt").unlink()
    before = contents(tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match="of its checkpoints step-00000003 not all files are there and whole"):
            train(tiny(run=dict(steps=3)), tmp_path, resume)
    assert contents(tmp_path) == before


def test_an_abandoned_run_is_begun_again(tmp_path):
    abandoned(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("left behind\n")
    put(tmp_path / "run", "tensorboard/events.out.tfevents.1.host")
    (tmp_path / "run" / "checkpoints" / ".part-00000005").mkdir()
    (tmp_path / "run" / "checkpoints" / ".part-00000005" / "state.pt").touch()
    train(tiny(run=dict(steps=3)), tmp_path / "run")
    train(tiny(run=dict(steps=3)), tmp_path / "new")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "new")
    assert all(one[name].equal(other[name]) for name in one)
    assert not (tmp_path / "run" / "tensorboard" / "events.out.tfevents.1.host").exists()
    assert "left behind" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert len((tmp_path / "run" / "command.txt").read_text().splitlines()) == 2
    assert not (tmp_path / "run" / "checkpoints" / ".part-00000005").exists()


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "tokenizer/mine.json", "tensorboard/events", "checkpoints/my_gan.pth", "tensorboard/deep/x", ".x",
     "checkpoints/.mine/deep/x", "tokenizer.json"],
)  # fmt: skip
def test_what_lies_in_an_abandoned_run_is_kept(tmp_path, name):
    abandoned(tmp_path)
    put(tmp_path, name)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"is not empty \({name}\)"):
        train(tiny(), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("link", [True, False])
def test_an_empty_folder_and_a_link_in_an_abandoned_run_are_kept(tmp_path, link):
    abandoned(tmp_path / "run")
    (tmp_path / "there").mkdir()
    place = tmp_path / "run" / "pictures"
    place.symlink_to(tmp_path / "there") if link else place.mkdir()
    with pytest.raises(UserError, match=r"is not empty \(pictures\)"):
        train(tiny(), tmp_path / "run")
    assert place.is_dir()


def test_an_abandoned_run_stays_until_the_new_one_is_sure_to_start(tmp_path):
    abandoned(tmp_path)
    before = contents(tmp_path)
    for wrong in (
        dict(data=dict(train=partial(Squares, 3))), dict(heads={}), dict(init={"model": str(tmp_path / "none")}),
    ):  # fmt: skip
        with pytest.raises(UserError):
            train(tiny(**wrong), tmp_path)
        assert contents(tmp_path) == before


def test_what_came_to_be_there_meanwhile_is_kept(tmp_path):
    abandoned(tmp_path)
    put(tmp_path, "thesis.txt")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"thesis\.txt came to be there meanwhile"):
        folder.start(tmp_path, {}, {}, fresh=True, apart=())
    assert contents(tmp_path) == before


def test_the_best_that_stands_beside_the_best_model_counts(tmp_path):
    """A process may be killed between the model and the file in the run's folder."""
    facts = {"metric": "m", "is": "lowest", "value": 0.9, "step": 2}
    write_json(tmp_path / "best.json", facts)
    assert folder.read_best(tmp_path, "m", "lowest") == (0.9, 2)
    write_json(tmp_path / "best" / "best.json", facts | {"value": 0.1, "step": 4})
    assert folder.read_best(tmp_path, "m", "lowest") == (0.1, 4)
    assert folder.read_best(tmp_path, "m", "highest") is None
    assert folder.read_best(tmp_path, "other", "lowest") is None


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="fewer than one step"):
        train(tiny(data=dict(global_batch=64)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="fewer than one step"):
        train(tiny(data=dict(global_batch=64)), tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def begun(out, **experiment):
    """The files of a run that stopped before its first checkpoint, without running one."""
    write_json(out / "experiment.json", experiment or {"args": dict.fromkeys(("model", "data", "run", "name"))})
    put(out, "command.txt")


@pytest.mark.parametrize("name", [
    "versions.json", "data.json", "metrics.jsonl", "metrics.part", ".versions.json.0123456789ab.part",
    "..mmkit-launcher.0123456789ab.part",
    ".metrics.jsonl.part", "tensorboard/events.out.tfevents.1.h", "checkpoints/.part-00000005/state.pt",
    "checkpoints/.step-00000005.0123456789ab.gone/meta.json", "tokenizer/sentencepiece.model", "tokenizer/vocab.txt",
    "tokenizer/framing.json", "tokenizer/chat_template.jinja", ".tokenizer.part/merges.txt", ".mmkit-lock",
    ".mmkit-starting/tokenizer/vocab.txt", "Thumbs.db", "desktop.ini",
])  # fmt: skip
def test_what_a_run_leaves_is_known_by_its_name(tmp_path, name):
    begun(tmp_path)
    put(tmp_path, name)
    assert folder.foreign(tmp_path) == []
    assert look(tmp_path, resume=False) is None


@pytest.mark.parametrize("name", [
    "experiment.json.bak", "my-metrics.jsonl", "metrics.jsonl.gz", "command.txt~", "data.json.old", "mymodel.part",
    "checkpoints/step-00000005", "checkpoints/last.ckpt", "tokenizer/vocab.txt.bak", "tokenizer/sub/vocab.txt",
    "tensorboard/events.out.tfevents.1/x", "mmkit-lock", "data", "versions.yaml", "numbers.json", "best.json",
])  # fmt: skip
def test_what_no_run_leaves_is_foreign(tmp_path, name):
    begun(tmp_path)
    put(tmp_path, name)
    assert folder.foreign(tmp_path) == [name]


def test_a_run_that_was_killed_in_its_first_file_is_begun_again(tmp_path):
    part = ".experiment.json.0123456789ab.part"
    put(tmp_path / "run", part)
    assert folder.foreign(tmp_path / "run") == []
    assert look(tmp_path / "run", resume=False) is None
    folder.start(tmp_path / "run", {"args": {}}, {}, True, ())
    assert not (tmp_path / "run" / part).exists()
    put(tmp_path / "other", part, "notes.txt", ".experiment.json.part", ".data.json.0123456789ab.part")
    assert folder.foreign(tmp_path / "other") == [".data.json.0123456789ab.part", ".experiment.json.part", "notes.txt"]
    put(tmp_path / "deep", f"{part}/notes.txt")
    assert folder.foreign(tmp_path / "deep") == [part]
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / part).symlink_to(tmp_path / "other" / "notes.txt")
    assert folder.foreign(tmp_path / "link") == [part]


def test_a_start_that_is_killed_at_any_moment_is_begun_again(tmp_path, monkeypatch):
    """After each line of what writes the first files, the folder as it then is: nothing in it is foreign."""
    monkeypatch.setattr(folder, "launcher_name", lambda: "a launcher")
    run, seen, watched = tmp_path / "run", {}, {folder.__file__, files.__file__, lock.__file__}
    put(run, ".mmkit-starting/tokenizer/vocab.txt", ".mmkit-starting/tokenizer/framing.json")

    def watch(frame, event, _):
        if frame.f_code.co_filename not in watched:
            return None
        names = tuple(sorted(str(path.relative_to(run)) for path in run.rglob("*")))
        if names not in seen:
            seen[names] = shutil.copytree(run, tmp_path / f"moment-{len(seen)}")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        folder.start(run, {"args": dict.fromkeys(("model", "data", "run"))}, {}, True, ())
    finally:
        sys.settrace(before)
    alone = [names for names in seen if "experiment.json" in names and "command.txt" not in names]
    assert alone, "between the first file and the second"
    assert len(seen) > 10
    for moment in seen.values():
        assert look(moment, resume=False) is look(moment, resume=True) is None
        folder.start(moment, {"args": {}}, {}, True, ())
        assert not [path for path in moment.rglob("*") if path.name.endswith(".part")]
    put(tmp_path / "mine", "notes.txt")
    write_json(tmp_path / "mine" / "experiment.json", {"args": dict.fromkeys(("model", "data", "run"))})
    assert folder.foreign(tmp_path / "mine") == ["notes.txt"]


@pytest.mark.parametrize("name", ["checkpoints", "tokenizer", "data.json"])
def test_a_link_by_the_name_of_what_a_run_leaves_is_foreign(tmp_path, name):
    begun(tmp_path / "run")
    put(tmp_path, "there/.part-00000005/state.pt", "there/vocab.txt")
    (tmp_path / "run" / name).symlink_to(tmp_path / "there" / ("vocab.txt" if "." in name else ""))
    assert folder.foreign(tmp_path / "run") == [name]
    with pytest.raises(UserError, match="is not empty"):
        look(tmp_path / "run", resume=False)


@pytest.mark.parametrize("harm", ["other", "list", "broken", "none", "command"])
def test_names_alone_make_no_run_of_mmkit(tmp_path, harm):
    """Other programs write an experiment.json too."""
    begun(tmp_path, **({"args": {"model": "x", "data": "y"}} if harm == "other" else {}))
    path = tmp_path / "experiment.json"
    if harm == "command":
        (tmp_path / "command.txt").unlink()
    elif harm == "none":
        path.unlink()
    elif harm != "other":
        path.write_text({"list": '{"args": ["model", "data", "run"]}', "broken": "{"}[harm])
    put(tmp_path, "metrics.jsonl")
    assert "metrics.jsonl" in folder.foreign(tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("x" * 300, "File name too long"), ("a\0b", "its name has a zero byte")])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name, reason):
    for call in (lambda out: look(out, resume=False), folder.foreign, lock.make_folder):
        with pytest.raises(UserError, match=rf"no folder can be made there \({reason}\); give another --out"):
            call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_named_and_the_rest_counted(tmp_path):
    for number, shown in ((3, r"\(f0, f1, f2\)"), (4, r"\(f0, f1, f2 and 1 more\)")):
        put(tmp_path, *(f"f{i}" for i in range(number)))
        with pytest.raises(UserError, match=shown):
            look(tmp_path, resume=False)


def test_removing_what_a_run_left_can_be_killed_at_any_file(tmp_path, monkeypatch):
    begun(tmp_path)
    left = ("versions.json", "data.json", "metrics.jsonl", "tokenizer/vocab.txt", "checkpoints/.part-1/state.pt")
    put(tmp_path, *left)
    removed, unlink = [], Path.unlink

    def killed(self, **options):
        if len(removed) == allowed:
            raise KeyboardInterrupt
        removed.append(self)
        unlink(self, **options)

    for allowed in range(1, len(left) + 1):
        removed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            if allowed < len(left):
                with pytest.raises(KeyboardInterrupt):
                    folder._clear(tmp_path, ())
            else:
                folder._clear(tmp_path, ())
        assert look(tmp_path, resume=False) is None
        put(tmp_path, *left)
    folder._clear(tmp_path, {"tokenizer"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["command.txt", "experiment.json", "tokenizer"]
    assert (tmp_path / "tokenizer" / "vocab.txt").is_file()  # another run's


def test_what_a_killed_start_left_is_not_used(tmp_path):
    """A vocabulary of other captions, of a process that was killed before its run was sure to start."""
    train(tiny(run=dict(steps=3)), tmp_path / "one")
    put(tmp_path / "two", ".mmkit-starting/tokenizer/sentencepiece.model", ".mmkit-lock")
    train(tiny(run=dict(steps=3)), tmp_path / "two")
    one, two = (tmp_path / name / "tokenizer" / "sentencepiece.model" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / "two" / ".mmkit-starting").exists()


def test_the_best_of_before_directions_were_kept_is_the_highest(tmp_path):
    write_json(tmp_path / "best.json", {"metric": "m", "value": 0.9, "step": 2})
    assert folder.read_best(tmp_path, "m", "highest") == (0.9, 2)
    assert folder.read_best(tmp_path, "m", "lowest") is None


def test_an_evaluation_is_known_by_its_step_though_a_line_is_torn(tmp_path):
    assert not folder.evaluated(tmp_path, 4)
    put(tmp_path, "metrics.jsonl")
    lines = [{"event": kind, "step": step} for kind, step in (("train", 6), ("eval", 4))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "ev')
    assert [folder.evaluated(tmp_path, step) for step in (4, 5, 6)] == [True, False, False]


def test_an_empty_folder_and_what_a_desktop_puts_there_are_no_obstacle(tmp_path):
    put(tmp_path, ".DS_Store")
    assert look(tmp_path, resume=False) is None
    assert train(tiny(run=dict(steps=3)), tmp_path)["step"] == 3
    assert (tmp_path / ".DS_Store").read_text() == "precious .DS_Store"


# ---- several stages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["thesis.txt", "before/thesis.txt", "before/model.safetensors"])
def test_stages_keep_what_lies_there(tmp_path, name):
    put(tmp_path, name)
    before = contents(tmp_path)
    for exp in (two_stages(), change(two_stages(), subfolder="after")):
        with pytest.raises(UserError, match="is not empty"):
            train_stages(exp, tmp_path, save_model=hub.save)
        assert contents(tmp_path) == before


def test_stages_keep_what_lies_in_the_last_one(tmp_path):
    put(tmp_path, "after/thesis.txt")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"after: is not empty \(thesis\.txt\)"):
        train_stages(change(two_stages(), subfolder="after"), tmp_path, save_model=hub.save)
    assert contents(tmp_path) == before


# ---- one writer -----------------------------------------------------------------------------------------------------

HOLD = (
    "import os, sys, time; from pathlib import Path; from mmkit.train.lock import one_writer\n"
    "with one_writer(Path(sys.argv[1])):\n"
    "    child = os.fork() if len(sys.argv) > 2 else 1\n"
    "    print('held', os.getpid() if child == 0 else '', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.mark.parametrize("child", [False, pytest.param(True, marks=pytest.mark.skipif(os.name == "nt", reason="fork"))])
def test_a_second_writer_is_refused_and_the_lock_dies_with_its_process(tmp_path, child):
    out = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(out), *(["child"] if child else [])]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    left = None
    try:
        lines = [process.stdout.readline() for _ in range(2 if child else 1)]
        left = next((int(line.split()[1]) for line in lines if len(line.split()) > 1), None)
        with pytest.raises(UserError, match=rf"another run writes there \(process {process.pid} on "):
            train(tiny(run=dict(steps=3)), out)
        process.kill()
        process.wait()
        assert train(tiny(run=dict(steps=3)), out)["step"] == 3  # though a child lives
        assert not (out / lock.LOCK).exists()
    finally:
        process.kill()
        if left is not None:
            os.kill(left, 9)


def test_two_runs_of_one_process_are_refused_too(tmp_path):
    with lock.one_writer(tmp_path), pytest.raises(UserError, match="another run writes there"):
        train(tiny(), tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def none(handle):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_lock", none)
    assert train(tiny(run=dict(steps=3)), tmp_path)["step"] == 3
    assert f"{tmp_path}: no locks here (No locks available): see to it that no other run" in caplog.text


def test_a_lock_file_that_was_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    real, calls = lock._lock, []

    def late(handle):
        calls.append(handle)
        real(handle)
        if len(calls) == 1:
            (tmp_path / lock.LOCK).unlink()  # the one who had it left

    monkeypatch.setattr(lock, "_lock", late)
    with lock.one_writer(tmp_path):
        assert len(calls) == 2
        assert lock._held == {calls[1]}
        assert calls[0] == calls[1]  # closed, so that its number is free again
        assert (tmp_path / lock.LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / lock.LOCK).exists()


def test_a_lock_that_a_killed_process_left_is_taken_over_and_nothing_stays_open(tmp_path, monkeypatch):
    (tmp_path / lock.LOCK).write_text("process 1234567 on a machine with a very long name indeed " + "x" * 200)
    at_close, close = [], os.close
    monkeypatch.setattr(os, "close", lambda handle: (at_close.append((tmp_path / lock.LOCK).exists()), close(handle)))
    with lock.one_writer(tmp_path):
        assert (tmp_path / lock.LOCK).read_text() == f"process {os.getpid()} on {lock.socket.gethostname()}"
        (handle,) = lock._held
        assert at_close == []
        with pytest.raises(UserError, match=rf"another run writes there \(process {os.getpid()} on"):
            lock._take(tmp_path)
        assert lock._held == {handle}
    assert at_close == [True, False]  # its name goes while nobody else can have it
    assert lock._held == set()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(handle)


def test_a_folder_that_was_there_stays_and_one_that_was_made_goes_unless_something_came_to_be_in_it(tmp_path):
    (tmp_path / "there").mkdir()
    for name, stays in (("there", True), ("made/deep", False), ("used", True)):
        with lock.one_writer(tmp_path / name):
            assert (tmp_path / name / lock.LOCK).is_file()
            if name == "used":
                put(tmp_path / name, "x")
        assert (tmp_path / name).is_dir() == stays
        assert not (tmp_path / name / lock.LOCK).exists()
