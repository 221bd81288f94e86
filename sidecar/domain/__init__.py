"""Values every stage speaks. Imports nothing of ours, does no I/O, reads no clock."""
