"""Checkpoints on benchmarks: sample k responses a question, grade them, report avg@k and pass@k."""
