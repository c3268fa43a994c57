"""`python -m tradewind.cli`."""

import sys

from tradewind.cli.main import main

sys.exit(main())
