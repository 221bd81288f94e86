"""The `egret` command line."""
