"""Commands that compute nothing start at once: what is slow to import is not imported for them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

SLOW = ("torch", "transformers", "datasets", "open_clip", "accelerate")
PROGRAM = """
import json, sys
from mmkit.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    found = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    if code not in (0, 2) or found:
        sys.exit(f"{arguments}: {code}, imported {found}")
"""


def test_what_computes_nothing_imports_nothing_slow(tmp_path):
    (tmp_path / "pictures").mkdir()
    rows = []
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"pictures/{i}.png")
        (tmp_path / f"pictures/{i}.txt").write_text(f"number {i}\n")
        rows.append({"image": f"pictures/{i}.png", "caption": f"number {i}"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.csv").write_text("image,caption\n" + "".join(f"{r['image']},{r['caption']}\n" for r in rows))
    saved = json.loads((Path(__file__).parent / "oracles/folders_0_1_0.json").read_text())["wordpiece"]
    for file in ("config", "preprocessing"):
        (tmp_path / f"{file}.json").write_text(json.dumps(saved[file]))
    save_file({k: np.zeros(n, dtype=np.float32) for k, n in saved["shapes"].items()}, tmp_path / "model.safetensors")
    commands = [
        ["--help"], ["retrieval", "--help"], ["train", "none.py", "--out", "x"], ["data", "check", "none.jsonl"],
        ["data", "check", "rows.jsonl"], ["data", "check", "rows.csv"], ["data", "check", "pictures"],
        ["info", "."], ["info", "model.safetensors"], ["info", "none/none"],
    ]  # fmt: skip
    run = [sys.executable, "-c", PROGRAM, json.dumps(commands), json.dumps(SLOW)]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
