"""The status page: what `egret top` shows, as charts in a browser."""
