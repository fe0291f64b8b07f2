"""What a run does, one task a file, each with the same interface."""
