"""wsn: with the number of weights fixed, is a wider network better?"""
