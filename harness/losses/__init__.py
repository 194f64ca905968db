"""Policy losses: what each one is (``LossSpec``), and the functions of those that verl does not have."""
