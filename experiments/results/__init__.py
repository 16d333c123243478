"""The results, written from their tables: templates in prose, and the numbers that fill them in.

`results.md` is the template of experiments/RESULTS.md, `glance.md` of the table in README.md. In both, a number that a
table has is a placeholder (`template`), which names a committed CSV or a table derived from them (`derived`).
"""
