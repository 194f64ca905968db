"""Data sets and benchmarks of the Hugging Face hub, or of a local folder, in verl's schema."""
