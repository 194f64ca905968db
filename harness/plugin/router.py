"""Which rollout server answers a single request: verl's router interface without verl's imports.

verl's own load balancer is an actor whose process imports all of verl, six seconds of a core at every start.
"""

from typing import Any


class RoundRobinRouter:
    """verl's router plugin (``rollout.router_config_path``, verl/workers/rollout/router.py): servers take turns.

    Of use to verl's stock agent loop only; ``BatchAgentLoopManager`` shares a batch out by itself.
    """

    def __init__(self, servers: dict[str, Any], config: dict[str, Any]):
        self.servers = list(servers.items())
        self.turn = 0

    def require_acquire_fields(self) -> list[str]:
        return []

    def require_release_fields(self) -> list[str]:
        return []

    def acquire_server(self, request_id: str, **_: Any) -> tuple[str, Any]:
        server = self.servers[self.turn % len(self.servers)]
        self.turn += 1
        return server

    def release_server(self, server_id: str, **_: Any) -> None:
        pass
