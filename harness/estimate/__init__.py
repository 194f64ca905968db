"""What a run costs before it starts: memory, tokens, floating-point operations, GPU-hours."""
