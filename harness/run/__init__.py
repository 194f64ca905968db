"""The process beside a training: start it, watch it, keep its checkpoints, say why it failed."""
