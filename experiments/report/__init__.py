"""The results page: find → read → section → chart → page.

In: a folder of any depth with what experiments wrote. Out: one HTML file that needs nothing beside it.
"""
