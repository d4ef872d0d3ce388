"""python -m netfuse_onnx"""

import sys

from netfuse_onnx.cli.main import main

sys.exit(main())
