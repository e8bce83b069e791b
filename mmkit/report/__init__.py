"""``report.html``: what a run learned, on one page that needs no network.

``collect`` asks the model for examples, ``run_folder`` reads what the run wrote, ``chart`` draws, ``page`` makes the
file; each works without the others. ``Report`` (``make``) does all of it at the end of a run.
"""
