"""``python -m tests.simulation.cluster``: see ``campaign``."""

import sys

from tests.simulation.cluster.campaign import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
