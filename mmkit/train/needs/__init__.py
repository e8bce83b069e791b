"""What a run will need, known before it starts: memory, arithmetic, bytes on the link, disk, cores, hours."""
