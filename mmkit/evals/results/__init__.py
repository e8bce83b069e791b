"""What evaluations found: rates with intervals, tables for people, numbers for programs, rows for files."""
