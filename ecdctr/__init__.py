"""E-CDCTR as a streaming system: the command line, the configuration, and the packages that they use."""

import os

# Before torch is imported: its threads sleep while they wait for each other instead of spinning. Where other
# processes want the cores too, spinning makes a step several times slower; on idle cores it gains nothing here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
