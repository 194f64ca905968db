"""One matched training run, from the command line to a run directory.

===============  =====================================================================================================
``rundir``       the run directory: the only thing that training and analysis share
``config``       command line -> one resolved configuration; what makes two runs comparable; no secrets
``losses``       what each policy loss is, and the losses that verl does not have
``grading``      a response -> its reward components
``tasks``        prompts, base models and benchmarks: built here or prepared from the Hugging Face hub
``estimate``     memory, tokens and GPU-hours before anything starts
``run``          the process beside the training: start, watch, checkpoints, why it failed
``plugin``       what verl loads: recorded loss, seeded rollout, reward, task runner
``doctor``       would a run start here? the rules, the machine, the cluster
``evaluate``     checkpoints on benchmarks: avg@k and pass@k
===============  =====================================================================================================

Commands: ``python -m harness.train``, ``doctor``, ``evaluate``, ``estimate``, ``data``, ``diff``, ``fork``,
``paper_settings``.
"""
