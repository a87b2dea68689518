"""``python -m fastnas``."""

import sys

from fastnas.cli.main import main

sys.exit(main())
