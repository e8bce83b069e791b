"""The files of published data sets, read as they are published."""
