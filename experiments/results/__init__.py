"""The gallery: committed tables and pictures, what is derived from them, and the numbers of a text that come from them.

In: a folder of CSVs with their commands. Out: the table of derived numbers, the index, and what a text says that no
table has.
"""
