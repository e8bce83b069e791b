"""Data as pictures: a batch as the model sees it, and sheets of questions, statements and hypotheses."""
