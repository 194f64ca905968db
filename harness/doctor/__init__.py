"""Would a run start here? Rules of the configuration, then software, machine, model, data and cluster."""
