"""Egret: the guard behind Envoy's ext_proc filter for LLM egress.

A request passes these files in this order; docs/architecture.md draws the way:

    server/grpc_server.py   receives the gRPC call as bytes
    extproc/stream.py       waits within budgets; turns exceptions into refusals
    extproc/protocol.py     the order of messages and answers: no I/O, no clock
    pipeline/request.py     calls the steps, top to bottom: start to read here
    pipeline/admission.py   the key, its owner, its policy
    pipeline/content.py     the body: limits, guardrails, decision, redaction
    pipeline/request.py     finish: usage, metrics, span and log line, after the answer

Packages, from the process down to its values; imports point down only:

    cli, worker             the command line; workers and their supervisor
    console, admin_api      the process of `egret admin`: pages; REST, sessions, roles
    alerts                  rules, outbox and channels of alerts
    server, pipeline        the gRPC server; the steps of a request and its answer
    redaction, admin        changes of bodies; keys, policies and limits in commands
    storage, policy         PostgreSQL, Valkey and the spool; documents to snapshots
    guardrails              rules, models and remote checks for texts
    keys, limits, usage     credentials; rate limits and budgets; tokens and prices
    extproc, apis           Envoy's protocol; the APIs of providers as data
    telemetry, settings     spans, metrics, logs; configuration
    jsontext, domain        JSON with positions; the values that all layers share
"""

__version__ = "0.2.0"
