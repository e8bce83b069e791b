"""Every block of README and docs works: run with small sizes put in, or parsed by the program's own parser.

Each page has a folder of its own, in which its blocks run in order, with the data that a reader is asked to bring, and
a model that was trained for a few steps. What a block may not be run for stands before it, in words of ``REASONS``.
"""

import ast
import importlib
import json
import re
import runpy
import shutil
import sys

import pytest
from accelerate.commands.launch import launch_command_parser
from PIL import Image

from mmkit.cli import main
from mmkit.cli.main import make_parser
from mmkit.config import load_experiment, override, validate
from mmkit.config.load import load_function
from tests.docs.blocks import PAGES, REASONS, ROOT, blocks_of, commands_in, put_in, words_of

IMPORTS = (ast.Import, ast.ImportFrom)
FREE = {"git", "pip", "cd", "mkdir", "pytest", "tar", "sbatch"}
"""Programs of others, which are not run."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """What the pages start from: data of a reader's own, a pre-trained model, and one in it that answers questions."""
    folder = tmp_path_factory.mktemp("docs")
    bring(folder)
    for spec, out in (
        ("configs/pretrain/albef.py:mini(records='train.csv', test='test.csv')", "runs/quickstart"),
        ("configs/finetune/vqa.py:mini(records='questions.csv', start='runs/quickstart')", "runs/answers"),
        ("configs/pretrain/classify.py:folder(train='folders', start='runs/quickstart')", "runs/sorted"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(words_of(put_in(f'mmkit train "{spec}" --out {out}'))[1:]) == 0
    shutil.move(folder / "runs/answers", folder / "runs/quickstart/vqa")
    shutil.copytree(folder / "runs/quickstart", folder / "runs/mine", ignore=shutil.ignore_patterns("vqa"))
    return folder


def bring(folder):
    """Sixteen pictures with captions, classes, questions and boxes, in the names that the pages use."""
    rows, asked = [], []
    for i in range(16):
        colour, number = ("red", "blue")[i % 2], ("one", "two", "three", "four")[i // 4]
        for place in (f"pictures/{i:04}.png", f"folders/{colour}/{i}.png"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (250 - 15 * i, 0, 0) if colour == "red" else (0, 0, 250 - 15 * i)).save(
                folder / place
            )
        rows.append({"image": f"pictures/{i:04}.png", "caption": f"a {colour} square, number {number}"})
        asked.append({"image": f"pictures/{i:04}.png", "question": "what colour is it?", "answers": colour})
    for name, lines in (("train", rows), ("test", rows[:8]), ("questions", asked), ("questions-test", asked[:8])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        cells = [list(lines[0]), *([f'"{cell}"' for cell in line.values()] for line in lines)]
        (folder / f"{name}.csv").write_text("\n".join(map(",".join, cells)) + "\n")
    boxed = [
        {"image": row["image"], "boxes": [{"name": ("lamp", "cup")[i % 2], "box": [4, 6, 20 + i, 24]}]}
        for i, row in enumerate(rows)
    ]
    for name, lines in (("boxes", boxed), ("boxes-test", boxed[:4])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    named = [
        row | one | {"phrases": [{"caption": 0, "spans": [[0, len(row["caption"])]], "boxes": [0]}]}
        for row, one in zip(rows, boxed, strict=True)
    ]
    (folder / "expressions.jsonl").write_text("\n".join(map(json.dumps, named)))
    (folder / "answers.txt").write_text("red\nblue\n")


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A page's folder: the reader's, beside mmkit's own files where a page names them."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/scene.png", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page(page, place):
    for made in re.findall(r"--out (runs/\w+)", page.read_text()):
        shutil.rmtree(place / made, ignore_errors=True)
    attempt_all(blocks_of(page), place)


def attempt_all(blocks, place):
    names = {}
    for block in blocks:
        assert block.why is None or block.why in REASONS, f"{block.where}: say why by one of {sorted(REASONS)}"
        if block.title and block.title != "output":
            file = place / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        if block.kind == "python":
            tree = ast.parse(block.text, block.where)
            if block.why is not None:
                tree.body = [node for node in tree.body if isinstance(node, IMPORTS)]
            if block.title:  # a file, which the commands after it run
                tree.body = []
            exec(compile(tree, block.where, "exec"), names)
        elif block.kind == "json":
            assert [json.loads(line) for line in block.text.splitlines() if line.strip()]
        elif block.kind == "bash":
            for command in commands_in(block.text):
                attempt(command, block, place)
        else:
            assert block.kind in ("text", "csv"), f"{block.where}: {block.kind!r} is no language of these pages"


def attempt(command, block, place):
    """Run a command, or parse it where it may not be run; the message names page and line."""
    where = f"{block.where}: {command}"
    words = words_of(command)
    check_files(words, place, where)
    if words[0] == "mmkit" and block.why is None:
        shown = put_in(command)
        assert main(words_of(shown)[1:]) == 0, f"{where}\nrun as: {shown}"
    elif words[0] == "mmkit":
        parse(words[1:], where)
    elif words[:2] == ["accelerate", "launch"]:
        launch(words[2:], where)
    elif words[0] == "python":
        known = (ROOT / words[1] if words[1] != "-m" else ROOT / f"{words[2].replace('.', '/')}.py").read_text()
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in known, f"{where}: no {word}"
    else:
        assert words[0] in FREE, f"{where}: no program of these pages"


def check_files(words, place, where):
    """What lies in the repository under a name that the pages use is there."""
    for word in words:
        found = re.match(r"(configs|projects|scripts|docs|benchmarks)/[\w/.-]+", word)
        if found and not (place / found[0]).exists():
            assert (ROOT / found[0]).exists(), f"{where}: no {found[0]}"


def parse(words, where):
    """By the command's own parser; a config is called, changed and checked where what it reads is here."""
    args = left_to(where, lambda: make_parser().parse_args(words))
    if hasattr(args, "experiment"):
        check_experiment(args, where)


def left_to(where, parse):
    """What a parser makes of a command; that it ends the program with 0, as for --help, is no fault."""
    try:
        return parse()
    except SystemExit as end:
        code = end.code
    if code:
        pytest.fail(f"{where}: the parser refuses it")
    return None


def check_experiment(args, where):
    file, _, call = args.experiment.partition(":")
    spec = f"{ROOT / file if (ROOT / file).is_file() else file}:{call}".rstrip(":")
    load_function(spec, "Experiment")
    validate(override(load_experiment(spec), args.changes), world=8)


def launch(words, where):
    """``accelerate launch``: its options by its own parser, the script's by the script's."""
    args = launch_command_parser().parse_args(words)
    if args.module:
        assert args.training_script == "mmkit", f"{where}: no module of these pages"
        parse(args.training_script_args, where)
        return
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["mmkit.cli.main"], "execute", lambda args: seen.append(args) or 0)
        patch.setattr(sys, "argv", [args.training_script, *args.training_script_args])
        patch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
        left_to(where, lambda: runpy.run_path(str(ROOT / args.training_script), run_name="__main__"))
        sys.modules.pop("pretrain", None)
    if hasattr(seen[0], "experiment"):
        check_experiment(seen[0], where)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_words_of_a_page_name_is_there(page):
    """Commands and files within sentences, and the links of README."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = {name for action in make_parser()._actions for name in action.choices or ()}
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.startswith("mmkit ") and not span.startswith("mmkit COMMAND"):
            assert span.split()[1] in commands, f"{page.name}: `{span}`"
        if re.fullmatch(r"(mmkit|configs|projects|scripts|benchmarks|tests)/[\w/]*(\.\w+)?", span):
            assert (ROOT / span).exists(), f"{page.name}: `{span}`"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_page_of_the_command_has_every_option():
    hooks = runpy.run_path(str(ROOT / "docs/hooks.py"))
    commands, text = hooks["commands"], hooks["command_page"]()
    for parser in commands(make_parser()):
        assert f"\n## {parser.prog}\n" in f"\n{text}"
        for action in parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f"`{option}" in text
    assert text.count("\n## ") + 1 == len(list(commands(make_parser())))


def test_the_site_lists_every_page_and_is_read_without_a_network():
    settings = (ROOT / "mkdocs.yml").read_text()
    assert set(re.findall(r": (\w+\.md)$", settings, re.MULTILINE)) == {page.name for page in PAGES[1:]}
    assert "font: false" in settings  # else Google's
    assert "repo_url" not in settings  # else GitHub is asked for stars
    for page in PAGES:
        assert not re.search(r"!\[[^]]*\]\(https?:|<(img|script|link)[^>]+https?:", page.read_text()), page.name


@pytest.mark.parametrize(
    "block",
    [
        "```bash\nmmkit retrieval --model runs/mine --data test.csv --reranck 2\n```",
        "```bash\nmmkit train configs/pretrain/albeff.py:mini --out runs/a\n```",
        "<!-- parsed only: needs GPUs -->\n```bash\nmmkit train configs/quickstart.py --set optim.lrr=1\n```",
        "<!-- parsed only: needs a launcher -->\n```bash\naccelerate launch scripts/pretrain.py --oot x\n```",
        "<!-- parsed only: needs a launcher -->\n```bash\naccelerate launch --cpuu scripts/finetune_vqa.py\n```",
        "<!-- parsed only: it is late -->\n```bash\nmmkit info runs/mine\n```",
        "```python\nfrom mmkit.heads.base import Hat\n```",
        "<!-- parsed only: needs the network -->\n```python\nfrom mmkit.heads.base import Hat\n```",
        "```python\nimport mmkit\n\nmmkit.load('runs/elsewhere')\n```",
        "```bash\nrm -r runs\n```",
        '```json\n{"image": a.png}\n```',
    ],
)
def test_what_does_not_work_is_found(block, place):
    (place / "wrong.md").write_text(f"{block}\n")
    found = blocks_of(place / "wrong.md")
    assert len(found) == 1
    with pytest.raises((Exception, pytest.fail.Exception, SystemExit)):
        attempt_all(found, place)
