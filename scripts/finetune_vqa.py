"""Fine-tune a model on visual question answering, on any number of processes.

    accelerate launch scripts/finetune_vqa.py --out runs/easy-vqa
    accelerate launch --multi_gpu --num_processes 8 scripts/finetune_vqa.py \
        "configs/finetune/vqa.py:decoder(answers='answers.txt', start='runs/albef-base')" --out runs/vqa

The same loop as ``scripts/pretrain.py``: a task is a config, see configs/finetune/. Without one it is easy-VQA, which
comes with the package of that name, pre-training included. Answers with ``mmkit vqa``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pretrain import main

EASY_VQA = Path(__file__).parent.parent / "configs" / "finetune" / "easy_vqa.py"

if __name__ == "__main__":
    sys.exit(main("Fine-tune on visual question answering", default=f"{EASY_VQA}:classifier"))
