"""Utterances: sound and its features, data sets of recordings, and padded batches with transcripts."""
