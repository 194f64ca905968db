"""Policy losses: what each is (``spec``), verl's own (``of_verl``), and ours, one module a loss."""
