"""Answers to questions: when two are the same, how right one is, and the lists of those worth knowing."""
