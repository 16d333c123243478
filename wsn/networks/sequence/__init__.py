"""Networks that read sequences: what networks that read tokens share, recurrent cores, the transformer, Deep Speech."""
