"""Data: records and where they come from, pictures, words, masking, batches, and the built-in openmoji scenes.

Everything that touches files lives here. Nothing is imported eagerly: take what you need from the submodules
(``records``, ``sources``, ``tokenizer``, ``image_ops``, ``text_ops``, ``masking``, ``collate``, ``loader``,
``openmoji`` and its questions, pairs and hypotheses, ``easy_vqa``, ``vqa_files``, ``answers``, ``importing``, ``show``,
``check``).
"""
