"""gRPC servers below the codec: bytes in, bytes out."""
