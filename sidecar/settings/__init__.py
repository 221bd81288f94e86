"""What a process is told when it starts."""
