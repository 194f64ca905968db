"""verl: a policy loss of its registry and the KL loss, as verl's ``ppo_loss`` adds them; settings are actor keys."""

import copy
import importlib
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name``: a key of ``POLICY_LOSS_REGISTRY``; ``settings``: keys below ``actor_rollout_ref.actor`` of verl's YAML.

    Whatever is not set is as in verl's own ``ppo_trainer.yaml``, clip range and aggregation too.
    """
    import hydra

    core = importlib.import_module("verl.trainer.ppo.core_algos")
    registry = getattr(core, "POLICY_LOSS_REGISTRY", {})
    if name not in registry:
        raise ValueError(f"verl has no policy loss {name}; it has {', '.join(sorted(registry))}")
    folder = Path(importlib.import_module("verl").__path__[0]) / "trainer" / "config"
    actor = "actor_rollout_ref.actor"
    words = [f"{actor}.ppo_micro_batch_size_per_gpu=1", f"{actor}.policy_loss.loss_mode={name}"]
    words += [f"{actor}.{key}={value}" for key, value in settings.items()]
    with hydra.initialize_config_dir(str(folder), version_base="1.3"):
        try:
            config = hydra.compose("ppo_trainer", overrides=words)
        except Exception as error:  # noqa: BLE001  (Hydra's and OmegaConf's are many; the user gets the line)
            raise ValueError(f"verl refuses a setting: {str(error).splitlines()[0]}") from None
    return of_config(
        importlib.import_module("verl.utils.config").omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    )


def of_config(config: Any) -> SimpleNamespace:
    """The loss of verl's actor dataclass."""
    core = importlib.import_module("verl.trainer.ppo.core_algos")
    if not hasattr(config, "global_batch_info"):
        raise ValueError("this verl is older than the sizes of the whole update in its losses; use verl 0.7 or later")
    policy_loss: Any = core.get_policy_loss_fn(config.policy_loss.loss_mode)

    def function(call: Any) -> Any:
        own = copy.copy(config)
        sizes = {
            "dp_size": call.ranks,
            "batch_num_tokens": call.tokens,
            "global_batch_size": call.responses,
            "loss_scale_factor": config.loss_scale_factor,
        }
        object.__setattr__(own, "global_batch_info", sizes)
        loss, _ = policy_loss(
            old_log_prob=call.old_log_prob,
            log_prob=call.log_prob,
            advantages=call.advantages,
            response_mask=call.response_mask,
            loss_agg_mode=own.loss_agg_mode,
            config=own,
            rollout_is_weights=call.weights,
        )
        if own.use_kl_loss:
            kl = core.kl_penalty(call.log_prob, call.ref_log_prob, own.kl_loss_type)
            loss = loss + own.kl_loss_coef * core.agg_loss(
                loss_mat=kl, loss_mask=call.response_mask, loss_agg_mode=own.loss_agg_mode, **sizes
            )
        return loss

    return SimpleNamespace(
        function=function,
        version=f"verl {importlib.metadata.version('verl')}",
        takes_weights=True,
        equal_rows=False,
        note=f"loss_agg_mode={config.loss_agg_mode}",
    )
