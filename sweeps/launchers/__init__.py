"""How a sweep's runs are started: as processes here, as Slurm jobs, as Ray jobs, or as Kubernetes objects."""
