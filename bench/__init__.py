"""``make bench``: what SynDB costs, each figure beside what the same machine does without it, in one run.

``python -m bench`` measures everything and writes ``results.json`` and ``machine.json`` beside this file;
``python -m bench federated`` measures a selection. A missed goal is a result, not a failure.
"""
