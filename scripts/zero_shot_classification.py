"""Zero-shot classification on any number of processes.

    accelerate launch scripts/zero_shot_classification.py --model open_clip:ViT-B-32/laion2b_s34b_b79k \
        --data imagenet/val --classes imagenet --json imagenet.json
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 scripts/zero_shot_classification.py \
        --model runs/quickstart --data openmoji

The second line starts two processes on the CPU; the numbers are those of one. The same as ``mmkit zeroshot``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmkit.cli.evaluate import add_zeroshot_arguments, zeroshot
from mmkit.cli.main import execute


def main() -> int:
    """Parse, classify; the exit code."""
    parser = argparse.ArgumentParser(description="Classify pictures by the names of the classes alone")
    add_zeroshot_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as JSON")
    parser.set_defaults(run=zeroshot)
    return execute(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
