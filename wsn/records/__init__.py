"""Groups of networks trained into a folder. In: groups, a folder, data. Out: a record per group (see README.md)."""
