"""Labelled histories: texts of the operator's sources with the labels of a client's champions."""

from __future__ import annotations

from collections.abc import Iterable

from flywheel.annotation.manifest import seal_path
from flywheel.forgetting.base import Place, Removable, Whose, place

_WORK = "annotations/work"


@place(57)
class Histories(Place):
    """What `flywheel annotate` has made."""

    name = "histories"
    keeps = "annotations/: the sources' texts with the labels of his champions; outputs elsewhere are named"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the works whose champions are the client's, with their outputs."""
        items = []
        for path, plan in self._plans():
            if whose.has(plan["workload_id"], plan["client_id"]):
                files = [
                    *self.house.files(path),
                    *(self.house.files(out) if (out := self._inside(plan)) else []),
                ]
                items.append(Removable(self.name, path, len(files), sum(file.bytes for file in files)))
        return items

    def remarks(self, whose: Whose) -> list[str]:
        """Name the outputs outside the artifact root."""
        return [
            f"{plan['out']} stays: it is outside the artifact root; remove it yourself"
            for _, plan in self._plans()
            if whose.has(plan["workload_id"], plan["client_id"]) and not self._inside(plan)
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove works with their outputs: these first, as the plan names them."""
        root = self.house.root
        for path in ids:
            if not root.exists(f"{path}/plan.json"):
                continue
            plan = root.read_json(f"{path}/plan.json")
            if out := self._inside(plan):
                root.remove_tree(out)
            root.discard(seal_path(plan["out"]))
            root.remove_tree(path)

    def _plans(self) -> list[tuple[str, dict[str, str]]]:
        root = self.house.root
        paths = [f"{_WORK}/{name}" for name in root.list(_WORK)]
        return [
            (path, root.read_json(f"{path}/plan.json")) for path in paths if root.exists(f"{path}/plan.json")
        ]

    def _inside(self, plan: dict[str, str]) -> str:
        """Return an output's path in the artifact root; empty where it is elsewhere."""
        begin = f"{self.house.root.url}/annotations/"
        return plan["out"].removeprefix(f"{self.house.root.url}/") if plan["out"].startswith(begin) else ""
