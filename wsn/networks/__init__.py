"""Networks of any width, as pure functions of their parameters.

In: a spec, the shape of an example, a number of outputs. Out: a `Model`: kernel shapes (for which budgets and masks are
drawn), `init` at unit scale, `apply`. Networks know nothing of masks, tasks or devices.
"""
