"""`python -m nvg_model.cli`: the console script `nvg`."""

import sys

from nvg_model.cli import main

sys.exit(main())
