"""A configuration with a secret in it is refused, without saying the secret."""

import pytest

from harness.config import ConfigError
from harness.config.secrets import refuse_secrets

KEY = "trainer.project_name"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_APIKEY"])
def test_value_of_a_secret_variable(name, monkeypatch):
    monkeypatch.setenv(name, "correct-horse-battery")
    with pytest.raises(ConfigError) as caught:
        refuse_secrets({"seed": 1, KEY: "x correct-horse-battery y"})
    assert KEY in str(caught.value)
    assert f"${name}" in str(caught.value)
    assert "correct-horse" not in str(caught.value)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "HOME", "KEYBOARD"])
def test_other_variables_are_no_secrets(name, monkeypatch):
    monkeypatch.setenv(name, "correct-horse-battery")
    refuse_secrets({KEY: "correct-horse-battery"})


def test_short_values_are_words(monkeypatch):
    monkeypatch.setenv("USE_TOKEN", "true")
    refuse_secrets({"algorithm.use_kl_in_reward": True, KEY: "true"})


@pytest.mark.parametrize("token", ["hf_" + "a1" * 17, "ghp_" + "Z9" * 18, "sk-" + "b2" * 20, "AKIA" + "ABCD1234" * 2])
def test_well_known_tokens_without_the_environment(token):
    with pytest.raises(ConfigError) as caught:
        refuse_secrets({KEY: f"--token {token}"})
    assert token not in str(caught.value)


def test_every_experiment_is_without(flat):
    refuse_secrets(flat("experiment=tiny"))
    refuse_secrets(flat("experiment=text_dense"))
