"""Networks: pure functions of parameters, of any width.

In: a spec, the shape of an example, a number of outputs. Out: a `Model`: kernel shapes (what budgets and masks are
drawn for), `init` at unit scale, `apply`. Networks know nothing of masks, tasks or devices.
"""
