"""Unit tests see an Airflow of their own, in a folder that goes away, whatever the user has configured."""

import atexit
import os
import shutil
import tempfile

# Airflow reads these when it is imported, which collecting the tests may do.
_home = tempfile.mkdtemp(prefix="flywheel-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ.update(AIRFLOW_HOME=_home, AIRFLOW__CORE__LOAD_EXAMPLES="False")
