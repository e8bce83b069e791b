"""The fenced blocks of README.md and docs/*.md, and how each is tried: the one table of what is put in."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(
    r"(?:^<!-- parsed only: (?P<why>[^\n]+) -->\n+)?^```(?P<kind>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
REASONS = {
    "needs the network",
    "needs GPUs",
    "needs a launcher",
    "needs published data",
    "trains for minutes",
    "has a test of its own",
}
"""Why a block may be parsed and not run; a comment before it says which, so that a reader knows, too."""

STEPS = "run.steps=2 run.epochs=null run.minutes=null run.save_every_steps=0 run.trackers=[] run.log_every_steps=0"
SMALL = f"{STEPS} data.global_batch=4 optim.warmup_frac=0 data.workers=0"
PUT_IN: list[tuple[str, str]] = [
    # Sizes that a test can wait for; the commands stay as they stand.
    (r"^(mmkit train [\"']?configs/pretrain/albef.py:mini\(.*?)\)", r"\1, size=24, vocab_size=200)"),
    (r"^(mmkit train [\"']?configs/pretrain/albef.py:small\(.*?)\)", r"\1, res=32, vocab_size=200)"),
    (r"^(mmkit train [\"']?configs/pretrain/classify.py:folder\(.*?)\)", r"\1, size=24)"),
    (r"^(mmkit train [\"']?configs/finetune/vqa.py:mini\(.*?)\)", r"\1, size=24)"),
    (r"^(mmkit train [\"']?configs/finetune/captions.py:mini\(.*?)\)", r"\1, size=24)"),
    (r"^(mmkit train [\"']?projects/detection/config.py:\w+\(.*?)\)", r"\1, size=24)"),
    (r"^(mmkit train [\"']?projects/grounding/config.py:\w+\(.*?)\)", r"\1, size=24)"),
    (r"^(mmkit plan [\"']?configs/pretrain/albef.py):(?:base|small)\(", r"\1:mini("),
    (r"^(mmkit train .*)$", rf"\1 --set {SMALL}"),
    (r"^(mmkit probe .*)$", r"\1 --steps 20"),
    (r"--rerank (\d+)", "--rerank 2"),
    (r"--vocab-size (\d+)", "--vocab-size 200"),
]
"""(pattern, what stands in its place), in order, for every command that is run."""


@dataclass(frozen=True)
class Block:
    """One fenced block. title: the file that it is, where it is one. why: it is parsed only."""

    page: Path
    line: int
    kind: str
    title: str
    text: str
    why: str | None

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("kind")) + 1,
            kind=match["kind"],
            title=(re.search(r'title="([^"]+)"', match["options"]) or ["", ""])[1],
            text=match["text"],
            why=match["why"],
        )
        for match in BLOCK.finditer(text)
    ]


def commands_in(text: str) -> list[str]:
    """The commands of a shell block: lines joined where they go on, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def words_of(command: str) -> list[str]:
    """What the program is given, without comments, settings of the environment and ``uv run``."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        while words[0].startswith("--"):
            words = words[2:]
    return words


def put_in(command: str) -> str:
    """The command with what the table says."""
    for pattern, instead in PUT_IN:
        command = re.sub(pattern, instead, command)
    return command
