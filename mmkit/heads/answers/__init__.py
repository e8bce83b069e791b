"""Heads that answer questions: from a list of answers, and word by word."""
