"""Run directories, and results from elsewhere, as tidy frames."""
