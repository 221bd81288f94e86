"""Environment variables of gRPC's core, which reads them when a worker loads it."""

from __future__ import annotations

from typing import Final

GRPC_ENVIRONMENT: Final = {
    # gRPC's newer server I/O hands each event from thread to thread; with the older one the thread
    # that waits for events does the I/O itself. Measured with gRPC 1.85, 16 connections: 784 µs of
    # a worker's CPU time a request instead of 971, 930 requests a second instead of 720. A gRPC
    # without this switch logs that and goes on.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
    # A worker starts a process that compiles policies, and uvloop starts processes by fork. gRPC's
    # core stops its threads around each fork, and on a busy machine now and then waits for one of
    # them for ever, before the fork or in the child: the worker's loop stands still. Seen in three
    # workers at their start, by their stacks. The child becomes another program at once and needs
    # none of it.
    "GRPC_ENABLE_FORK_SUPPORT": "false",
}
"""Defaults: a variable that is already set keeps its value."""
