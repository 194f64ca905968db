"""The kit for one GPU: what it packs, and the page that its check writes; the check itself runs where a GPU is."""

from gpu_kit import check, pack


def test_the_kit_holds_what_the_machine_lacks_and_nothing_that_it_has() -> None:
    names = {requirement.partition("==")[0].lower() for requirement in pack.closure("rlvr-length", "train")}
    assert {
        "verl",
        "ray",
        "tensordict",
        "transferqueue",
        "hydra-core",
        "omegaconf",
        "transformers",
        "tokenizers",
    } <= names
    assert not names & {"torch", "numpy", "pandas", "pyarrow", "triton", "rlvr-length"}
    assert not any(name.startswith("nvidia") for name in names)


def test_every_run_of_the_check_composes(flat) -> None:
    for name, overrides in check.runs("cuda").items():
        assert flat(*overrides)["trainer.device"] == ("cpu" if "CPU" in name else "cuda")


def test_the_page_says_what_holds_and_what_failed() -> None:
    medians = dict.fromkeys(check.RUN_COLUMNS)
    found = {
        "machine": {
            "device": "NVIDIA H100",
            "nvidia-smi": "NVIDIA H100, 580",
            "cores": 16,
            "versions": {"verl": "0.9.1"},
        },
        "losses": [],
        "compared": {"the same run twice is equal": True, "recording changes nothing": False, "equal": "127 of 128"},
        "runs": {"tiny": {"start and end s": 21.4, **medians, "s a step": 0.5}},
        "failed": {"tiny bf16": "RuntimeError: status 1: Traceback\n  line\nOutOfMemoryError: 80 GB"},
    }
    page = check.markdown(found)
    assert (
        "- the same run twice is equal: **yes**.\n- recording changes nothing: **NO**.\n- equal: **127 of 128**."
        in page
    )
    assert "| tiny | 21 | 0.50 | - |" in page
    assert "- tiny bf16: OutOfMemoryError: 80 GB" in page
