"""What a run's errors say about the next step: read or measured, compared, and what to try."""
