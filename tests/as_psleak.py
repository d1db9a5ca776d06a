"""A pytest plugin: whoever imports psleak gets the drop-in."""

import sys

import leaktight.psleak

sys.modules["psleak"] = leaktight.psleak
