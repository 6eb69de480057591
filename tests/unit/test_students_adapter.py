"""LoRA adapters as peft keeps them."""

import warnings
from pathlib import Path

from flywheel.config.training import LoraConfig
from flywheel.students.adapter import add_adapter, load_adapter, save_adapter
from tests.unit.tiny_students import make_model


def test_an_adapter_is_made_and_loaded_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        adapted = add_adapter(make_model(), LoraConfig(adapter_dim=2), "test/base", seed=0)
        save_adapter(adapted, tmp_path, "a card")
        load_adapter(make_model(), tmp_path)
