"""The LRPilot tuner server: core (pure), service, storage, rpc and cli."""
