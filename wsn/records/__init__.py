"""Records: groups on disk, resumable, shared between processes, never half-written.

In: groups, a folder, where data come from. Out: a record a group, and everything that a folder holds, to be read;
plans, progress and TensorBoard's events beside it.
"""
