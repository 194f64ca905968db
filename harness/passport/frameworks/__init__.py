"""One module a framework. Each runs in that framework's own Python, so it imports nothing of this project.

A module has ``load(name, settings)``. It returns a ``SimpleNamespace``: ``function(call)``, the scalar that the
framework would differentiate for one micro-batch, scaled as it enters the sum over micro-batches; ``version``;
``takes_weights``, whether it reads ``call.weights``; ``equal_rows``, whether all micro-batches have equally many
responses; ``note``, a sentence or "". It raises ValueError, in one line, for a name or a setting that is none.
``call`` has the fields of ``harness.passport.update.Call``. A module may import the ones beside it, relatively:
``settings`` (of the command line) and ``standin`` (checkouts whose packages are not all here).
"""
