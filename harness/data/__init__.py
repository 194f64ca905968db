"""The paper's data sets and benchmarks in verl's schema: ``python -m harness.data prepare NAME``."""
