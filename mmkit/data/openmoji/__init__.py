"""The built-in data: scenes of drawn emoji with captions, questions, statements and hypotheses."""
