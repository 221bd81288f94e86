"""The status page: the figures of `egret top` as charts in a browser."""
