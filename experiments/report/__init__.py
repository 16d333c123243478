"""The results page: a folder of any depth with the files of experiments → one HTML file that needs no other."""
