"""vLLM on a CPU, where a trainer sends it new weights (entry point ``vllm.general_plugins``)."""


def register() -> None:
    """Keep the weights of linear layers as they are: the CPU build would pack them for oneDNN after loading and drop
    them, and the next update of the weights would find nothing to write to. Does nothing on another platform."""
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]  (not in every environment)

    if current_platform.is_cpu():
        from vllm import _custom_ops  # pyright: ignore[reportMissingImports]

        _custom_ops._supports_onednn = False
