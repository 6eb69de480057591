"""The DAG files as Airflow is given them: those of the DAGs folder, and one for each experiment.

Airflow reads DAGs by file: one file that cannot be read takes away all DAGs that it made. So each
experiments/NAME.yaml has a file of its own, `experiment_NAME.py`: a link to flywheel.py, which
finds its experiment by its own name. Links are made wherever Airflow looks for DAGs, and at each refresh; a
task's machine makes its own. In airflow.cfg (AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST):

    [dag_processor]
    dag_bundle_config_list = [{"name": "dags-folder",
                               "classpath": "flywheel.orchestration.bundle.ExperimentsBundle", "kwargs": {}}]

The name is that of Airflow's own bundle of the DAGs folder: DAGs that are known already stay where they are.
Without it there is the DAG of config.yaml alone; a link of that name in the DAGs folder does the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle

from flywheel.config.experiments import dag_file_of, experiment_names
from flywheel.config.loading import project_home


class ExperimentsBundle(LocalDagBundle):
    """A folder of links: to each file of the DAGs folder, and to flywheel.py for each experiment.

    Args:
        path: of the DAGs folder; default: `core.dags_folder`.
    """

    def __init__(self, *, path: str | None = None, **arguments: Any) -> None:
        super().__init__(path=path, **arguments)
        self._links = Path(self.base_dir) / "links"

    @property
    def path(self) -> Path:
        """The folder of links; they are made first where nobody has yet."""
        if not self._links.is_dir():
            self.refresh()
        return self._links

    def initialize(self) -> None:
        """Make the links as they have to be now."""
        self.refresh()
        super().initialize()

    def refresh(self) -> None:
        """Make the links of new experiments, and remove those of others. Safe beside itself."""
        self._links.mkdir(parents=True, exist_ok=True)
        wanted = {
            entry.name: entry
            for entry in self._path.iterdir()
            if entry.name == ".airflowignore" or not entry.name.startswith((".", "__"))
        }
        shared = self._path / dag_file_of("")
        wanted |= {dag_file_of(name): shared for name in experiment_names(project_home())}
        for name, target in wanted.items():
            _link(self._links / name, target)
        for entry in self._links.iterdir():
            if entry.is_symlink() and entry.name not in wanted:
                entry.unlink(missing_ok=True)


def _link(link: Path, target: Path) -> None:
    """Make a link, or have one lead elsewhere, in one step."""
    try:
        if os.readlink(link) == str(target):
            return
    except OSError:
        pass  # not there, or no link
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    os.replace(aside, link)
