"""Data: records and where they come from, pictures, words, masking, batches, and the built-in openmoji scenes.

Everything that touches files lives here. Nothing is imported eagerly: take what you need from the submodules
(``records`` and the ``sources`` that give them, ``images``, ``texts``, ``targets``, ``collate``, ``loader``,
``openmoji``, ``importing``, ``writing``, ``show``, ``check``).
"""
