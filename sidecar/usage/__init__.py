"""What a request used: counted where the provider told, estimated where not; and its price."""
