"""What several tests of conversion use."""

import pytest

from tests.parity.oracle import files


@pytest.fixture
def tokenizer(tmp_path):
    """BERT's tokenizer with as many words as a recorded model knows."""

    def make(words):
        folder = tmp_path / "words"
        folder.mkdir()
        lines = files("vocab/vocab.txt")[0].read_text().splitlines()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        chosen = special + [line for line in lines if line.isalpha() and line.isascii()][: words - 5]
        (folder / "vocab.txt").write_text("\n".join(chosen))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
        return str(folder)

    return make
