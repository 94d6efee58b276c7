"""`python -m tf_gpt`: the same as `tf-gpt`."""

import sys

from tf_gpt.cli.main import main

sys.exit(main())
