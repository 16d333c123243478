"""Training: one small pure step, mapped over the networks of a group.

In: a group and a source of data. Out: an iterator over evaluations, each with the history so far and a snapshot from
which to resume. Nothing here writes to disk.
"""
