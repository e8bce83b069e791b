"""Who holds which weights while a run trains: every process all of them, or each process its share."""
