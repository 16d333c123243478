"""What experiments there are: a line each, with the time of the quick one.

python -m experiments
python -m experiments NAME          # what it says of itself
"""

import sys

from experiments.lab import contents, endings

if __name__ == "__main__":
    with endings.streams():
        code = contents.main(sys.argv[1:])
    sys.exit(code)
