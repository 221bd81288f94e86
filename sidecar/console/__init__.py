"""The console: pages for people on the operations of sidecar.admin, served by `egret admin`."""
