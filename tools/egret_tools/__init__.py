"""Tools around Egret: development stack, mock LLM, conformance suite, Envoy lint."""
