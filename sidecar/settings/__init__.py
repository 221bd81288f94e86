"""Settings of a process, read once from `EGRET_*` variables."""
