"""The encoder as a student: trained on a data set's own texts, read again from its artifact."""

from __future__ import annotations

import json
from pathlib import Path

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.students.classifiers import Trained, TrainingWork
from flywheel.students.encoder.model import ABOUT, HEAD, Encoder
from flywheel.students.encoder.training import fine_tune
from flywheel.students.loading import count_parameters, prepare_process


def train(work: TrainingWork) -> Trained:
    """Fine-tune an encoder's adapter and head; a killed training goes on from its checkpoint.

    Raises:
        StudentError: the weights are no encoder's, cannot be read, or the training diverged.
        JobError: SIGTERM ended the job after a checkpoint.
    """
    spec, lora = work.spec, work.spec.lora
    classes = sorted(set(work.train.labels))
    encoder = Encoder(spec.student, classes, prepare_process(), len(work.train.texts))
    parameters = encoder.parameters
    encoder.add_adapter(lora, spec.seed)
    trained = count_parameters(encoder.model)[1] + count_parameters(encoder.head)[1]
    outcome = fine_tune(encoder, work)
    state, settings = outcome.state, outcome.settings
    cut = sum(len(row) >= encoder.longest for row in encoder.encode(work.train.texts))
    alpha = lora.alpha if lora.alpha is not None else 2 * lora.adapter_dim
    return Trained(
        save=encoder.save,
        parameters=parameters,
        trainable_parameters=trained,
        steps=state.step,
        steps_run=outcome.steps_run,
        samples=state.samples,
        seconds=state.seconds,
        train_loss=outcome.train_loss,
        val_loss=outcome.val_loss,
        losses=outcome.curve(),
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        stopped_early=state.stopped_early,
        resumed_from_step=outcome.resumed_from_step,
        device=encoder.device,
        base_revision=encoder.revision,
        notes=(f"{cut} training texts are read up to their token {encoder.longest} alone",) if cut else (),
        about={
            "classes": f"{len(classes)}",
            "optimizer steps": f"{state.step} of {settings.steps}",
            "batch size, epochs": f"{spec.training.batch_size}, {settings.epochs}",
            "learning rate": f"{settings.learning_rate:g}, warmup {spec.training.warmup_ratio:g}, cosine",
            "rank, alpha, dropout": f"{lora.adapter_dim}, {alpha:g}, {lora.adapter_dropout:g}",
            "seed": f"{spec.seed}",
        },
        usage=f"""`{ABOUT}` has the classes in the order of the head's outputs.

```python
from peft import AutoPeftModelForFeatureExtraction
from safetensors.torch import load_file
model = AutoPeftModelForFeatureExtraction.from_pretrained("path of this folder")
head = load_file("{HEAD}")  # scores = mean of last_hidden_state over the text's tokens @ weight.T + bias
```""",
    )


def load(student: Student, folder: Path) -> Encoder:
    """Read the adapter and head of an artifact, on the weights of its student.

    Raises:
        StudentError: they do not fit, or cannot be read.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        classes, records = [str(name) for name in about["classes"]], int(about["records"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudentError(f"{folder}: no encoder: {error}") from None
    encoder = Encoder(student, classes, prepare_process(), records)
    encoder.with_adapter(folder)
    return encoder
