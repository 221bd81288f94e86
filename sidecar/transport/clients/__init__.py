"""Clients of servers that Egret asks over gRPC."""
