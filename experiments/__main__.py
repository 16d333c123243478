"""The list of commands, with data and time of the first command line of each.

python -m experiments
python -m experiments NAME          # its docstring
"""

import sys

from experiments.lab import contents, endings

if __name__ == "__main__":
    with endings.streams():
        code = contents.main(sys.argv[1:])
    sys.exit(code)
