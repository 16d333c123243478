"""Texts: where they are, the numbers of their characters or words, and streams of windows cut from them."""
