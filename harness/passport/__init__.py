"""Which loss is this? ``python -m harness.passport verl:gspo mine.py:loss`` probes policy losses as black boxes.

Modules: ``worker`` (one call of a loss, here or in another Python), ``adapters`` (what a name on the command line
means), ``install`` (where a framework's version is), ``frameworks`` (one file a framework), ``formulas`` (the
published losses), ``update`` (synthetic batches), ``weighting`` and ``clipping`` (the measurements), ``measure`` (all
of them), ``naming`` (which published loss it is), ``render`` (tables), ``page`` (docs/passports.md).
"""
