"""The process of `egret admin`: REST for all of the command line, for people and programs."""
