"""wsn: with the number of weights fixed, is a wider network better?

The rooms, from the ground up: `spec` (what is trained), `devices` (where), `sparsity` (budgets, masks, families),
`data`, `networks`, `tasks`, `training`, `records`. Each imports from those before it alone.
"""
