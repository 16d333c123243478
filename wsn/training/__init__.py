"""Training: one small pure step, mapped over the networks of a group.

In: a group, a source. Out: an iterator over its evaluations, with the history so far and a snapshot to go on from.
Nothing here touches the disk.
"""
