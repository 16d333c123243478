"""The results, written from their tables: templates in prose, and the numbers that fill them in.

`results.md` is the template of experiments/RESULTS.md, `glance.md` of the table in README.md. In both, a number that a
table has is a placeholder (`template`), which names a committed CSV or a table derived from them (`derived`,
`theory`, `gains`).

To add a result: put its CSV, PNG and `.command` in experiments/figures, or its records in experiments/records/NAME and
its `.command` in experiments/figures; write a section with `{figure NAME: what it shows}` in `results.md`; then run
`python -m experiments.results --redraw`. Tests fail while a text, or a figure with records, is not current.
"""
