"""``python -m sparsefx``: the command line."""

import sys

from sparsefx.cli import main

sys.exit(main())
