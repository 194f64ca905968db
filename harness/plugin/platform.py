"""A CPU platform for verl: what unmodified verl asks of an accelerator, answered by a laptop.

verl loads this module through the ``verl.plugins`` entry point inside every ``import verl``, so it must stay light.
It registers a platform under a name that only ``VERL_PLATFORM=cpu`` selects: on machines with a GPU nothing changes.
"""

import os
import resource
import sys
import types
from contextlib import nullcontext
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _resident_bytes(*_: Any) -> int:
    """Peak resident memory of this process; verl logs it as allocated device memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_module() -> types.ModuleType:
    """``torch.cpu`` plus the functions of ``torch.cuda`` that verl calls without asking (engine_workers.py)."""
    module = types.ModuleType("torch_cpu_as_device")
    module.__dict__.update({name: value for name, value in vars(torch.cpu).items() if not name.startswith("__")})

    def nothing(*_: Any, **__: Any) -> None:
        return None

    for name in ("empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device", "synchronize"):
        setattr(module, name, nothing)
    for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved"):
        setattr(module, name, _resident_bytes)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    module.__dict__["mem_get_info"] = lambda *_: (max(total - _resident_bytes(), 0), total)
    module.__dict__["get_device_name"] = lambda *_: "CPU"
    module.__dict__["get_rng_state"] = lambda *_: torch.get_rng_state()
    module.__dict__["set_rng_state"] = lambda state, *_: torch.set_rng_state(state)
    module.__dict__["manual_seed"] = torch.manual_seed
    module.__dict__["manual_seed_all"] = torch.manual_seed
    return module


_DEVICE_MODULE = _device_module()


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """verl's ``PlatformBase`` for machines without an accelerator.

    Its Ray resource is called GPU because verl counts no other; locally the number of GPUs is a logical one, set by
    ``ray_kwargs.ray_init.num_gpus``.
    """

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> types.ModuleType:
        return _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Never by detection: a GPU worker whose driver is broken must not train on its CPU unnoticed.
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

    def current_device(self) -> Any:
        return "cpu"  # verl hands this to ``module.to(device=...)``, where an index would mean an accelerator

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return nullcontext()

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None
