"""The values that all layers share. Imports nothing of ours, does no I/O, reads no clock."""
