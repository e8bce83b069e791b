"""True or false of two pictures (NLVR2)."""
