"""No GPU here: Triton's kernels run in its interpreter, which must be asked for before any test imports one."""

import os

os.environ["TRITON_INTERPRET"] = "1"
